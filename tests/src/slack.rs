//! What Slack's incoming webhooks check of a message, by its published limits for messages and blocks.

use serde_json::{Map, Value};

use crate::receiver::{Captured, Reply};

/// Blocks of a message.
const BLOCKS: usize = 50;
/// Longest fallback text before Slack cuts it, and longest body that this stand-in takes.
const MESSAGE_TEXT: usize = 4_000;
const MESSAGE_BYTES: usize = 64 << 10;

/// Slack's answer to a request: `ok`, or the word for what is wrong, with the reason in a header.
pub fn answer(request: &Captured) -> Reply {
    match check(request) {
        Ok(()) => Reply::status(200).body("ok"),
        Err((word, reason)) => Reply::status(400).header("x-reason", reason).body(word),
    }
}

/// Holds a request against what Slack takes.
///
/// # Errors
/// Slack's word for what is wrong, and what it is.
pub fn check(request: &Captured) -> Result<(), (&'static str, String)> {
    let payload = |reason: &str| ("invalid_payload", reason.to_owned());
    if request.header("content-type") != "application/json" {
        return Err(payload("the content type is not JSON"));
    }
    if request.body.len() > MESSAGE_BYTES {
        return Err(payload("the body is too long"));
    }
    let message: Value =
        serde_json::from_slice(&request.body).map_err(|error| payload(&error.to_string()))?;
    let message = message.as_object().ok_or_else(|| payload("is no object"))?;
    known(message, &["text", "blocks"]).map_err(|reason| payload(&reason))?;
    let text = message.get("text").and_then(Value::as_str).unwrap_or_default();
    within("text", text, MESSAGE_TEXT).map_err(|reason| ("no_text", reason))?;
    escaped(text).map_err(|reason| payload(&reason))?;
    let blocks = message.get("blocks").and_then(Value::as_array);
    let blocks = blocks.ok_or_else(|| payload("blocks is no list"))?;
    if !(1..=BLOCKS).contains(&blocks.len()) {
        return Err(("invalid_blocks", format!("{} blocks", blocks.len())));
    }
    for (index, block) in blocks.iter().enumerate() {
        check_block(block).map_err(|reason| ("invalid_blocks", format!("block {index}: {reason}")))?;
    }
    Ok(())
}

fn check_block(block: &Value) -> Result<(), String> {
    let block = block.as_object().ok_or("is no object")?;
    match kind(block)? {
        "header" => {
            known(block, &["type", "text", "block_id"])?;
            check_text(block.get("text").ok_or("has no text")?, &["plain_text"], 150)
        }
        "section" => {
            known(block, &["type", "text", "fields", "block_id"])?;
            if block.get("text").or(block.get("fields")).is_none() {
                return Err("has neither text nor fields".into());
            }
            if let Some(text) = block.get("text") {
                check_text(text, &["plain_text", "mrkdwn"], 3_000)?;
            }
            block
                .get("fields")
                .map_or(Ok(()), |fields| check_texts("fields", fields, 2_000))
        }
        "context" => {
            known(block, &["type", "elements", "block_id"])?;
            check_texts("elements", block.get("elements").ok_or("has no elements")?, 2_000)
        }
        "divider" => known(block, &["type", "block_id"]),
        other => Err(format!("of type {other}")),
    }
}

fn check_texts(name: &str, texts: &Value, most: usize) -> Result<(), String> {
    let texts = texts.as_array().ok_or_else(|| format!("{name} is no list"))?;
    if !(1..=10).contains(&texts.len()) {
        return Err(format!("{} {name}", texts.len()));
    }
    texts
        .iter()
        .try_for_each(|text| check_text(text, &["plain_text", "mrkdwn"], most))
}

fn check_text(text: &Value, kinds: &[&str], most: usize) -> Result<(), String> {
    let object = text.as_object().ok_or("a text is no object")?;
    let kind = kind(object)?;
    if !kinds.contains(&kind) {
        return Err(format!("a text of type {kind}"));
    }
    // Only plain text knows `emoji`, only the other one `verbatim`.
    let option = if kind == "plain_text" { "emoji" } else { "verbatim" };
    known(object, &["type", "text", option])?;
    if object.get(option).is_some_and(|value| !value.is_boolean()) {
        return Err(format!("{option} is no boolean"));
    }
    let text = object
        .get("text")
        .and_then(Value::as_str)
        .ok_or("a text without text")?;
    within("a text", text, most)?;
    if kind == "mrkdwn" { escaped(text) } else { Ok(()) }
}

fn kind(object: &Map<String, Value>) -> Result<&str, String> {
    let kind = object.get("type").and_then(Value::as_str);
    kind.ok_or_else(|| "has no type".to_owned())
}

fn known(object: &Map<String, Value>, names: &[&str]) -> Result<(), String> {
    match object.keys().find(|key| !names.contains(&key.as_str())) {
        Some(key) => Err(format!("does not know {key}")),
        None => Ok(()),
    }
}

fn within(name: &str, text: &str, most: usize) -> Result<(), String> {
    let length = text.encode_utf16().count();
    if length > most || text.trim().is_empty() {
        return Err(format!("{name} has {length} characters, 1 to {most} are taken"));
    }
    Ok(())
}

/// Whatever stands in angle brackets calls somebody or leads somewhere; an event has no business to do either.
fn escaped(text: &str) -> Result<(), String> {
    let is_entity = |rest: &str| {
        ["amp;", "lt;", "gt;"]
            .iter()
            .any(|entity| rest.starts_with(entity))
    };
    if text.contains(['<', '>']) || !text.split('&').skip(1).all(is_entity) {
        return Err("is not escaped".into());
    }
    Ok(())
}
