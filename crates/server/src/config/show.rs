//! The configuration as it is in effect, without its secrets.

use std::fmt::Write as _;

use figment::value::Value;

use super::Settings;
use super::layers::{Origin, SECRETS};

const HIDDEN: &str = "(hidden)";

impl Settings {
    /// As TOML, each value that is not the default with where it comes from. Secrets are left out, and so are passwords
    /// in URLs.
    pub fn show(&self) -> String {
        let mut text = String::new();
        let mut table = "";
        let mut rows: Vec<_> = self
            .0
            .iter()
            .map(|(key, setting)| (key.rsplit_once('.').unwrap_or(("", key)), key, setting))
            .collect();
        // A table's own keys before those of the tables in it.
        rows.sort_by_key(|(path, ..)| *path);
        for ((section, name), key, setting) in rows {
            if section != table {
                let gap = if table.is_empty() { "" } else { "\n" };
                let _ = writeln!(text, "{gap}[{section}]");
                table = section;
            }
            let value = if SECRETS.contains(&key.as_str()) {
                redact(&setting.value)
            } else {
                render(&setting.value)
            };
            let _ = match &setting.origin {
                Origin::Default => writeln!(text, "{name} = {value}"),
                origin => writeln!(text, "{name} = {value} # {origin}"),
            };
        }
        text
    }
}

fn render(value: &Value) -> String {
    match value {
        Value::Array(_, items) => format!("[{}]", items.iter().map(render).collect::<Vec<_>>().join(", ")),
        // A JSON string is a TOML basic string too.
        Value::String(_, text) => serde_json::Value::from(text.as_str()).to_string(),
        value => serde_json::to_string(value).unwrap_or_default(),
    }
}

fn redact(value: &Value) -> String {
    match value {
        Value::Array(_, items) => format!("[{}]", items.iter().map(redact).collect::<Vec<_>>().join(", ")),
        Value::String(_, text) if text.is_empty() => render(value),
        Value::String(_, text) if text.contains("://") => {
            let servers = text.split(',').map(without_password).collect::<Vec<_>>();
            render(&servers.join(",").into())
        }
        Value::String(_, text) if text.starts_with("sqlite:") => render(value),
        // Of a sealing key, its id may be seen.
        Value::String(_, text) => match text.split_once(':') {
            Some((id, _)) => render(&format!("{id}:{HIDDEN}").into()),
            None => render(&HIDDEN.into()),
        },
        _ => render(&HIDDEN.into()),
    }
}

/// A URL with what stands before `@` hidden, but for the user's name, and without its query, where a password may stand
/// too.
fn without_password(url: &str) -> String {
    let (url, query) = url.split_once('?').map_or((url, ""), |(url, _)| (url, "?…"));
    let Some((scheme, rest)) = url.split_once("://") else {
        return format!("{url}{query}");
    };
    let Some((user, host)) = rest.rsplit_once('@') else {
        return format!("{url}{query}");
    };
    match user.split_once(':') {
        Some((name, _)) => format!("{scheme}://{name}:{HIDDEN}@{host}{query}"),
        // NATS takes a token in the place of the user.
        None => format!("{scheme}://{HIDDEN}@{host}{query}"),
    }
}
