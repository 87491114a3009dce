//! An event as a Slack message, in Block Kit, and what Slack answers.
//!
//! A title from the event type, the payload's values each under its name, and a line that says where it comes from. Nothing of
//! a payload is markup in it: it can mention nobody and is not made into links.
//!
//! The message is what is signed, and it is made again to verify old signatures: whoever changes what comes out here keeps the
//! former way in [`crate::destination::bodies`].

mod errors;
mod value;

use bytes::Bytes;
use serde::Serialize;

pub use self::errors::{SLACK_ERRORS, SlackError, slack_error};
use self::value::{Json, is_blank};
use crate::destination::Message;
use crate::envelope::is_json;
use crate::names::EventType;

/// Most values that are shown: each needs a block at most, of the 50 that a message may have.
const SHOWN: usize = 40;
/// Their texts together, in UTF-16 units as are all lengths here. A message as a whole may not be as long as its parts.
const TOTAL: usize = 8_000;
/// Longest title; a header may have 150.
const TITLE: usize = 150;
/// Longest name of a value.
const LABEL: usize = 100;
/// Longest value that stands beside another one.
const SHORT: usize = 100;
/// Longest value; a section's text may have 3,000, a field of it 2,000.
const LONG: usize = 600;
/// Longest text of a payload that is no JSON object.
const WHOLE: usize = 2_800;
/// Longest text of a notification, and how many values it holds.
const FALLBACK: usize = 1_500;
const FALLBACK_VALUES: usize = 8;
/// Most fields of a section.
const FIELDS: usize = 10;
/// Objects are taken apart to this depth.
const DEPTH: usize = 8;
/// Parts of an event type that are written in capitals.
const ACRONYMS: [&str; 14] = [
    "api", "cpu", "dns", "http", "https", "id", "ip", "llm", "sla", "sso", "ssl", "tls", "url", "vm",
];

/// What Slack is sent.
#[derive(Debug, Serialize)]
struct SlackMessage {
    /// For notifications, and for whoever knows no blocks.
    text: String,
    blocks: Vec<Block>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Header {
        text: Text,
    },
    Section {
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<Text>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        fields: Vec<Text>,
    },
    Context {
        elements: Vec<Text>,
    },
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Text {
    PlainText {
        text: String,
        emoji: bool,
    },
    /// Verbatim: names and URLs in it are not made into links and mentions.
    Mrkdwn {
        text: String,
        verbatim: bool,
    },
}

impl Text {
    fn plain(text: String) -> Self {
        Self::PlainText { text, emoji: false }
    }

    fn mrkdwn(text: String) -> Self {
        Self::Mrkdwn { text, verbatim: true }
    }
}

/// A value of the payload, both parts escaped.
struct Entry {
    label: String,
    value: String,
}

/// The event as the body of a request to Slack: JSON, within Slack's limits whatever the payload.
pub fn message(message: &Message<'_>) -> Bytes {
    let title = title(&message.delivery.event_type);
    let payload = is_json(message.content_type)
        .then(|| serde_json::from_slice::<Json>(message.payload).ok())
        .flatten();
    let (entries, hidden) = match &payload {
        Some(Json::Object(fields)) => entries(fields),
        Some(value) => (vec![whole(&value.shown())], 0),
        None => (vec![whole(&opaque(message))], 0),
    };
    let text = fallback(&title, &entries);
    let mut blocks = vec![Block::Header {
        text: Text::plain(title),
    }];
    let mut fields = Vec::new();
    for Entry { label, value } in entries {
        let is_short = !label.is_empty() && units(&value) <= SHORT && !value.contains('\n');
        if !is_short || fields.len() == FIELDS {
            end_section(&mut fields, &mut blocks);
        }
        let text = if label.is_empty() {
            value
        } else {
            format!("*{label}*\n{value}")
        };
        if is_short {
            fields.push(Text::mrkdwn(text));
        } else {
            blocks.push(Block::Section {
                text: Some(Text::mrkdwn(text)),
                fields: Vec::new(),
            });
        }
    }
    end_section(&mut fields, &mut blocks);
    blocks.push(context(message, hidden));
    let json = serde_json::to_vec(&SlackMessage { text, blocks });
    json.expect("texts only").into()
}

fn end_section(fields: &mut Vec<Text>, blocks: &mut Vec<Block>) {
    if !fields.is_empty() {
        blocks.push(Block::Section {
            text: None,
            fields: std::mem::take(fields),
        });
    }
}

/// `api_key.revoked` as `API key revoked`.
fn title(event_type: &EventType) -> String {
    let words = event_type.as_str().split(['.', '_', '-']);
    let mut title = String::new();
    for word in words.filter(|word| !word.is_empty()) {
        let is_acronym = ACRONYMS.contains(&word);
        let word = if is_acronym {
            word.to_ascii_uppercase()
        } else {
            word.to_owned()
        };
        if title.is_empty() {
            title = word;
            title[..1].make_ascii_uppercase();
        } else {
            title.push(' ');
            title.push_str(&word);
        }
    }
    if title.is_empty() {
        title = event_type.to_string();
    }
    title.truncate(TITLE);
    title
}

/// The values that are shown, in the payload's order, and how many are not.
fn entries(fields: &[(String, Json)]) -> (Vec<Entry>, usize) {
    let mut flat = Flat::default();
    flat.object(fields, &mut Vec::new());
    (flat.entries, flat.hidden)
}

/// Values by their paths.
#[derive(Default)]
struct Flat {
    entries: Vec<Entry>,
    length: usize,
    hidden: usize,
}

impl Flat {
    fn object<'a>(&mut self, fields: &'a [(String, Json)], path: &mut Vec<&'a str>) {
        for (key, value) in fields {
            path.push(key);
            match value {
                Json::Object(inner) if !inner.is_empty() && path.len() < DEPTH => self.object(inner, path),
                value => self.value(path, value),
            }
            path.pop();
        }
    }

