//! The tools: what each is called, does to the world, and tells an agent of itself.

use futures_util::future::BoxFuture;
use rmcp::model::{Tool, ToolAnnotations};

use super::calls::{self, Call, Output};
use super::schema::Contract;
use crate::error::AppError;

/// A tool.
pub(super) struct Offer {
    pub(super) name: &'static str,
    title: &'static str,
    description: &'static str,
    /// The operation of REST that does the same, by its id: the source of both schemas.
    operation: &'static str,
    effect: Effect,
    pub(super) call: for<'a> fn(Call<'a>) -> BoxFuture<'a, Result<Output, AppError>>,
}

/// What a call does, for clients that ask a person first.
enum Effect {
    /// Changes nothing.
    Reads,
    /// Adds something; again, it adds one more.
    Adds,
    /// Adds something, and calls somebody else's server.
    Sends,
    /// Replaces or takes away; again, it changes nothing more.
    Settles,
    /// Replaces or takes away, each time anew.
    Replaces,
}

impl Effect {
    fn annotations(&self) -> ToolAnnotations {
        ToolAnnotations::new()
            .read_only(matches!(self, Self::Reads))
            .destructive(matches!(self, Self::Settles | Self::Replaces))
            .idempotent(matches!(self, Self::Reads | Self::Settles))
            .open_world(matches!(self, Self::Sends))
    }
}

pub(super) static TOOLS: [Offer; 11] = [
    Offer {
        name: "list_webhook_endpoints",
        title: "List webhook endpoints",
        description: "Lists a project's webhook endpoints, newest first: where events are sent, which ones, and how \
                      each endpoint fares (`health`). Pass `next_cursor` as `cursor` for the next page. Scope: read.",
        operation: "list_endpoints",
        effect: Effect::Reads,
        call: |call| Box::pin(calls::list_endpoints(call)),
    },
    Offer {
        name: "get_webhook_endpoint",
        title: "Get a webhook endpoint",
        description: "Shows one endpoint: its settings, why it is disabled if it is, and its health. Scope: read.",
        operation: "get_endpoint",
        effect: Effect::Reads,
        call: |call| Box::pin(calls::get_endpoint(call)),
    },
    Offer {
        name: "create_webhook_endpoint",
        title: "Create a webhook endpoint",
        description: "Creates an endpoint that gets the project's events from now on, all of them unless `event_types` \
                      names some. The answer shows `signing_secret`, which the receiver verifies signatures with; it is \
                      shown only here. With an `idempotency_key`, calling again makes no second endpoint. Scope: manage.",
        operation: "create_endpoint",
        effect: Effect::Adds,
        call: |call| Box::pin(calls::create_endpoint(call)),
    },
    Offer {
        name: "update_webhook_endpoint",
        title: "Change a webhook endpoint",
        description: "Changes the settings that are given; null sets one back to its default, what is left out stays. \
                      `active: true` enables an endpoint that was disabled, `active: false` disables it: its events fail \
                      from then on, and can be replayed. Pass `revision` to change only what you have read. Scope: manage.",
        operation: "update_endpoint",
        effect: Effect::Settles,
        call: |call| Box::pin(calls::update_endpoint(call)),
    },
    Offer {
        name: "delete_webhook_endpoint",
        title: "Delete a webhook endpoint",
        description: "Deletes an endpoint for good: it gets no new events, while what was accepted before is still \
                      delivered. To pause one, set `active` to false with update_webhook_endpoint. Scope: manage.",
        operation: "delete_endpoint",
        effect: Effect::Settles,
        call: |call| Box::pin(calls::delete_endpoint(call)),
    },
    Offer {
        name: "rotate_webhook_secret",
        title: "Rotate a signing secret",
        description: "Makes a new signing secret current and shows it, only here. The previous one keeps signing beside \
                      it until `previous_expires_at`, so that the receiver can change over. Scope: manage.",
        operation: "rotate_secret",
        effect: Effect::Replaces,
        call: |call| Box::pin(calls::rotate_secret(call)),
    },
    Offer {
        name: "send_webhook_test",
        title: "Send a test event",
        description: "Sends a synthetic event to one endpoint, whatever its event types, and answers with the pending \
                      delivery; get_webhook_delivery shows what became of it. Refused while the endpoint is disabled. \
                      Scope: manage.",
        operation: "send_test_event",
        effect: Effect::Sends,
        call: |call| Box::pin(calls::send_test(call)),
    },
    Offer {
        name: "list_webhook_deliveries",
        title: "List deliveries",
        description: "Lists deliveries, newest first: one for each event and endpoint, with its status, the number of \
                      attempts and the last response status. Narrow it by endpoint, status, event type and time. Pass \
                      `next_cursor` as `cursor` for the next page. Scope: read.",
        operation: "list_deliveries",
        effect: Effect::Reads,
        call: |call| Box::pin(calls::list_deliveries(call)),
    },
    Offer {
        name: "get_webhook_delivery",
        title: "Get a delivery",
        description: "Shows one delivery with its payload and every attempt: what was sent, what the receiver answered, \
                      what went wrong and how long each part took. Scope: read.",
        operation: "get_delivery",
        effect: Effect::Reads,
        call: |call| Box::pin(calls::get_delivery(call)),
    },
    Offer {
        name: "replay_webhook_delivery",
        title: "Replay a delivery",
        description: "Sends a delivery that has ended once more, as a new delivery with the same payload and \
                      `webhook-id`, and answers with the new one. Receivers that keep ids will know it. Scope: manage.",
        operation: "replay_delivery",
        effect: Effect::Sends,
        call: |call| Box::pin(calls::replay_delivery(call)),
    },
    Offer {
        name: "list_webhook_event_types",
        title: "List event types",
        description: "Lists the event types that a project has described, with their JSON Schemas and examples, in order \
                      of their names. Events of other types may be sent all the same, unless the project refuses them. \
                      Scope: read.",
        operation: "list_event_types",
        effect: Effect::Reads,
        call: |call| Box::pin(calls::list_event_types(call)),
    },
];

