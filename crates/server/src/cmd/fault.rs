//! Errors as a person at the terminal gets them: what is wrong, field by field, and what to do about it.

use std::fmt::Write as _;

use cuitty_webhooks_client::{ClientError, Code};

use super::remote::{API_KEY_VARIABLE, Usage};

/// The text of an error.
pub(super) fn describe(error: &anyhow::Error) -> String {
    let mut text = format!("{error:#}");
    let Some(fault) = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<ClientError>())
    else {
        return text;
    };
    match fault {
        ClientError::Unavailable(_) => {
            text.push_str(
                "\nhint: is the service running, and the address right? `cuitty-webhooks dev` starts one",
            );
        }
        ClientError::Refused {
            code: Code::Unauthenticated,
            ..
        } => {
            let _ = write!(
                text,
                "\nhint: {API_KEY_VARIABLE} holds the key that calls are made with"
            );
        }
        ClientError::Refused {
            code: Code::Unimplemented,
            ..
        } => {
            text.push_str("\nhint: the service may be older than this command");
        }
        ClientError::Refused { fields, .. } if !fields.is_empty() => {
            "the request is refused".clone_into(&mut text);
            for (field, fault) in fields {
                let _ = write!(text, "\n  {field} {fault}");
            }
        }
        _ => {}
    }
    text
}

/// Whether what was typed, or stands in the environment, is to blame, and nothing was asked of anybody.
pub(super) fn is_usage(error: &anyhow::Error) -> bool {
    error.is::<Usage>() || matches!(error.downcast_ref(), Some(ClientError::Configuration(_)))
}
