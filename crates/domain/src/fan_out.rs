//! Which endpoints a message goes to.

use crate::endpoint::Endpoint;
use crate::names::EventType;

/// Whether `endpoint` takes messages of `event_type`: it exists, and its patterns select the type (none select all).
///
/// A disabled endpoint takes them too: their deliveries end as `failed(endpoint_disabled)` and can be replayed.
pub fn subscribes(endpoint: &Endpoint, event_type: &EventType) -> bool {
    endpoint.deleted_at.is_none()
        && (endpoint.settings.event_types.is_empty()
            || endpoint
                .settings
                .event_types
                .iter()
                .any(|pattern| pattern.matches(event_type)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::{DisabledReason, tests::endpoint};

    fn subscribed(patterns: &[&str], event_type: &str) -> bool {
        let mut endpoint = endpoint();
        endpoint.settings.event_types = patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
        subscribes(&endpoint, &event_type.parse().unwrap())
    }

    #[test]
    fn any_pattern_selects_and_none_selects_all() {
        for (patterns, event_type, expected) in [
            (&[][..], "budget.exceeded", true),
            (&["*"], "budget.exceeded", true),
            (&["budget.exceeded"], "budget.exceeded", true),
            (&["budget.exceeded"], "budget.threshold_reached", false),
            (&["budget.*"], "budget.threshold_reached", true),
            (&["budget.*"], "api_key.revoked", false),
            (&["api_key.revoked", "budget.*"], "budget.exceeded", true),
            (&["api_key.revoked", "budget.*"], "api_key.created", false),
        ] {
            assert_eq!(
                subscribed(patterns, event_type),
                expected,
                "{patterns:?} on {event_type}"
            );
        }
    }

    #[test]
    fn disabled_endpoints_take_messages_and_deleted_ones_do_not() {
        let event_type = "budget.exceeded".parse().unwrap();
        let mut endpoint = endpoint();
        endpoint.disabled_reason = Some(DisabledReason::Manual);
        assert!(subscribes(&endpoint, &event_type));
        endpoint.deleted_at = Some(endpoint.created_at);
        assert!(!subscribes(&endpoint, &event_type));
    }
}
