//! The roles inside the test's own process, started through the same library calls that the binary makes.

use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::time::Duration;

use chrono::Utc;
use cuitty_webhooks_domain::Clock;
use cuitty_webhooks_server::config::{Config, Sources};
use cuitty_webhooks_server::roles::{Edge, Role, Running};
use cuitty_webhooks_server::shutdown::Shutdown;
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};

use crate::background::Background;
use crate::eventually::PATIENCE;
use crate::roles::Settings;

/// The system's clock, which nats-server and every process of ours read too.
#[expect(clippy::disallowed_methods, reason = "a test is an edge of its own")]
pub const CLOCK: Clock = Utc::now;

/// Roles on a thread of their own. Cut off on drop, as by SIGKILL, except that the thread is waited for.
#[derive(Debug)]
pub struct LocalRoles {
    listen: Option<SocketAddr>,
    _thread: Background,
}

impl LocalRoles {
    /// Starts `roles` on free ports and waits until they are ready. Blocks.
    ///
    /// # Panics
    /// When they do not become ready, with what they say is missing.
    pub fn start(roles: &'static [Role], settings: &Settings) -> Self {
        let settings = settings
            .clone()
            .set("listen.api", "127.0.0.1:0")
            .set("listen.admin", "127.0.0.1:0");
        let environment = settings
            .environment()
            .map(|(name, value)| (name, value.to_owned()))
            .collect();
        let sources = Sources {
            environment,
            ..Sources::default()
        };
        let (config, _) = Config::load(&sources, roles).expect("the test's configuration is valid");
        let (tell, told) = channel();
        let thread = Background::spawn("roles", async move |stop| {
            let shutdown = Shutdown::default();
            let edge = Edge {
                clock: CLOCK,
                rng: StdRng::try_from_rng(&mut SysRng).expect("the system has randomness"),
            };
            let started = async {
                let mut running = Running::start(&config, roles, edge, shutdown.clone()).await?;
                running.ready(PATIENCE).await?;
                anyhow::Ok(running)
            };
            match started.await {
                Ok(running) => {
                    let _ = tell.send(Ok(running.api_address()));
                    stop.cancelled().await;
                    shutdown.hard.cancel();
                    let _ = running.stop().await;
                }
                Err(error) => {
                    let _ = tell.send(Err(format!("{error:#}")));
                }
            }
        });
        let listen = told
            .recv_timeout(PATIENCE + Duration::from_secs(10))
            .expect("the roles start in time")
            .unwrap_or_else(|error| panic!("the roles do not start: {error}"));
        Self {
            listen,
            _thread: thread,
        }
    }

    /// Where gRPC and REST are served, when the API is among the roles: `http://host:port`.
    pub fn url(&self) -> Option<String> {
        self.listen.map(|address| format!("http://{address}"))
    }
}
