//! `mcp`: the tools over standard input and output, for agents that start their servers as processes.
//!
//! It knows nothing of tools: every message goes to `/mcp` of a running service, and what is answered comes back. So what an agent
//! sees and may do is the same over both transports, and of the service's version.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::ServiceExt as _;

use super::remote::{Remote, note};

/// Longest wait for an answer. The service gives up before.
const CALL_TIMEOUT: Duration = Duration::from_mins(1);
/// Calls in progress; more are not read.
const CALLS: usize = 32;
/// Where a request names the protocol's version since that of July 2026, which has no handshake.
const VERSION_POINTER: &str = "/params/_meta/io.modelcontextprotocol~1protocolVersion";
/// What an error of JSON-RPC is that is not the caller's.
const INTERNAL_ERROR: i32 = -32603;

#[derive(Debug, Args)]
pub(super) struct McpArgs {
    #[arg(
        long,
        value_name = "URL",
        help = "Address of the API [env: CUITTY_WEBHOOKS_URL] [default: http://127.0.0.1:7710]"
    )]
    url: Option<String>,
}

/// Ends with the input, once everything is answered.
pub(super) async fn run(args: McpArgs, remote: Remote) -> anyhow::Result<()> {
    let service = Arc::new(Service::new(&remote, args.url.as_deref())?);
    let (calls, room) = (TaskTracker::new(), Arc::new(Semaphore::new(CALLS)));
    // Bytes: a line that is no text is a message like any other, which the service refuses.
    let mut lines = BufReader::new(tokio::io::stdin()).split(b'\n');
    let ended = loop {
        let line = match lines.next_segment().await {
            Ok(Some(line)) => line,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error).context("cannot read standard input"),
        };
        if line.trim_ascii().is_empty() {
            continue;
        }
        let permit = Arc::clone(&room).acquire_owned().await?;
        let service = Arc::clone(&service);
        calls.spawn(async move {
            let _permit = permit;
            match service.answer(line).await {
                Some(answer) => super::print(&answer),
                None => Ok(()),
            }
        });
    };
    calls.close();
    calls.wait().await;
    ended
}

/// The service that is called.
struct Service {
    url: String,
    channel: Channel,
    authorization: HeaderValue,
    /// The protocol's version, once a handshake has settled it.
    version: OnceLock<String>,
}

impl Service {
    /// Connects with the first call.
    fn new(remote: &Remote, url: Option<&str>) -> anyhow::Result<Self> {
        let endpoint = remote.builder(url)?.endpoint()?;
        let mut authorization = HeaderValue::try_from(format!("Bearer {}", remote.api_key()?))
            .map_err(|_| anyhow!("the API key has characters that no key has"))?;
        authorization.set_sensitive(true);
        Ok(Self {
            url: remote.url(url).to_owned(),
            channel: endpoint.connect_lazy(),
            authorization,
            version: OnceLock::new(),
        })
    }

    /// The answer to a message, as a line; `None` when there is none to give.
    async fn answer(&self, line: Vec<u8>) -> Option<String> {
        let message = serde_json::from_slice(&line).unwrap_or_default();
        let answered = tokio::time::timeout(CALL_TIMEOUT, self.call(&message, line)).await;
        let error = match answered {
            Ok(Ok(answer)) => return answer,
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("{} did not answer in time", self.url),
        };
        // A notification has no id, and nobody waits for its answer.
        let Some(id) = message.get("id") else {
            let _ = note(&format!("error: {error}"));
            return None;
        };
        let error = json!({"code": INTERNAL_ERROR, "message": error});
        Some(json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string())
    }

    async fn call(&self, message: &Value, line: Vec<u8>) -> anyhow::Result<Option<String>> {
        let mut request = Request::post("/mcp")
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream")
            .header(AUTHORIZATION, &self.authorization);
        for (name, value) in headers(message, self.version.get().map(String::as_str)) {
            request = request.header(name, value);
        }
        let request = request.body(Body::new(Full::from(line)))?;
        let unreachable = || format!("cannot reach {}", self.url);
        let response = self
            .channel
            .clone()
            .oneshot(request)
            .await
            .with_context(unreachable)?;
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .with_context(unreachable)?
            .to_bytes();
        if body.is_empty() && status.is_success() {
            return Ok(None);
        }
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        if answer.get("jsonrpc").is_none() {
            // Not the protocol's: how REST refuses, or something in between.
            let told = answer["error"]["message"]
                .as_str()
                .unwrap_or("that is no MCP server");
            bail!("{} answers {status}: {told}", self.url);
        }
        if message["method"] == "initialize"
            && let Some(version) = answer["result"]["protocolVersion"].as_str()
        {
            self.version.get_or_init(|| version.to_owned());
        }
        Ok(Some(answer.to_string()))
    }
}

/// What the HTTP transport asks for in headers besides.
fn headers(message: &Value, settled: Option<&str>) -> Vec<(&'static str, String)> {
    let own = message.pointer(VERSION_POINTER).and_then(Value::as_str);
    let mut headers: Vec<_> = own
        .or(settled)
        .map(|version| ("mcp-protocol-version", version.to_owned()))
        .into_iter()
        .collect();
    if own.is_some() {
        let name = ["name", "uri", "taskId"].map(|member| &message["params"][member]);
        let name = name.into_iter().find_map(Value::as_str);
        let named = [("mcp-method", message["method"].as_str()), ("mcp-name", name)];
        headers.extend(
            named
                .into_iter()
                .filter_map(|(header, value)| Some((header, encoded(value?)))),
        );
    }
    headers
}

/// A text as the protocol puts it into a header: as it is, or in base64 if it could not stand there.
fn encoded(text: &str) -> String {
    let is_plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if is_plain && text.trim() == text && !text.starts_with("=?base64?") {
        text.to_owned()
    } else {
        format!("=?base64?{}?=", STANDARD.encode(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_tell_the_version_that_was_settled() {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a"}});
        assert_eq!(headers(&message, None), []);
        let version = ("mcp-protocol-version", "2025-11-25".to_owned());
        assert_eq!(headers(&message, Some("2025-11-25")), [version]);
    }

    #[test]
    fn a_request_that_tells_its_version_is_named_in_headers() {
        let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
        let message = json!({"method": "tools/call", "params": {"name": "a", "_meta": meta}});
        assert_eq!(
            headers(&message, Some("2025-11-25")),
            [
                ("mcp-protocol-version", "2026-07-28"),
                ("mcp-method", "tools/call"),
                ("mcp-name", "a")
            ]
            .map(|(name, value)| (name, value.to_owned()))
        );
    }

    #[test]
    fn names_that_cannot_stand_in_a_header_are_encoded() {
        for (text, header) in [
            ("get_webhook_endpoint", "get_webhook_endpoint"),
            ("two words", "two words"),
            ("é", "=?base64?w6k=?="),
            (" a", "=?base64?IGE=?="),
            ("a\nb", "=?base64?YQpi?="),
            ("=?base64?YQ==?=", "=?base64?PT9iYXNlNjQ/WVE9PT89?="),
        ] {
            assert_eq!(encoded(text), header, "{text:?}");
        }
    }
}
