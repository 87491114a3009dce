//! Subjects that endpoints of kind `nats` publish on: `<prefix>.<project>.<rest>`, so that a project reaches no other's and
//! none of the service's own.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::names::ProjectId;

/// Longest subject, in bytes.
const SUBJECT_BYTES: usize = 255;
/// What the log and the ingest of events use. A prefix lies neither below nor above one of these.
const RESERVED: [&str; 2] = ["webhooks", "cuitty.events"];
/// The scheme of a NATS endpoint's URL.
const SCHEME: &str = "nats:";
/// The token before the last of the subject of an endpoint that lives as long as its listener.
const LISTEN: &str = "listen";

/// What all notification subjects begin with: dot-separated tokens of letters, digits, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectPrefix(Arc<str>);

/// A text is no prefix for notification subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrefix {
    /// It has other characters, is empty, or is too long for subjects below it.
    #[error("must be 1 to 128 letters, digits, `_`, `-` and single dots between them")]
    Malformed,
    /// Subjects below it would be the service's own, or NATS's.
    #[error("must not overlap with webhooks, cuitty.events or a name that begins with `_`")]
    Reserved,
}

/// Where an endpoint of kind `nats` publishes. Displays as its URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsAddress {
    /// The subject.
    pub subject: String,
    /// Whether somebody has to answer: the stream that stores it, or a subscriber.
    pub wants_reply: bool,
}

/// A URL is no address for notifications. Displays as the end of a sentence: `url must …`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectRefused {
    /// Not of the form of a NATS endpoint's URL.
    #[error("must be nats:<subject> or nats:<subject>?reply")]
    Form,
    /// A wildcard, a blank or another character that a subject may not have here, or an empty token.
    #[error(
        "must name a subject of at most {SUBJECT_BYTES} bytes: letters, digits, `_`, `-` and single dots between them"
    )]
    Malformed,
    /// Somebody else's subject.
    #[error("must name a subject below {0}")]
    Foreign(String),
}

impl SubjectPrefix {
    /// Checks the URL of an endpoint of `project`.
    pub fn vet(&self, url: &str, project: &ProjectId) -> Result<NatsAddress, SubjectRefused> {
        let rest = url.strip_prefix(SCHEME).ok_or(SubjectRefused::Form)?;
        let (subject, wants_reply) = match rest.split_once('?') {
            None => (rest, false),
            Some((subject, "reply")) => (subject, true),
            Some(_) => return Err(SubjectRefused::Form),
        };
        if subject.len() > SUBJECT_BYTES || !is_subject(subject) {
            return Err(SubjectRefused::Malformed);
        }
        // With its dot at the end: project `acme` has nothing below `acme2`.
        let own = format!("{self}.{project}.");
        if !subject.starts_with(&own) {
            return Err(SubjectRefused::Foreign(own));
        }
        Ok(NatsAddress {
            subject: subject.to_owned(),
            wants_reply,
        })
    }
}

/// The subject of an endpoint of `project` that lives as long as its listener, by a random number.
pub fn listener_subject(prefix: &SubjectPrefix, project: &ProjectId, name: u128) -> String {
    format!("{prefix}.{project}.{LISTEN}.{name:032x}")
}

/// Whether a URL is that of an endpoint that lives as long as its listener, so that when nobody listens there, nobody will.
pub(crate) fn is_listeners(url: &str) -> bool {
    let name = url
        .strip_prefix(SCHEME)
        .and_then(|rest| rest.strip_suffix("?reply"))
        .and_then(|subject| subject.rsplit_once('.'))
        .filter(|(above, _)| above.rsplit('.').next() == Some(LISTEN));
    name.is_some_and(|(_, name)| {
        name.len() == 32
            && name
                .bytes()
                .all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
    })
}

/// Whether a URL names a NATS subject, well or not.
pub(crate) fn is_nats(url: &str) -> bool {
    url.starts_with(SCHEME)
}

fn is_subject(text: &str) -> bool {
    let is_token_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    text.split('.')
        .all(|token| !token.is_empty() && token.bytes().all(is_token_byte))
}

