//! The command line over the API, as a person uses it.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::roles::binary;

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it answered.
    pub out: String,
    /// What it said beside that.
    pub err: String,
}

/// A command on this service with this key, to be run or spawned.
pub fn command(url: &str, key: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env("CUITTY_WEBHOOKS_URL", url)
        .env("CUITTY_WEBHOOKS_API_KEY", key);
    command
}

/// Runs [`command`] with this on its standard input.
///
/// # Panics
/// When it cannot be started, or what it prints is no text.
pub fn run_with(url: &str, key: &str, arguments: &[&str], input: &str) -> Ran {
    run_command(command(url, key, arguments), input)
}

/// Runs a command with this on its standard input.
///
/// # Panics
/// As [`run_with`].
pub fn run_command(mut command: Command, input: &str) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the command");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A command that refuses its arguments reads nothing.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("wait for the command");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// [`run_with`] nothing.
pub fn run(url: &str, key: &str, arguments: &[&str]) -> Ran {
    run_with(url, key, arguments, "")
}

impl Ran {
    /// What it answered, when it succeeded.
    ///
    /// # Panics
    /// When it did not.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// The JSON of every line that it answered, when it succeeded.
    ///
    /// # Panics
    /// When it did not, or a line is no JSON.
    pub fn json_lines(self) -> Vec<Value> {
        json_lines(&self.ok())
    }

    /// The JSON of the only line that it answered, when it succeeded.
    ///
    /// # Panics
    /// As [`Self::json_lines`], and when there are more lines or none.
    pub fn json(self) -> Value {
        let mut lines = self.json_lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }
}

/// The JSON of every line.
///
/// # Panics
/// When a line is no JSON.
pub fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// The cells of a table's rows, its head first.
pub fn rows(table: &str) -> Vec<Vec<&str>> {
    table
        .lines()
        .map(|line| {
            let cells = line.split("  ").map(str::trim);
            cells.filter(|cell| !cell.is_empty()).collect()
        })
        .collect()
}
