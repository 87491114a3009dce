//! What the machine can do at best, measured in the same run: the HTTP half and the log half of a delivery, each bare.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{Config, StorageType};
use bytes::Bytes;
use cuitty_webhooks_domain::signing::{SigningKey, SigningSecret, sign_header};
use futures_util::{StreamExt, stream};
use harness::nats::NatsServer;
use harness::procfs;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::event;
use crate::sink::Sink;

/// How long each ceiling is measured.
const DURATION: Duration = Duration::from_secs(5);
/// Requests, or messages, on their way at the same time.
const IN_FLIGHT: usize = 64;
/// More messages than the loop can handle in its time.
const LOG_MESSAGES: u32 = 1_000_000;

/// One ceiling.
#[derive(Debug)]
pub(crate) struct Ceiling {
    pub(crate) name: &'static str,
    pub(crate) per_second: f64,
    /// From handing over until the answer, in microseconds; `None` where loops are not timed one by one.
    pub(crate) p50_p99: Option<(u64, u64)>,
    /// CPU of this process per loop, with the sink's part.
    pub(crate) own_cpu: Duration,
    /// CPU of nats-server per loop.
    pub(crate) nats_cpu: Duration,
}

/// Signs and POSTs a payload over and over to `sink` with a bare hyper client.
pub(crate) async fn http(sink: &Sink, epoch: Instant, payload: usize) -> Ceiling {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut rng = StdRng::seed_from_u64(1);
    let key = Arc::new(SigningKey::new(&SigningSecret::generate(&mut rng)));
    let number = Arc::new(AtomicU32::new(0));
    let url: hyper::Uri = sink.url(0).parse().expect("a URL");
    sink.reset();
    let (started, cpu) = (Instant::now(), procfs::cpu(std::process::id()));
    let workers = (0..IN_FLIGHT).map(|_| {
        let (client, key, number, url) = (client.clone(), Arc::clone(&key), Arc::clone(&number), url.clone());
        tokio::spawn(async move {
            while started.elapsed() < DURATION {
                let body = event::payload(number.fetch_add(1, Ordering::Relaxed), epoch.elapsed(), payload);
                let signature = sign_header("msg_bench", 1_700_000_000, &body, std::iter::once(&*key));
                let request = Request::post(url.clone())
                    .header("content-type", "application/json")
                    .header("webhook-id", "msg_bench")
                    .header("webhook-timestamp", "1700000000")
                    .header("webhook-signature", signature)
                    .body(Full::new(body))
                    .expect("a request");
                if let Ok(response) = client.request(request).await {
                    let _ = response.into_body().collect().await;
                }
            }
        })
    });
    futures_util::future::join_all(workers).await;
    let elapsed = started.elapsed();
    let arrivals = sink.reset();
    let count = arrivals.requests.max(1) as u32;
    Ceiling {
        name: "bare hyper POST with HMAC, 64 in flight, same sink",
        per_second: f64::from(count) / elapsed.as_secs_f64(),
        p50_p99: Some((
            arrivals.latency.value_at_quantile(0.5),
            arrivals.latency.value_at_quantile(0.99),
        )),
        own_cpu: procfs::cpu(std::process::id()).saturating_sub(cpu) / count,
        nats_cpu: Duration::ZERO,
    }
}

/// Publishes, consumes, publishes the outcome and acknowledges, over and over, on a nats-server of its own.
pub(crate) async fn log(payload: usize) -> Result<Ceiling> {
    let server = NatsServer::start().await;
    let client = async_nats::connect(server.url())
        .await
        .context("connect to nats-server")?;
    let context = async_nats::jetstream::new(client);
    let stream = context
        .create_stream(Config {
            name: "CEILING".into(),
            subjects: vec!["ceiling.>".into()],
            storage: StorageType::File,
            ..Config::default()
        })
        .await?;
    let consumer = stream
        .create_consumer(pull::Config {
            durable_name: Some("work".into()),
            ack_policy: AckPolicy::Explicit,
            filter_subject: "ceiling.work".into(),
            max_ack_pending: 10_000,
            ..pull::Config::default()
        })
        .await?;
    let messages = consumer.stream().max_messages_per_batch(500).messages().await?;

    let body = event::payload(0, Duration::ZERO, payload);
    let (started, own, nats) = (
        Instant::now(),
        procfs::cpu(std::process::id()),
        procfs::cpu(server.pid()),
    );
    let publisher = {
        let (context, body) = (context.clone(), body.clone());
        tokio::spawn(async move {
            stream::iter(0..LOG_MESSAGES)
                .take_while(|_| std::future::ready(started.elapsed() < DURATION))
                .map(|number| {
                    publish(
                        context.clone(),
                        "ceiling.work",
                        format!("w{number}"),
                        body.clone(),
                    )
                })
                .buffer_unordered(IN_FLIGHT * 4)
                .count()
                .await
        })
    };
    let deadline = tokio::time::sleep_until(started + DURATION);
    let loops = AtomicU32::new(0);
    messages
        .take_until(deadline)
        .for_each_concurrent(IN_FLIGHT * 4, |message| async {
            let Ok(message) = message else { return };
            let number = loops.fetch_add(1, Ordering::Relaxed);
            // An outcome is about half the size of what it is about: it carries the attempt's record, not the payload.
            let outcome = body.slice(..body.len() / 2);
            if publish(context.clone(), "ceiling.outcome", format!("o{number}"), outcome)
                .await
                .is_ok()
            {
                let _ = message.ack().await;
            }
        })
        .await;
    publisher.abort();
    let elapsed = started.elapsed();
    let count = loops.into_inner().max(1);
    Ok(Ceiling {
        name: "bare JetStream publish, consume, publish, ack, 256 in flight",
        per_second: f64::from(count) / elapsed.as_secs_f64(),
        p50_p99: None,
        own_cpu: procfs::cpu(std::process::id()).saturating_sub(own) / count,
        nats_cpu: procfs::cpu(server.pid()).saturating_sub(nats) / count,
    })
}

async fn publish(
    context: async_nats::jetstream::Context,
    subject: &'static str,
    id: String,
    body: Bytes,
) -> Result<()> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", id);
    context
        .publish_with_headers(subject, headers, body)
        .await?
        .await?;
    Ok(())
}