    fn value(&mut self, path: &[&str], value: &Json) {
        if self.entries.len() == SHOWN || self.length >= TOTAL {
            self.hidden += 1;
            return;
        }
        let label = path.join(".").replace(['\n', '\r', '*'], " ");
        let label = if is_blank(&label) {
            "(no name)"
        } else {
            label.as_str()
        };
        let entry = Entry {
            label: escaped(label, LABEL),
            value: escaped(&value.shown(), LONG),
        };
        self.length += units(&entry.label) + units(&entry.value);
        self.entries.push(entry);
    }
}

/// A payload that has no names in it.
fn whole(text: &str) -> Entry {
    Entry {
        label: String::new(),
        value: escaped(text, WHOLE),
    }
}

/// A payload that is not JSON, or cannot be read as such.
fn opaque(message: &Message<'_>) -> String {
    match std::str::from_utf8(message.payload) {
        Ok(text) if !is_blank(text) => text.to_owned(),
        Ok(_) => "(empty)".into(),
        Err(_) => format!("{} bytes of {}", message.payload.len(), message.content_type),
    }
}

fn fallback(title: &str, entries: &[Entry]) -> String {
    let mut text = title.to_owned();
    for Entry { label, value } in entries.iter().take(FALLBACK_VALUES) {
        // Escaped already, so what does not fit is left out whole.
        if units(&text) + units(label) + units(value) + 3 > FALLBACK {
            continue;
        }
        text.push('\n');
        if !label.is_empty() {
            text.push_str(label);
            text.push_str(": ");
        }
        text.push_str(value);
    }
    // Other products than Slack, which take its messages, call people by an `@` alone.
    text.replace('@', "@\u{200b}")
}

/// Where the message comes from.
fn context(message: &Message<'_>, hidden: usize) -> Block {
    let delivery = message.delivery;
    let at = message.requested_at.format("%Y-%m-%d %H:%M:%S UTC");
    let mut texts = vec![
        format!("{} in {}", delivery.event_type, delivery.project_id),
        at.to_string(),
        delivery.delivery_id.to_string(),
    ];
    if hidden > 0 {
        let values = if hidden == 1 { "value" } else { "values" };
        texts.insert(0, format!("{hidden} more {values}"));
    }
    Block::Context {
        elements: texts.into_iter().map(Text::plain).collect(),
    }
}

/// `text` with Slack's control characters escaped, as its beginning and an ellipsis when it would be longer than `limit`.
fn escaped(text: &str, limit: usize) -> String {
    let mut out = String::new();
    let (mut length, mut room_for_ellipsis) = (0, 0);
    let mut bytes = [0; 4];
    for c in text.trim().chars() {
        let piece = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '\n' => "\n",
            c if c.is_control() => " ",
            c => &*c.encode_utf8(&mut bytes),
        };
        length += units(piece);
        if length > limit {
            out.truncate(room_for_ellipsis);
            out.push('\u{2026}');
            break;
        }
        out.push_str(piece);
        if length < limit {
            room_for_ellipsis = out.len();
        }
    }
    out
}

/// Length in UTF-16 units, of the ways to count characters the one that gives most.
fn units(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

#[cfg(test)]
mod tests;
