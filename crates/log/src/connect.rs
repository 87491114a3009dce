//! Connecting to nats-server: once with a precise error, afterwards for ever with capped back-off.

use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::time::Duration;

use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError};
use backon::{BackoffBuilder, ExponentialBuilder};
use percent_encoding::percent_decode_str;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, info, warn};

use crate::append::Budget;
use crate::config::LogConfig;
use crate::denial::Denials;
use crate::error::LogError;
use crate::metrics::{Metrics, names};
use crate::work::Floor;
use crate::{Inner, Log, tls};

/// The lowest version that fires every timer after it was killed.
const REQUIRED_VERSION: &str = "2.14.0";
/// Longest pause between two attempts to connect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(2);
/// How long the first answer is waited for before a question is put again; doubled from then on.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// A connection that answers no ping for twice this long is given up.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// How long a start tries for what it needs of a log that it is connected to: longer than a cluster takes to elect leaders.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait for one attempt to connect.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Commands that wait for the connection's task; more make their senders wait.
const SENDER_CAPACITY: usize = 8192;
/// Publishes that may wait for their acknowledgement: so many that nobody ever waits here, where one would hold what
/// others wait for, and where an acknowledgement that was lost counts for `request_timeout`. [`Budget`] bounds them.
const MAX_ACK_INFLIGHT: usize = 1 << 24;

impl Log {
    /// Connects, and checks that nats-server is new enough and has JetStream.
    ///
    /// Tries for `connect_timeout`; a URL or credentials that cannot work fail at once. Afterwards a lost connection is
    /// made again for ever.
    pub async fn connect(config: LogConfig) -> Result<Self, LogError> {
        let servers = parse_servers(&config.url)?;
        let deadline = Instant::now() + config.connect_timeout;
        let (connected, mut connects) = watch::channel(0u64);
        let (connected, denials) = (Arc::new(connected), Arc::new(Denials::default()));
        let client = until(deadline, || connect(&config, &servers, &connected, &denials)).await?;
        check_version(&client)?;
        let jetstream = ContextBuilder::new()
            .timeout(config.request_timeout)
            .ack_timeout(config.request_timeout)
            .max_ack_inflight(MAX_ACK_INFLIGHT)
            .build(client.clone());
        until(deadline, || async {
            let account = jetstream.query_account().await;
            account.map_err(|error| LogError::Unavailable(format!("JetStream does not answer: {error}")))
        })
        .await?;
        // The client tells of its first connection in its own time; told later, it would look like one made anew.
        let _ = timeout(ATTEMPT_TIMEOUT, connects.wait_for(|&connects| connects > 0)).await;
        let budget = Budget::new(config.max_append_bytes);
        let (partitions, floors) = (AtomicU16::new(0), std::array::from_fn(|_| Floor::default()));
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                client,
                jetstream,
                connects,
                denials,
                budget,
                metrics: Metrics::new(),
                partitions,
                floors,
            }),
        })
    }
}

impl Log {
    /// A connection of its own, made as this one was.
    ///
    /// nats-server takes the requests of a connection one after the other. Reads of one endpoint's events, for which it may
    /// have to look through much of the log, hold up what else goes over their connection.
    pub async fn apart(&self) -> Result<Self, LogError> {
        Self::connect(self.config().clone()).await
    }

    /// Repeats what a start begins with while the log is not available, at most for [`START_PATIENCE`].
    pub(crate) async fn at_start<T, F: Future<Output = Result<T, LogError>>>(
        &self,
        operation: impl FnMut() -> F,
    ) -> Result<T, LogError> {
        until(Instant::now() + START_PATIENCE, operation).await
    }

    /// Repeats `operation` while the log is not available, at most for `request_timeout`.
    pub(crate) async fn retried<T, F: Future<Output = Result<T, LogError>>>(
        &self,
        operation: impl FnMut() -> F,
    ) -> Result<T, LogError> {
        let patience = self.config().request_timeout;
        let repeated = until(Instant::now() + patience, operation);
        timeout(patience, repeated)
            .await
            .unwrap_or_else(|_| Err(LogError::Unavailable("no answer in time".into())))
    }

    /// Puts a question that may be put more than once until it is answered, at most for `request_timeout`: `None` then.
    ///
    /// A cluster does not answer at all while who would is being elected, nor when it gives the task to a server of which it
    /// does not know yet that it is dead. Asking again finds another one, long before the time for an answer is over.
    pub(crate) async fn insist<T, F: Future<Output = T>>(&self, question: impl FnMut() -> F) -> Option<T> {
        insist(self.config().request_timeout, question).await
    }
}

