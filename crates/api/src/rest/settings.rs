//! An endpoint's settings as a body gives them.

use cuitty_webhooks_domain::endpoint::{EndpointDraft, EndpointKind, SETTING_FIELDS};
use std::collections::BTreeMap;
use utoipa::ToSchema;

use super::body::{Members, Pairs};
use super::model::Scheme;
use crate::app::{EndpointUpdate, NewEndpoint};
use crate::error::AppError;

/// What an endpoint shows but nobody sets by a PATCH.
const FIXED: [&str; 11] = [
    "id",
    "project_id",
    "disabled_reason",
    "signature_scheme",
    "signing_secret",
    "secrets",
    "created_at",
    "updated_at",
    "revision",
    "health",
    "blocked_by",
];

/// A new endpoint. What is left out or null has its default. Names may be given in `camelCase` too.
#[derive(ToSchema)]
#[schema(as = NewEndpoint)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what is read member by member")]
pub(super) struct NewEndpointBody {
    /// May be left out with a key that is bound to one project.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "acme")]
    project_id: Option<String>,
    /// What carries the messages. Left out, the URL tells it: `nats` of `nats:`, `slack` of hooks.slack.com, else `http`.
    kind: Option<Kind>,
    /// http or https, without userinfo, to a host that may be called; or `nats:` and a subject.
    #[schema(max_length = 2048)]
    url: String,
    /// Exact names, `budget.*`, or `*`; empty means all.
    #[schema(max_items = 128)]
    event_types: Option<Vec<EventTypePattern>>,
    /// For people.
    #[schema(max_length = 1024)]
    description: Option<String>,
    /// Added to every request.
    headers: Option<BTreeMap<String, String>>,
    /// Header for the plain hex HMAC-SHA256 of the body.
    #[schema(max_length = 128)]
    signature_header: Option<String>,
    /// Of one attempt, the answer's body included.
    #[schema(minimum = 1000, maximum = 60_000, default = 15_000)]
    timeout_ms: Option<u32>,
    /// Attempts at the same time.
    #[schema(minimum = 1, maximum = 256, default = 64)]
    max_in_flight: Option<u32>,
    /// 0 means unlimited.
    #[schema(minimum = 0, maximum = 10_000, default = 0)]
    rate_limit_per_second: Option<u32>,
    /// Deliver strictly in the order of acceptance, one at a time.
    ordered: Option<bool>,
    /// Delays before the 2nd, 3rd, … attempt; empty means the default schedule.
    retry_schedule_seconds: Option<Vec<u32>>,
    /// Wrap the payload as `{"type","timestamp","data"}`.
    envelope: Option<bool>,
    /// A secret to import: `whsec_` and the base64 of 24 to 64 bytes, or `whsk_` and that of an ed25519 seed of 32 bytes,
    /// which its public key may follow. Left out, one is made.
    signing_secret: Option<String>,
    /// Left out, it is what an imported secret is, else `hmac-sha256`.
    signature_scheme: Option<Scheme>,
}

/// What shall change. What is left out stays as it is; null means the default. Names may be given in `camelCase` too.
#[derive(ToSchema)]
#[schema(as = EndpointPatch)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what is read member by member")]
pub(super) struct EndpointPatchBody {
    /// What carries the messages. Another URL does not change it; null means that the URL tells it.
    kind: Option<Kind>,
    /// http or https, without userinfo, to a host that may be called; or `nats:` and a subject.
    #[schema(nullable = false, max_length = 2048)]
    url: Option<String>,
    /// Exact names, `budget.*`, or `*`; empty means all.
    #[schema(max_items = 128)]
    event_types: Option<Vec<EventTypePattern>>,
    /// For people.
    #[schema(max_length = 1024)]
    description: Option<String>,
    /// Whether deliveries are attempted. What is delivered to an endpoint that is not active fails, and can be replayed.
    active: Option<bool>,
    /// Added to every request.
    headers: Option<BTreeMap<String, String>>,
    /// Header for the plain hex HMAC-SHA256 of the body.
    #[schema(max_length = 128)]
    signature_header: Option<String>,
    /// Of one attempt, the answer's body included.
    #[schema(minimum = 1000, maximum = 60_000)]
    timeout_ms: Option<u32>,
    /// Attempts at the same time.
    #[schema(minimum = 1, maximum = 256)]
    max_in_flight: Option<u32>,
    /// 0 means unlimited.
    #[schema(minimum = 0, maximum = 10_000)]
    rate_limit_per_second: Option<u32>,
    /// Deliver strictly in the order of acceptance, one at a time.
    ordered: Option<bool>,
    /// Delays before the 2nd, 3rd, … attempt; empty means the default schedule.
    retry_schedule_seconds: Option<Vec<u32>>,
    /// Wrap the payload as `{"type","timestamp","data"}`.
    envelope: Option<bool>,
}

/// An event type, an event type's prefix and `.*`, or `*`.
#[derive(ToSchema)]
#[schema(
    pattern = r"^(\*|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?)$",
    max_length = 128,
    example = "budget.*"
)]
#[expect(dead_code, reason = "describes what is read as text")]
struct EventTypePattern(String);

/// What carries the messages.
#[derive(ToSchema)]
#[schema(as = EndpointKind, rename_all = "snake_case")]
#[expect(dead_code, reason = "describes what is read by its name")]
enum Kind {
    Http,
    Slack,
    Nats,
}

