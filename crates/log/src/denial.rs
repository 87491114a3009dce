//! What nats-server does not let this process do: told apart, told once, and remembered for whoever waits for an answer.
//!
//! nats-server drops what a user may not publish, and says so beside the connection's other traffic; the publisher itself
//! just gets no answer.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tracing::error;

use crate::metrics::names;

/// What such a message of nats-server begins with; what was tried and the subject in double quotes follow.
const VIOLATION: &str = "permissions violation for ";
/// Subjects that are remembered. Those of one kind count once.
const REMEMBERED: usize = 256;

/// What was denied on this connection.
#[derive(Debug, Default)]
pub(crate) struct Denials(Mutex<BTreeSet<String>>);

/// What nats-server says that it did not let us do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Denial<'a> {
    /// Whether it was to publish; else it was to subscribe.
    publishes: bool,
    subject: &'a str,
}

impl Denials {
    /// Takes in what nats-server reported; whether it was a denial.
    pub(crate) fn heed(&self, reported: &str) -> bool {
        let Some(Denial { publishes, subject }) = parse(reported) else {
            return false;
        };
        let operation = if publishes { "publish" } else { "subscribe" };
        metrics::counter!(names::DENIED, "operation" => operation).increment(1);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < REMEMBERED && known.insert(kind(subject)) {
            error!(
                subject,
                operation,
                "permission denied: nats-server does not let this user {operation} on this subject; what needs it fails \
                 until the user's permissions are mended (said once for subjects of this kind)"
            );
        }
        true
    }

    /// Why there is no answer to what was published on `subject`.
    pub(crate) fn why(&self, subject: &str, otherwise: &str) -> String {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(&kind(subject)) {
            format!("{otherwise}: permission denied for subject {subject}")
        } else {
            otherwise.to_owned()
        }
    }
}

fn parse(reported: &str) -> Option<Denial<'_>> {
    let head = reported.get(..VIOLATION.len())?;
    let rest = reported.get(VIOLATION.len()..)?;
    if !head.eq_ignore_ascii_case(VIOLATION) {
        return None;
    }
    let (tried, quoted) = rest.split_once('"')?;
    let subject = quoted.split('"').next()?;
    Some(Denial {
        publishes: tried.to_ascii_lowercase().starts_with("publish"),
        subject,
    })
}

/// What the subject has in common with others of its kind: its first tokens, without ids.
fn kind(subject: &str) -> String {
    let tokens = if subject.starts_with("$JS.") { 5 } else { 2 };
    subject.split('.').take(tokens).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_are_read_from_what_nats_server_says() {
        let denied = |publishes, subject| Some(Denial { publishes, subject });
        for (text, expected) in [
            (
                r#"Permissions Violation for Publish to "webhooks.endpoint.acme.ep_1""#,
                denied(true, "webhooks.endpoint.acme.ep_1"),
            ),
            (
                r#"Permissions Violation for Publish with Reply of "_INBOX.other""#,
                denied(true, "_INBOX.other"),
            ),
            (
                r#"permissions violation for subscription to "cuitty.events.>" using queue "q""#,
                denied(false, "cuitty.events.>"),
            ),
            ("Stale Connection", None),
            ("Permissions Violation for", None),
            ("ä", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn who_waits_for_an_answer_is_told_why_none_comes() {
        let denials = Denials::default();
        assert_eq!(
            denials.why("webhooks.endpoint.acme.ep_2", "no answer"),
            "no answer"
        );
        assert!(denials.heed(r#"Permissions Violation for Publish to "webhooks.endpoint.acme.ep_1""#));
        assert_eq!(
            denials.why("webhooks.endpoint.acme.ep_2", "no answer"),
            "no answer: permission denied for subject webhooks.endpoint.acme.ep_2"
        );
        assert_eq!(
            denials.why("webhooks.work.0.acme.ep_2.requested", "no answer"),
            "no answer"
        );
        assert!(!denials.heed("Stale Connection"));
    }
}
