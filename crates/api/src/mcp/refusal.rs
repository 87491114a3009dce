//! A refused call as an agent is told of it: what is wrong, and what to do about it. It is a result and not an error of the
//! protocol, so that the agent sees it.

use std::borrow::Cow;

use cuitty_webhooks_domain::rejection::{Rejection, Resource};
use rmcp::model::{CallToolResult, ContentBlock};

use crate::error::{AppError, whole_seconds};

/// For the agent in words, then what REST would answer, for programs. Not structured: that is what the tool's schema describes.
pub(super) fn refused(error: &AppError) -> CallToolResult {
    let words = format!("{}. {}", error.message(), advice(error));
    let body = serde_json::to_string(&error.to_body()).unwrap_or_default();
    CallToolResult::error(vec![ContentBlock::text(words), ContentBlock::text(body)])
}

fn advice(error: &AppError) -> Cow<'static, str> {
    if let Some(delay) = error.retry_after() {
        return format!("Call again in {} s.", whole_seconds(delay)).into();
    }
    match error {
        AppError::Rejected(Rejection::NotFound { resource, .. }) => match resource {
            Resource::Project => "Name a project in which something was made, and which the API key may see.",
            Resource::Endpoint => "list_webhook_endpoints tells which there are.",
            Resource::Delivery => {
                "list_webhook_deliveries tells which there are; one that was made a moment ago may not show yet."
            }
            _ => "Name one that exists.",
        },
        AppError::Rejected(Rejection::Conflict { .. }) => "Change that first, or leave it.",
        AppError::Rejected(_) | AppError::EventTypeUnknown { .. } | AppError::EventTypeArchived(_) => {
            "Correct what is named, and call again."
        }
        AppError::IdempotencyKeyReused => "Use another idempotency_key for another call.",
        AppError::PreconditionFailed { .. } => {
            "Read the endpoint again, decide again, and pass the revision that you have read."
        }
        AppError::MissingScope(_) => "Calling again does not help: the user must give a key with that scope.",
        AppError::Contended(_) => "Call again.",
        _ => "Calling again does not help: tell the user.",
    }
    .into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::auth::Scope;

    fn told(error: &AppError) -> (String, serde_json::Value) {
        let result = refused(error);
        assert_eq!((result.is_error, result.structured_content), (Some(true), None));
        let texts: Vec<_> = result
            .content
            .iter()
            .map(|block| block.as_text().unwrap().text.clone())
            .collect();
        let [words, body] = texts.as_slice() else {
            panic!("{texts:?}")
        };
        (words.clone(), serde_json::from_str(body).unwrap())
    }

    #[test]
    fn a_refusal_names_the_field_and_says_what_to_do() {
        let (words, body) = told(&Rejection::field("url", "must be http or https").into());
        assert_eq!(
            words,
            "url must be http or https. Correct what is named, and call again."
        );
        assert_eq!(body["error"]["fields"][0]["field"], "url");
        let (words, body) = told(&AppError::MissingScope(Scope::Manage));
        assert!(
            words.contains("`manage`") && words.contains("does not help"),
            "{words}"
        );
        assert_eq!(body["error"]["code"], "missing_scope");
    }

    #[test]
    fn what_may_work_later_is_to_be_called_again_later() {
        let limited = AppError::RateLimited {
            per_second: 1,
            burst: 1,
            retry_after: Duration::from_millis(1200),
        };
        for (error, seconds) in [(limited, 2), (AppError::HistoryBehind(7), 1)] {
            let (words, _) = told(&error);
            assert!(
                words.ends_with(&format!(" Call again in {seconds} s.")),
                "{words}"
            );
        }
    }
}
