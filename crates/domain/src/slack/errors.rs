//! What a Slack-compatible incoming webhook says when it does not take a message: one word, as the body.

use crate::destination::Answer;

/// What one of Slack's words means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlackError {
    /// The word.
    pub code: &'static str,
    /// What it means for the delivery and the endpoint.
    pub answer: Answer,
    /// What it means for a person.
    pub meaning: &'static str,
}

const fn error(code: &'static str, answer: Answer, meaning: &'static str) -> SlackError {
    SlackError {
        code,
        answer,
        meaning,
    }
}

/// Every word that is known. What Slack does not know, or no more, never comes back: the endpoint is gone. What it does not
/// like about a message, or forbids, is not asked for again; the next message may be taken.
pub const SLACK_ERRORS: [SlackError; 19] = [
    error("no_service", Answer::Gone, "the webhook was removed or disabled"),
    error("no_service_id", Answer::Gone, "the URL names no webhook"),
    error("no_active_hooks", Answer::Gone, "the webhook is disabled"),
    error("no_team", Answer::Gone, "the URL names no workspace"),
    error(
        "team_disabled",
        Answer::Gone,
        "the workspace is not active any more",
    ),
    error("invalid_token", Answer::Gone, "the URL's token is not valid"),
    error("channel_not_found", Answer::Gone, "the channel does not exist"),
    error("channel_is_archived", Answer::Gone, "the channel is archived"),
    error("user_not_found", Answer::Gone, "the user does not exist"),
    error(
        "action_prohibited",
        Answer::Refused,
        "the workspace does not allow it",
    ),
    error(
        "posting_to_general_channel_denied",
        Answer::Refused,
        "the workspace does not allow it in its general channel",
    ),
    error(
        "invalid_payload",
        Answer::Refused,
        "the message was not understood",
    ),
    error("invalid_blocks", Answer::Refused, "a block was not understood"),
    error(
        "invalid_blocks_format",
        Answer::Refused,
        "the blocks were not understood",
    ),
    error("no_text", Answer::Refused, "the message has no text"),
    error(
        "missing_text_or_fallback_or_attachments",
        Answer::Refused,
        "the message has no text",
    ),
    error(
        "too_many_attachments",
        Answer::Refused,
        "the message has too many attachments",
    ),
    error("rollup_error", Answer::Retry, "an error of Slack's own"),
    error("rate_limited", Answer::Retry, "too many messages"),
];

/// The error that `body` begins with, if it is one of Slack's. Anything else, as a proxy's error page, says no more than its
/// status.
pub fn slack_error(body: &[u8]) -> Option<&'static SlackError> {
    let is_letter = |byte: &u8| byte.is_ascii_lowercase() || *byte == b'_';
    let body = body.trim_ascii_start();
    let length = body.iter().take_while(|byte| is_letter(byte)).count();
    SLACK_ERRORS
        .iter()
        .find(|error| error.code.as_bytes() == &body[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answers_first_word_is_its_error() {
        for (body, expected) in [
            ("no_service", Some("no_service")),
            (" no_text\n", Some("no_text")),
            ("invalid_blocks: block 3", Some("invalid_blocks")),
            ("no_service_at_all", None),
            ("ok", None),
            ("", None),
            ("<html>no_service</html>", None),
            ("No_service", None),
        ] {
            let found = slack_error(body.as_bytes()).map(|error| error.code);
            assert_eq!(found, expected, "{body}");
        }
        assert_eq!(slack_error(&[0xff, 0xfe]), None);
    }
}