/// The endpoint that a body asks for.
pub(crate) fn read_new(body: &[u8]) -> Result<NewEndpoint, AppError> {
    let mut members = Members::parse(body)?;
    let project_id = members.name("project_id");
    members.demand("url");
    let draft = read_settings(&mut members);
    Ok(NewEndpoint {
        project_id,
        draft,
        signing_secret: members.text("signing_secret"),
        signature_scheme: members
            .value::<Scheme>("signature_scheme", "`hmac-sha256` or `ed25519`")
            .map(Into::into),
        faults: members.faults(),
    })
}

/// The change that a body asks for: of the members that it has.
pub(crate) fn read_patch(body: &[u8]) -> Result<EndpointUpdate, AppError> {
    let mut members = Members::parse(body)?;
    let fields = ["active"].into_iter().chain(SETTING_FIELDS);
    let fields = fields
        .filter(|name| members.has(name))
        .map(str::to_owned)
        .collect();
    let draft = read_settings(&mut members);
    let active = members.value("active", "true or false").unwrap_or(true);
    members.fixed(&FIXED);
    Ok(EndpointUpdate {
        draft,
        active,
        fields,
        may_be_empty: true,
        expected_revision: None,
        faults: members.faults(),
    })
}

/// `None` when it is left out or null.
fn read_kind(members: &mut Members<'_>) -> Option<EndpointKind> {
    let name = members.value::<String>("kind", "a string")?;
    let named = EndpointKind::ALL.into_iter().find(|kind| kind.as_str() == name);
    if named.is_none() {
        members.violate("kind", "must be `http`, `slack` or `nats`");
    }
    named
}

/// The settings that are given; the others are as in a new endpoint.
fn read_settings(members: &mut Members<'_>) -> EndpointDraft {
    const NUMBER: &str = "a whole number";
    const FLAG: &str = "true or false";
    let default = EndpointDraft::default();
    let Pairs(headers) = members
        .value("headers", "an object of strings")
        .unwrap_or_default();
    EndpointDraft {
        kind: read_kind(members),
        url: members.text("url"),
        event_types: members
            .value("event_types", "a list of strings")
            .unwrap_or(default.event_types),
        description: members.text("description"),
        headers,
        signature_header: members.text("signature_header"),
        timeout_ms: members.value("timeout_ms", NUMBER).unwrap_or(default.timeout_ms),
        max_in_flight: members
            .value("max_in_flight", NUMBER)
            .unwrap_or(default.max_in_flight),
        rate_limit_per_second: members
            .value("rate_limit_per_second", NUMBER)
            .unwrap_or(default.rate_limit_per_second),
        ordered: members.value("ordered", FLAG).unwrap_or(default.ordered),
        retry_schedule_seconds: members
            .value("retry_schedule_seconds", "a list of whole numbers")
            .unwrap_or(default.retry_schedule_seconds),
        envelope: members.value("envelope", FLAG).unwrap_or(default.envelope),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(faults: &[cuitty_webhooks_domain::rejection::FieldViolation]) -> Vec<&str> {
        faults.iter().map(|fault| fault.field.as_str()).collect()
    }

    #[test]
    fn a_patch_names_what_it_has_and_null_means_the_default() {
        let body = br#"{"timeoutMs":2000,"event_types":null,"active":null,"headers":{"x-a":"1"}}"#;
        let update = read_patch(body).unwrap();
        assert_eq!(update.fields, ["active", "event_types", "headers", "timeout_ms"]);
        assert_eq!((update.draft.timeout_ms, update.active), (2000, true));
        assert!(update.draft.event_types.is_empty());
        assert_eq!(update.draft.headers, [("x-a".to_owned(), "1".to_owned())]);
        assert_eq!(update.faults, []);
        assert_eq!(read_patch(b"{}").unwrap().fields, Vec::<String>::new());
    }

    #[test]
    fn every_setting_can_be_patched() {
        let members: Vec<_> = SETTING_FIELDS
            .iter()
            .map(|name| format!("\"{name}\":null"))
            .collect();
        let update = read_patch(format!("{{{}}}", members.join(",")).as_bytes()).unwrap();
        assert_eq!(update.fields, SETTING_FIELDS);
        assert_eq!(
            (update.draft, update.faults),
            (EndpointDraft::default(), Vec::new())
        );
    }

    #[test]
    fn everything_that_cannot_be_read_is_named() {
        let body =
            br#"{"url":7,"timeout_ms":-1,"kind":"ftp","headers":{"a":1},"ordered":"yes","activ":true}"#;
        let new = read_new(body).unwrap();
        assert_eq!(
            fields(&new.faults),
            ["headers", "kind", "url", "timeout_ms", "ordered", "activ"]
        );
        assert_eq!(fields(&read_new(b"{}").unwrap().faults), ["url"]);
        let patch = read_patch(br#"{"id":"ep_x","secrets":[],"active":1,"signing_secret":"x"}"#).unwrap();
        assert_eq!(
            fields(&patch.faults),
            ["active", "id", "signing_secret", "secrets"]
        );
        assert_eq!(read_new(b"[]").unwrap_err().code(), "malformed_body");
    }
}
