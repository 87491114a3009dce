//! The configuration as it is in effect, without its secrets.

use std::fmt::Write as _;

use figment::value::Value;

use super::Settings;
use super::layers::{Origin, SECRETS};

const HIDDEN: &str = "(hidden)";
const HEADERS: &str = "telemetry.otlp_headers";
/// Of the secrets, those that are URLs.
const URLS: [&str; 2] = ["history.url", "log.url"];

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
            let value = if URLS.contains(&key.as_str()) {
                let text = setting.value.as_str().unwrap_or_default();
                // Only of nats-servers there is a list; elsewhere a comma may belong to a password.
                let shown = if key == "log.url" {
                    without_passwords(text)
                } else {
                    without_password(text)
                };
                render(&shown.into())
            } else if SECRETS.contains(&key.as_str()) {
                redact(&setting.value, if key == HEADERS { '=' } else { ':' })
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

/// Hides what follows `mark`, or everything.
fn redact(value: &Value, mark: char) -> String {
    match value {
        Value::Array(_, items) => {
            let items: Vec<_> = items.iter().map(|item| redact(item, mark)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::String(_, text) if text.is_empty() => render(value),
        // Of a sealing key, its id may be seen; of a header, its name.
        Value::String(_, text) => match text.split_once(mark) {
            Some((id, _)) => render(&format!("{id}{mark}{HIDDEN}").into()),
            None => render(&HIDDEN.into()),
        },
        _ => render(&HIDDEN.into()),
    }
}

/// URLs, separated by commas, each with all that stands before `@` hidden, and without its query, where a password may
/// stand too. NATS takes addresses without a scheme, and a token in the place of the user.
pub(crate) fn without_passwords(urls: &str) -> String {
    urls.split(',')
        .map(without_password)
        .collect::<Vec<_>>()
        .join(",")
}

fn without_password(url: &str) -> String {
    let (scheme, rest) = match url.find("://") {
        Some(at) => url.split_at(at + "://".len()),
        None => ("", url),
    };
    // Before the query, for a password may hold a question mark.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, host)) => (format!("{HIDDEN}@"), host),
        None => (String::new(), rest),
    };
    let (host, query) = rest.split_once('?').map_or((rest, ""), |(host, _)| (host, "?…"));
    format!("{scheme}{user}{host}{query}")
}