async fn insist<T, F: Future<Output = T>>(limit: Duration, mut question: impl FnMut() -> F) -> Option<T> {
    let deadline = Instant::now() + limit;
    let mut patience = FIRST_PATIENCE;
    loop {
        let until = (Instant::now() + patience).min(deadline);
        match timeout_at(until, Box::pin(question())).await {
            Ok(answer) => return Some(answer),
            Err(_) if until == deadline => return None,
            // It may be slow, not gone.
            Err(_) => patience *= 2,
        }
    }
}

/// Repeats `operation` while the log is not available, until `deadline`.
async fn until<T, F: Future<Output = Result<T, LogError>>>(
    deadline: Instant,
    mut operation: impl FnMut() -> F,
) -> Result<T, LogError> {
    let mut pauses = backoff().without_max_times().build();
    loop {
        let error = match operation().await {
            Err(error) if error.is_transient() => error,
            result => return result,
        };
        let pause = pauses.next().unwrap_or_default();
        if Instant::now() + pause >= deadline {
            return Err(error);
        }
        debug!(%error, ?pause, "the log is not available yet");
        sleep(pause).await;
    }
}

/// A connection to the server at this place in `log.url` and to no other, tried once.
pub(crate) async fn connect_to(config: &LogConfig, index: usize) -> Result<Client, LogError> {
    let servers = parse_servers(&config.url)?;
    let (connected, denials) = (Arc::new(watch::channel(0).0), Arc::new(Denials::default()));
    let options = options(config, &servers, &connected, &denials)
        .await?
        .ignore_discovered_servers();
    let server = &servers[index..=index];
    dial(options, server).await
}

async fn connect(
    config: &LogConfig,
    servers: &[ServerAddr],
    connected: &Arc<watch::Sender<u64>>,
    denials: &Arc<Denials>,
) -> Result<Client, LogError> {
    let options = options(config, servers, connected, denials).await?;
    dial(options, servers).await
}

async fn dial(options: ConnectOptions, servers: &[ServerAddr]) -> Result<Client, LogError> {
    let addresses = || {
        servers
            .iter()
            .map(|server| format!("{}:{}", server.host(), server.port()))
            .collect::<Vec<_>>()
    };
    options
        .connect(servers)
        .await
        .map_err(|error| match error.kind() {
            ConnectErrorKind::ServerParse => LogError::Config {
                setting: "log.url",
                message: error.to_string(),
            },
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                LogError::Unauthorized(error.to_string())
            }
            _ => tls::refused(&error).unwrap_or_else(|| {
                LogError::Unavailable(format!(
                    "cannot connect to {} (log.url): {error}",
                    addresses().join(", ")
                ))
            }),
        })
}

/// The pauses between repeated operations: 50 ms, doubled up to [`MAX_RECONNECT_DELAY`].
pub(crate) fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(MAX_RECONNECT_DELAY)
}

pub(crate) fn parse_servers(url: &str) -> Result<Vec<ServerAddr>, LogError> {
    let invalid = |message: String| LogError::Config {
        setting: "log.url",
        message,
    };
    let servers = url
        .split(',')
        .map(str::trim)
        .filter(|address| !address.is_empty())
        .map(|address| {
            address
                .parse()
                .map_err(|error: std::io::Error| invalid(error.to_string()))
        })
        .collect::<Result<Vec<ServerAddr>, _>>()?;
    if servers.is_empty() || servers.iter().any(|server| server.host().is_empty()) {
        return Err(invalid(
            "must name at least one nats-server, as in nats://127.0.0.1:4222".into(),
        ));
    }
    Ok(servers)
}

async fn options(
    config: &LogConfig,
    servers: &[ServerAddr],
    connected: &Arc<watch::Sender<u64>>,
    denials: &Arc<Denials>,
) -> Result<ConnectOptions, LogError> {
    let (connected, denials) = (connected.clone(), denials.clone());
    let options = ConnectOptions::new()
        .name(&config.name)
        .connection_timeout(config.connect_timeout.min(ATTEMPT_TIMEOUT))
        .request_timeout(Some(config.request_timeout))
        .custom_inbox_prefix(&config.inbox_prefix)
        .ping_interval(PING_INTERVAL)
        .client_capacity(SENDER_CAPACITY)
        .reconnect_delay_callback(retry_delay)
        .event_callback(move |event| {
            let (connected, denials) = (connected.clone(), denials.clone());
            async move { on_event(&event, &connected, &denials) }
        });
    let options = tls::with_tls(options, config)?;
    match &config.credentials_file {
        None => Ok(with_login(options, servers)),
        Some(path) => options
            .credentials_file(path)
            .await
            .map_err(|error| LogError::Config {
                setting: "log.credentials_file",
                message: format!("{} cannot be used: {error}", path.display()),
            }),
    }
}