/// Whether `subject` is `root` or lies below it.
fn is_within(subject: &str, root: &str) -> bool {
    subject
        .strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Default for SubjectPrefix {
    fn default() -> Self {
        Self("cuitty.notifications".into())
    }
}

impl FromStr for SubjectPrefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        if text.len() > 128 || !is_subject(text) {
            return Err(InvalidPrefix::Malformed);
        }
        let overlaps = |root: &str| is_within(text, root) || is_within(root, text);
        if text.starts_with('_') || RESERVED.into_iter().any(overlaps) {
            return Err(InvalidPrefix::Reserved);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for SubjectPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NatsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reply = if self.wants_reply { "?reply" } else { "" };
        write!(f, "{SCHEME}{}{reply}", self.subject)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vet(url: &str) -> Result<NatsAddress, SubjectRefused> {
        SubjectPrefix::default().vet(url, &"acme".parse().unwrap())
    }

    #[test]
    fn an_address_is_a_subject_of_the_project_below_the_prefix() {
        let address = |subject: &str, wants_reply| NatsAddress {
            subject: subject.into(),
            wants_reply,
        };
        for (url, expected) in [
            (
                "nats:cuitty.notifications.acme.billing",
                address("cuitty.notifications.acme.billing", false),
            ),
            (
                "nats:cuitty.notifications.acme.a.B-2_c?reply",
                address("cuitty.notifications.acme.a.B-2_c", true),
            ),
        ] {
            assert_eq!(vet(url), Ok(expected.clone()));
            assert_eq!(expected.to_string(), url);
        }
        let longest = format!("nats:cuitty.notifications.acme.{}", "x".repeat(255 - 26));
        assert!(vet(&longest).is_ok());
        assert_eq!(vet(&format!("{longest}x")), Err(SubjectRefused::Malformed));
    }

    #[test]
    fn nobody_elses_subject_is_an_address() {
        for subject in [
            "cuitty.notifications.other.billing",
            "cuitty.notifications.acme2.billing",
            "cuitty.notifications.acme",
            "cuitty.notifications",
            "cuitty.events.acme.budget",
            "webhooks.work.0.acme",
            "_INBOX.acme.x",
            "acme.x",
        ] {
            let refused = SubjectRefused::Foreign("cuitty.notifications.acme.".into());
            assert_eq!(vet(&format!("nats:{subject}")), Err(refused), "{subject}");
        }
        for subject in [
            "",
            ".",
            "cuitty.notifications.acme.",
            "cuitty.notifications.acme..x",
            "cuitty.notifications.acme.*",
            "cuitty.notifications.acme.>",
            "cuitty.notifications.acme.a b",
            "cuitty.notifications.acme.a\r\nPUB x",
            "$JS.API.STREAM.DELETE.WEBHOOKS",
            "cuitty.notifications.acme.\u{e9}",
            "//cuitty.notifications.acme.x",
        ] {
            let refused = Err(SubjectRefused::Malformed);
            assert_eq!(vet(&format!("nats:{subject}")), refused, "{subject:?}");
        }
        for url in [
            "",
            "cuitty.notifications.acme.x",
            "NATS:cuitty.notifications.acme.x",
            "nats:cuitty.notifications.acme.x?",
            "nats:cuitty.notifications.acme.x?reply=1",
            "https://example.com/",
        ] {
            assert_eq!(vet(url), Err(SubjectRefused::Form), "{url}");
        }
    }

    #[test]
    fn the_subjects_of_listeners_are_known_again() {
        let project: ProjectId = "acme".parse().unwrap();
        for name in [0, 7, u128::MAX] {
            let subject = listener_subject(&SubjectPrefix::default(), &project, name);
            let url = format!("nats:{subject}?reply");
            assert!(vet(&url).is_ok() && is_listeners(&url), "{url}");
            for other in [
                format!("nats:{subject}"),
                format!("nats:{subject}0?reply"),
                format!("nats:{subject}.x?reply"),
                url.replace(".listen.", ".listens."),
                url.replace(".acme.listen.", ".acme."),
            ] {
                assert!(!is_listeners(&other), "{other}");
            }
        }
    }

    #[test]
    fn a_prefix_is_a_subject_of_its_own() {
        for good in [
            "cuitty.notifications",
            "n",
            "acme-events.out",
            "webhooks2",
            "cuitty.eventsx",
        ] {
            assert_eq!(good.parse::<SubjectPrefix>().unwrap().to_string(), good);
        }
        let longest = "p".repeat(128);
        assert!(longest.parse::<SubjectPrefix>().is_ok());
        for bad in [
            "",
            "a.",
            ".a",
            "a..b",
            "a.*",
            ">",
            "a b",
            "$JS.API",
            &format!("{longest}p"),
        ] {
            assert_eq!(
                bad.parse::<SubjectPrefix>(),
                Err(InvalidPrefix::Malformed),
                "{bad}"
            );
        }
        // Below `cuitty`, project `events` would speak as any other.
        for bad in [
            "webhooks",
            "webhooks.out",
            "cuitty",
            "cuitty.events",
            "cuitty.events.acme",
            "_INBOX",
            "_x.y",
        ] {
            assert_eq!(
                bad.parse::<SubjectPrefix>(),
                Err(InvalidPrefix::Reserved),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_passes_is_below_the_projects_own(
            prefix in "(cuitty|webhooks|events|n)(\\.(events|a|_b)){0,2}",
            project in "[a-z_-]{1,6}|events|work",
            url in "nats:(cuitty|webhooks|events|n|\\*|>|a){1}(\\.(events|a|_b|work|acme|>|\\*| )){0,5}(\\?reply)?",
        ) {
            let Ok(prefix) = prefix.parse::<SubjectPrefix>() else { return Ok(()) };
            let project: ProjectId = project.parse().unwrap();
            if let Ok(address) = prefix.vet(&url, &project) {
                let own = format!("{prefix}.{project}.");
                prop_assert!(address.subject.starts_with(&own) && address.subject.len() > own.len());
                prop_assert!(!address.subject.contains(['*', '>', ' ', '$']));
                prop_assert!(!RESERVED.into_iter().any(|root| is_within(&address.subject, root)));
                prop_assert_eq!(address.to_string(), url);
            }
        }
    }
}