/// The tools as clients are told of them.
pub(super) fn described() -> Vec<Tool> {
    let contract = Contract::of_rest();
    let describe = |offer: &Offer| {
        Tool::new(offer.name, offer.description, contract.input(offer.operation))
            .with_title(offer.title)
            .with_raw_output_schema(contract.output(offer.operation).into())
            .with_annotations(offer.effect.annotations())
    };
    TOOLS.iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Everything that `$ref` names.
    fn references<'a>(schema: &'a Value, found: &mut Vec<&'a str>) {
        match schema {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_schema_is_of_an_object_and_holds_what_it_refers_to() {
        for tool in described() {
            for schema in [&tool.input_schema, &tool.output_schema.unwrap()] {
                let schema = Value::Object(schema.as_ref().clone());
                assert_eq!(schema["type"], "object", "{}", tool.name);
                let mut found = Vec::new();
                references(&schema, &mut found);
                for reference in found {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(schema.pointer(pointer).is_some(), "{}: {reference}", tool.name);
                }
            }
            assert_eq!(tool.input_schema["additionalProperties"], false, "{}", tool.name);
        }
    }

    #[test]
    fn arguments_are_those_of_path_query_body_and_headers() {
        let tools = described();
        let arguments = |name: &str| {
            let tool = tools.iter().find(|tool| tool.name == name).unwrap();
            let schema = Value::Object(tool.input_schema.as_ref().clone());
            let properties = schema["properties"].as_object().unwrap();
            let mut names: Vec<_> = properties.keys().cloned().collect();
            names.sort_unstable();
            (names.join(" "), schema["required"].clone())
        };
        assert_eq!(
            arguments("rotate_webhook_secret"),
            (
                "endpoint_id idempotency_key overlap_seconds revision signature_scheme signing_secret"
                    .to_owned(),
                serde_json::json!(["endpoint_id"])
            )
        );
        assert_eq!(
            arguments("send_webhook_test"),
            (
                "endpoint_id event_type idempotency_key".to_owned(),
                serde_json::json!(["endpoint_id", "event_type"])
            )
        );
    }
}