/// Adds what stands before `@` in the first address that has it: a user and a password, or a token. The client looks for
/// it in its options only.
fn with_login(options: ConnectOptions, servers: &[ServerAddr]) -> ConnectOptions {
    let login = servers
        .iter()
        .find_map(|server| Some((server.username()?, server.password())));
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    match login {
        None => options,
        Some((user, Some(password))) => options.user_and_password(decoded(user), decoded(password)),
        Some((token, None)) => options.token(decoded(token)),
    }
}

/// The pause before the attempt of this number: none before the first two, then those of [`backoff`].
pub(crate) fn retry_delay(attempt: usize) -> Duration {
    match attempt {
        0 | 1 => Duration::ZERO,
        attempt => backoff()
            .without_max_times()
            .build()
            .nth(attempt - 2)
            .unwrap_or(MAX_RECONNECT_DELAY),
    }
}

fn on_event(event: &Event, connected: &watch::Sender<u64>, denials: &Denials) {
    match event {
        Event::Connected => {
            connected.send_modify(|connects| *connects += 1);
            metrics::counter!(names::CONNECTS).increment(1);
            info!("connected to the log");
        }
        Event::Disconnected => warn!("lost the connection to the log, connecting again"),
        Event::ClientError(error) => debug!(%error, "cannot connect to the log yet"),
        Event::SlowConsumer(_) => warn!("the log's client dropped messages that were not read in time"),
        Event::LameDuckMode => info!("nats-server is about to stop"),
        Event::ServerError(ServerError::Other(text)) if denials.heed(text) => {}
        Event::ServerError(error) => warn!(%error, "nats-server reported an error"),
        Event::Draining | Event::Closed => debug!(%event, "connection to the log ends"),
    }
}

fn check_version(client: &Client) -> Result<(), LogError> {
    if client.is_server_compatible(2, 14, 0) {
        return Ok(());
    }
    Err(LogError::ServerTooOld {
        found: client.server_info().version,
        required: REQUIRED_VERSION,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_servers_is_read_and_a_bad_one_names_the_setting() {
        let servers = parse_servers("nats://a:1, tls://b:2,c").unwrap();
        let ports: Vec<_> = servers
            .iter()
            .map(|server| (server.host(), server.port()))
            .collect();
        assert_eq!(ports, [("a", 1), ("b", 2), ("c", 4222)]);
        for url in ["", " , ", "http://a:1", "nats://a:port", "nats://"] {
            let refused = parse_servers(url);
            assert!(
                matches!(
                    refused,
                    Err(LogError::Config {
                        setting: "log.url",
                        ..
                    })
                ),
                "{url}: {refused:?}"
            );
        }
    }

    #[test]
    fn a_bad_url_does_not_show_its_password() {
        let refused = parse_servers("nats://user:hunter2@a:port").unwrap_err();
        assert!(!refused.to_string().contains("hunter2"), "{refused}");
    }

    #[test]
    fn reconnecting_starts_at_once_and_slows_down_to_the_cap() {
        let millis = [0, 1, 2, 3, 4, 7, 8, 100].map(|attempt| retry_delay(attempt).as_millis());
        assert_eq!(millis, [0, 0, 50, 100, 200, 1600, 2000, 2000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_is_put_again_while_nobody_answers_and_given_up_in_the_end() {
        let begun = Instant::now();
        let mut asked_at = Vec::new();
        let answer = insist(Duration::from_secs(10), || {
            asked_at.push(begun.elapsed().as_secs());
            let is_heard = asked_at.len() == 4;
            async move {
                if !is_heard {
                    std::future::pending::<()>().await;
                }
                sleep(Duration::from_secs(2)).await;
            }
        });
        assert_eq!(answer.await, Some(()));
        assert_eq!((asked_at, begun.elapsed().as_secs()), (vec![0, 1, 3, 7], 9));

        let begun = Instant::now();
        let answer = insist(Duration::from_secs(10), std::future::pending::<()>);
        assert_eq!((answer.await, begun.elapsed().as_secs()), (None, 10));
    }
}
