//! What the commands that call a running service share: whom they call, and how they show what is answered.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use console::Term;
use cuitty_webhooks_client::{Builder, Client};
use serde_json::Value;

/// Names the variable with the address of the API.
pub(super) const URL_VARIABLE: &str = "CUITTY_WEBHOOKS_URL";
/// Names the variable with the API key. It is no argument: those can be read by everybody on the machine.
pub(super) const API_KEY_VARIABLE: &str = "CUITTY_WEBHOOKS_API_KEY";
/// Name files (PEM): authorities that are trusted beside the public ones, and the certificate that is shown, with its key.
pub(super) const CA_FILE_VARIABLE: &str = "CUITTY_WEBHOOKS_CA_FILE";
pub(super) const CERT_FILE_VARIABLE: &str = "CUITTY_WEBHOOKS_CERT_FILE";
pub(super) const KEY_FILE_VARIABLE: &str = "CUITTY_WEBHOOKS_KEY_FILE";
const DEFAULT_URL: &str = "http://127.0.0.1:7710";
/// Items asked for at once.
const PAGE: u32 = 200;

/// The command line is well formed, but something else that a person gives is missing or wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(pub(super) String);

/// Flags of every command that calls a running service.
#[derive(Debug, Args)]
pub(super) struct RemoteFlags {
    #[arg(
        long,
        value_name = "URL",
        help = "Address of the API [env: CUITTY_WEBHOOKS_URL] [default: http://127.0.0.1:7710]"
    )]
    url: Option<String>,
    /// Print one JSON object per line instead of a table
    #[arg(long)]
    json: bool,
}

/// The service to call, as the environment names it. It holds a key, so it has no `Debug`.
#[derive(Default)]
pub(super) struct Remote {
    url: Option<String>,
    api_key: Option<String>,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
}

impl Remote {
    /// Takes a variable of the environment, if it is one of those that tell about the service; whether it is.
    pub(super) fn set(&mut self, name: &str, value: &OsStr) -> bool {
        match name {
            URL_VARIABLE => self.url = text(value),
            API_KEY_VARIABLE => self.api_key = text(value),
            CA_FILE_VARIABLE => self.ca_file = path(value),
            CERT_FILE_VARIABLE => self.cert_file = path(value),
            KEY_FILE_VARIABLE => self.key_file = path(value),
            _ => return false,
        }
        true
    }

    /// Connects.
    pub(super) async fn connect(self, flags: &RemoteFlags) -> anyhow::Result<Client> {
        Ok(self.builder(flags.url.as_deref())?.connect().await?)
    }

    /// How to connect to `url`, or to the service that the environment names.
    pub(super) fn builder(&self, url: Option<&str>) -> anyhow::Result<Builder> {
        let mut builder = Client::builder(self.url(url), self.api_key()?);
        if let Some(file) = &self.ca_file {
            builder = builder.authorities(pem(CA_FILE_VARIABLE, file)?);
        }
        match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => {
                let (cert, key) = (pem(CERT_FILE_VARIABLE, cert)?, pem(KEY_FILE_VARIABLE, key)?);
                Ok(builder.identity(cert, key))
            }
            (None, None) => Ok(builder),
            _ => {
                let text = format!("{CERT_FILE_VARIABLE} and {KEY_FILE_VARIABLE} must be set together");
                Err(Usage(text).into())
            }
        }
    }

    /// The address, of which `url` is the one asked for.
    pub(super) fn url<'a>(&'a self, url: Option<&'a str>) -> &'a str {
        url.or(self.url.as_deref()).unwrap_or(DEFAULT_URL)
    }

    /// The key.
    pub(super) fn api_key(&self) -> Result<&str, Usage> {
        let missing = || Usage(format!("{API_KEY_VARIABLE} is not set: calls need an API key"));
        self.api_key.as_deref().ok_or_else(missing)
    }
}

fn pem(variable: &str, file: &Path) -> Result<Vec<u8>, Usage> {
    std::fs::read(file).map_err(|error| Usage(format!("{variable}: cannot read {}: {error}", file.display())))
}

fn path(value: &OsStr) -> Option<PathBuf> {
    Some(PathBuf::from(value)).filter(|path| !path.as_os_str().is_empty())
}

/// An empty variable is as one that is not set.
fn text(value: &OsStr) -> Option<String> {
    Some(value.to_string_lossy().trim().to_owned()).filter(|text| !text.is_empty())
}

/// How a kind of thing is shown.
pub(super) trait Show {
    /// The heads of the columns. The first one is never wrapped.
    const HEAD: &'static [&'static str];

    /// A row under them.
    fn row(&self) -> Vec<String>;

    /// The same, and more, for programs.
    fn json(&self) -> Value;
}

