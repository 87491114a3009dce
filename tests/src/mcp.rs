//! The official Python client of the Model Context Protocol, driven from here.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::roles::binary;

/// Longest wait for the client to answer an order, its start included.
const PATIENCE: Duration = Duration::from_mins(1);

/// How the client settles on a version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It asks what the server knows; every request then tells its version.
    Auto,
    /// By the handshake of the versions before that of July 2026.
    Legacy,
}

/// A client with its connection. It ends with this value.
#[derive(Debug)]
pub struct McpClient {
    _process: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// The server's name, instructions and version of the protocol.
    pub server: Value,
}

/// What a tool has answered.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolResult {
    /// Whether the call was refused.
    pub is_error: bool,
    /// What the tool's schema describes; null when refused.
    pub structured: Value,
    /// The same as text; when refused, why: in words, then as REST says it.
    pub texts: Vec<String>,
    /// What stands beside it.
    pub meta: Value,
}

impl ToolResult {
    /// The error as REST says it: its code, and the fields at fault.
    ///
    /// # Panics
    /// When the call was not refused.
    pub fn refusal(&self) -> (String, Vec<String>) {
        assert!(self.is_error, "{self:?}");
        let body: Value = serde_json::from_str(&self.texts[1]).expect("JSON");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let fields = body["error"]["fields"].as_array().expect("a list");
        let fields = fields.iter().map(|field| text(&field["field"])).collect();
        (text(&body["error"]["code"]), fields)
    }
}

impl McpClient {
    /// Speaks streamable HTTP with the service at `base` (`http://host:port`).
    pub async fn over_http(mode: Mode, base: &str, key: &str) -> Self {
        let url = format!("{base}/mcp");
        Self::start(mode, [url.into(), key.into()], []).await
    }

    /// Starts `cuitty-webhooks mcp` for the service at `base`, and speaks with that.
    pub async fn over_stdio(mode: Mode, base: &str, key: &str) -> Self {
        let environment = [("CUITTY_WEBHOOKS_URL", base), ("CUITTY_WEBHOOKS_API_KEY", key)];
        let arguments = ["stdio".into(), binary().into(), "mcp".into()];
        Self::start(mode, arguments, environment).await
    }

    async fn start<'a>(
        mode: Mode,
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mode = match mode {
            Mode::Auto => "auto",
            Mode::Legacy => "legacy",
        };
        let mut process = Command::new("python3")
            .arg(crate::workspace().join("tests/src/mcp_client.py"))
            .arg(mode)
            .args(arguments)
            .env("PYTHONPATH", crate::workspace().join(".tools/python"))
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("run python3");
        let mut client = Self {
            orders: process.stdin.take().expect("is piped"),
            answers: BufReader::new(process.stdout.take().expect("is piped")).lines(),
            _process: process,
            server: Value::Null,
        };
        client.server = client.answer().await;
        client
    }

    async fn answer(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.answers.next_line()).await;
        let line = line.expect("the client answers in time").expect("a pipe");
        let line = line.expect("the client goes on; `make setup` installs what it needs");
        serde_json::from_str(&line).expect("JSON")
    }

    async fn order(&mut self, order: Value) -> Value {
        let line = format!("{order}\n");
        self.orders.write_all(line.as_bytes()).await.expect("a pipe");
        self.answer().await
    }

    /// The tools that the server has.
    pub async fn tools(&mut self) -> Vec<Value> {
        let answer = self.order(json!({"list": true})).await;
        answer["tools"].as_array().expect("a list of tools").clone()
    }

    /// Calls a tool.
    ///
    /// # Panics
    /// When that is an error of the protocol.
    pub async fn call(&mut self, tool: &str, arguments: Value) -> ToolResult {
        self.try_call(tool, arguments).await.expect("a result")
    }

    /// Calls a tool, and gives its structured result.
    ///
    /// # Panics
    /// When the call is refused.
    pub async fn get(&mut self, tool: &str, arguments: Value) -> Value {
        let result = self.call(tool, arguments).await;
        assert!(!result.is_error, "{tool}: {result:?}");
        let text: Value = serde_json::from_str(&result.texts[0]).expect("JSON");
        assert_eq!(text, result.structured, "{tool}: the text says the same");
        result.structured
    }

    /// Calls a tool; an error of the protocol is its code and message.
    pub async fn try_call(&mut self, tool: &str, arguments: Value) -> Result<ToolResult, (i64, String)> {
        let answer = self.order(json!({"call": tool, "arguments": arguments})).await;
        let error = &answer["protocol_error"];
        if !error.is_null() {
            let message = error["message"].as_str().expect("text").to_owned();
            return Err((error["code"].as_i64().expect("a number"), message));
        }
        let texts = answer["texts"].as_array().expect("a list").iter();
        Ok(ToolResult {
            is_error: answer["is_error"].as_bool().expect("is told"),
            structured: answer["structured"].clone(),
            texts: texts
                .map(|text| text.as_str().expect("text").to_owned())
                .collect(),
            meta: answer["meta"].clone(),
        })
    }
}
