//! `listen`: events of a running service on a machine that nobody can reach, printed or forwarded.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::body::{Body, Bytes};
use axum::http::{Method, Request, StatusCode, Uri};
use clap::Args;
use cuitty_webhooks_client::{Arrived, ClientError};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::remote::{Remote, RemoteFlags, note};
use super::show::{body, harmless, took};
use crate::shutdown::Shutdown;

/// Longest wait for the endpoint's end.
const FAREWELL: Duration = Duration::from_secs(5);
/// Headers that are the forwarding connection's own.
const OF_THE_CONNECTION: [&str; 3] = ["host", "content-length", "connection"];

#[derive(Debug, Args)]
pub(super) struct ListenArgs {
    #[command(flatten)]
    remote: RemoteFlags,
    /// Where to send what arrives, http://…; without it, it is printed
    #[arg(long, value_name = "URL")]
    forward_to: Option<Uri>,
    /// What to listen for, separated by commas: names, `budget.*`, or `*`; by default all
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    event_types: Vec<String>,
    /// The project; not needed with a key that is bound to one
    #[arg(long, value_name = "PROJECT", default_value = "", hide_default_value = true)]
    project: String,
}

/// Takes what arrives, and shows it.
struct Taker {
    forward_to: Option<Uri>,
    http: HttpClient<HttpConnector, Body>,
    limit: Duration,
    json: bool,
}

pub(super) async fn run(args: ListenArgs, remote: Remote) -> anyhow::Result<()> {
    if let Some(url) = &args.forward_to
        && (url.scheme_str() != Some("http") || url.host().is_none())
    {
        return Err(super::remote::Usage(format!("--forward-to {url}: must be an http:// URL")).into());
    }
    let shutdown = Shutdown::default();
    shutdown.on_signals()?;
    let client = remote.connect(&args.remote).await?;
    let mut listening = client.listen(&args.project, &args.event_types).await?;
    let endpoint = listening.endpoint.clone();
    if args.remote.is_json() {
        let started = json!({"endpoint_id": endpoint.id, "signing_secret": listening.signing_secret});
        super::print(&started.to_string())?;
    } else {
        let types = match &endpoint.event_types[..] {
            [] => "all events".to_owned(),
            types => types.join(", "),
        };
        note(&format!(
            "listening for {types} of project {} until Ctrl-C\nendpoint: {}\nsigning secret: {}",
            endpoint.project_id, endpoint.id, listening.signing_secret
        ))?;
    }
    let taker = Arc::new(Taker {
        forward_to: args.forward_to,
        http: HttpClient::builder(TokioExecutor::new()).build_http(),
        limit: Duration::from_millis(endpoint.timeout_ms.into()),
        json: args.remote.is_json(),
    });
    let mut taking = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.soft.cancelled() => break,
            arrived = listening.next() => match arrived {
                Ok(Some(arrived)) => {
                    let taker = Arc::clone(&taker);
                    taking.spawn(async move { taker.take(arrived).await });
                }
                Ok(None) => bail!(lost()),
                Err(error @ ClientError::Unavailable(_)) => {
                    return Err(anyhow::Error::new(error).context(lost()));
                }
                Err(error) => return Err(error.into()),
            },
            // Whether somebody still reads what is printed.
            Some(is_read) = taking.join_next() => if !is_read?? {
                break;
            },
        }
    }
    timeout(FAREWELL, listening.end())
        .await
        .ok()
        .context("the service does not confirm that the endpoint is deleted")??;
    if taker.json {
        Ok(())
    } else {
        note("the endpoint is deleted")
    }
}

fn lost() -> &'static str {
    "the call has ended, and with it the endpoint: listen again"
}

impl Taker {
    /// Whether somebody reads what is printed.
    async fn take(&self, arrived: Arrived) -> anyhow::Result<bool> {
        let started = Instant::now();
        let forwarded = match &self.forward_to {
            Some(url) => Some(self.forward(url, &arrived).await),
            None => None,
        };
        let line = if self.json {
            json_line(&arrived, forwarded.as_ref())
        } else {
            person_line(&arrived, forwarded.as_ref(), started.elapsed())
        };
        let is_read = super::print_while_read(&line)?;
        let taken = match forwarded {
            None => Ok(()),
            Some(Ok(status)) if status.is_success() => Ok(()),
            Some(Ok(status)) => Err(format!("forwarding was answered with {status}")),
            Some(Err(error)) => Err(error),
        };
        arrived.answer(taken).await;
        Ok(is_read)
    }

    async fn forward(&self, url: &Uri, arrived: &Arrived) -> Result<StatusCode, String> {
        let mut request = Request::builder().method(Method::POST).uri(url);
        for header in &arrived.headers {
            if !OF_THE_CONNECTION.contains(&&*header.name) {
                request = request.header(&header.name, &header.value);
            }
        }
        let request = request
            .body(Body::from(Bytes::from(arrived.payload.clone())))
            .map_err(|error| format!("cannot be forwarded: {error}"))?;
        match timeout(self.limit, self.http.request(request)).await {
            Ok(Ok(response)) => Ok(response.status()),
            Ok(Err(error)) => Err(format!("cannot be forwarded: {}", cause(&error))),
            Err(_) => Err("forwarding was not answered in time".to_owned()),
        }
    }
}

fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), cause)
}

fn json_line(arrived: &Arrived, forwarded: Option<&Result<StatusCode, String>>) -> String {
    let headers = arrived.headers.iter();
    let headers: Map<_, _> = headers
        .map(|header| (header.name.clone(), Value::from(header.value.clone())))
        .collect();
    let forwarded = forwarded.map(|forwarded| match forwarded {
        Ok(status) => json!({"status": status.as_u16()}),
        Err(error) => json!({"error": error}),
    });
    json!({
        "delivery_id": arrived.header("x-cuitty-delivery-id"),
        "event_type": arrived.header("x-cuitty-event-type"),
        "headers": headers,
        "payload": body(&arrived.payload),
        "forwarded": forwarded,
    })
    .to_string()
}

fn person_line(
    arrived: &Arrived,
    forwarded: Option<&Result<StatusCode, String>>,
    elapsed: Duration,
) -> String {
    let what = format!(
        "{}  {}  attempt {}",
        arrived.header("x-cuitty-event-type"),
        arrived.header("x-cuitty-delivery-id"),
        arrived.header("x-cuitty-attempt"),
    );
    let line = match forwarded {
        None => format!("{what}\n{}\n", String::from_utf8_lossy(&arrived.payload)),
        Some(Ok(status)) => format!("{what}  {status} in {}", took(elapsed)),
        Some(Err(error)) => format!("{what}  {error}"),
    };
    harmless(&line)
}