impl RemoteFlags {
    /// Whether programs read what is printed.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a list, as a table unless programs read it.
    pub(super) fn print_all<T: Show>(&self, items: &[T]) -> anyhow::Result<()> {
        if self.json {
            return items.iter().try_for_each(|item| self.print_one(item));
        }
        let width = Term::stdout().size_checked().map(|(_, columns)| columns);
        super::print(&table(items, width))
    }

    /// Prints one thing as [`Self::print_all`] prints each.
    pub(super) fn print_one<T: Show>(&self, item: &T) -> anyhow::Result<()> {
        if self.json {
            super::print(&item.json().to_string())
        } else {
            self.print_all(std::slice::from_ref(item))
        }
    }
}

/// Every item of a list that is asked for page by page: `page` gives the items after a cursor, and the next cursor, which is
/// empty at the end.
pub(super) async fn every_page<T>(
    mut page: impl AsyncFnMut(u32, String) -> anyhow::Result<(Vec<T>, String)>,
) -> anyhow::Result<Vec<T>> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let (found, next) = page(PAGE, cursor).await?;
        items.extend(found);
        if next.is_empty() {
            return Ok(items);
        }
        cursor = next;
    }
}

/// A note for the person at the terminal, apart from the answer.
pub(super) fn note(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stderr(), "{text}").context("cannot write to standard error")
}

/// Columns in as many characters as the terminal has, wrapped where they must be; as wide as they are elsewhere.
fn table<T: Show>(items: &[T], width: Option<u16>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(T::HEAD.to_vec())
        .add_rows(items.iter().map(|item| {
            let cells = item.row().into_iter();
            // What others wrote must not move this terminal's cursor.
            cells
                .map(|cell| cell.replace(char::is_control, " "))
                .collect::<Vec<_>>()
        }));
    match width {
        Some(width) => table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index == 0 {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.trim_fmt()
}

/// A time of an answer, given as seconds and nanoseconds since the Unix epoch.
pub(super) fn time(seconds: i64, nanos: i32) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, u32::try_from(nanos).ok()?)
}

/// A time in a table: to the minute, UTC.
pub(super) fn minute(at: Option<DateTime<Utc>>) -> String {
    at.map(|at| at.format("%Y-%m-%d %H:%M").to_string())
        .unwrap_or_default()
}

/// A time for programs.
pub(super) fn rfc3339(at: Option<DateTime<Utc>>) -> Option<String> {
    at.map(|at| at.to_rfc3339_opts(SecondsFormat::Micros, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Item(&'static str, &'static str);

    impl Show for Item {
        const HEAD: &'static [&'static str] = &["ID", "DESCRIPTION"];

        fn row(&self) -> Vec<String> {
            vec![self.0.into(), self.1.into()]
        }

        fn json(&self) -> Value {
            Value::Null
        }
    }

    const ITEMS: [Item; 2] = [
        Item("key_01h455vb4pex5vsknk084sn02q", "for the billing service"),
        Item("key_2", ""),
    ];

    #[test]
    fn a_table_that_is_read_by_programs_has_a_line_per_item() {
        assert_eq!(
            table(&ITEMS, None),
            "ID                              DESCRIPTION\n\
             key_01h455vb4pex5vsknk084sn02q  for the billing service\n\
             key_2"
        );
        assert_eq!(table::<Item>(&[], None), "ID  DESCRIPTION");
    }

    #[test]
    fn what_others_wrote_does_not_reach_the_terminal_as_a_command() {
        assert_eq!(
            table(&[Item("key_1", "a\u{1b}[2Jb\nc")], None),
            "ID     DESCRIPTION\nkey_1  a [2Jb c"
        );
    }

    #[test]
    fn a_table_fits_the_terminal_and_wraps_no_id() {
        let shown = table(&ITEMS, Some(46));
        assert!(shown.lines().all(|line| line.chars().count() <= 46), "{shown}");
        assert!(shown.contains(ITEMS[0].0), "{shown}");
        assert!(shown.lines().count() > 3, "{shown}");
    }

    #[tokio::test]
    async fn every_page_is_asked_for_once() {
        let mut asked = Vec::new();
        let items = every_page(async |limit, cursor: String| {
            asked.push((limit, cursor.clone()));
            Ok(match cursor.as_str() {
                "" => (vec![1, 2], "a".to_owned()),
                "a" => (vec![3], String::new()),
                other => panic!("{other}"),
            })
        });
        assert_eq!(items.await.unwrap(), [1, 2, 3]);
        assert_eq!(asked, [(PAGE, String::new()), (PAGE, "a".to_owned())]);
    }
}
