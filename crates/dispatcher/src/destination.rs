//! Where a request goes, and what carries it there: the place for what the dispatcher knows of each kind of destination.

mod nats;

use std::time::Duration;

use ::http::Uri;
use cuitty_webhooks_domain::attempt::{AttemptError, ErrorClass};
use cuitty_webhooks_domain::destination;
use cuitty_webhooks_domain::egress::{EgressPolicy, UrlRefused};
use cuitty_webhooks_domain::endpoint::{Endpoint, EndpointKind};
use cuitty_webhooks_domain::subject::NatsAddress;
use cuitty_webhooks_log::Log;

use crate::attempt::Outgoing;
use crate::http::{Exchange, Exhausted, HttpClient};
use crate::target::unusable;

/// Where an endpoint's requests go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Http(Uri),
    /// As HTTP, with answers of its own.
    Slack(Uri),
    Nats(NatsAddress),
}

/// Carries requests to every kind of destination.
pub(crate) struct Sender {
    pub(crate) http: HttpClient,
    pub(crate) log: Log,
}

/// A request was not made, or nobody knows, for reasons of this process. Says nothing about the receiver.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotSent {
    #[error("{0}; raise the limit of open files or lower dispatcher.max_in_flight")]
    Exhausted(#[from] Exhausted),
    #[error("nats-server does not answer")]
    NoNats,
}

impl Destination {
    /// Where `endpoint` leads, if `policy` allows it.
    pub(crate) fn prepare(endpoint: &Endpoint, policy: &EgressPolicy) -> Result<Self, AttemptError> {
        let url = &endpoint.settings.url;
        match endpoint.settings.kind {
            EndpointKind::Http => uri(url, policy).map(Self::Http),
            EndpointKind::Slack => uri(url, policy).map(Self::Slack),
            EndpointKind::Nats => {
                let address = policy.nats_prefix.vet(url, &endpoint.project_id);
                let address = address.map_err(|refused| unusable(format!("url {refused}")))?;
                Ok(Self::Nats(address))
            }
        }
    }
}

impl Sender {
    /// Sends `request` and waits for what comes of it, all within `limit`.
    pub(crate) async fn send(
        &self,
        to: &Destination,
        request: Outgoing,
        limit: Duration,
    ) -> Result<Exchange, NotSent> {
        match to {
            Destination::Http(uri) => Ok(self.post(uri, request, limit).await?),
            Destination::Slack(uri) => {
                let mut exchange = self.post(uri, request, limit).await?;
                let answered = exchange.error.as_mut().zip(exchange.response.as_ref());
                if let Some((error, response)) = answered
                    && let Some(told) = destination::explain(EndpointKind::Slack, response)
                {
                    error.message = format!("{}: {told}", error.message);
                }
                Ok(exchange)
            }
            Destination::Nats(address) => nats::publish(&self.log, address, request, limit).await,
        }
    }

    async fn post(&self, uri: &Uri, request: Outgoing, limit: Duration) -> Result<Exchange, Exhausted> {
        let Outgoing { headers, body, .. } = request;
        self.http.post(uri.clone(), headers, body, limit).await
    }
}

fn uri(url: &str, policy: &EgressPolicy) -> Result<Uri, AttemptError> {
    let url = policy.vet_url(url).map_err(|refused| AttemptError {
        class: match refused {
            UrlRefused::Address(_) => ErrorClass::BlockedAddress,
            _ => ErrorClass::Configuration,
        },
        message: format!("url {refused}"),
    })?;
    url.as_str()
        .parse()
        .map_err(|error| unusable(format!("url cannot be sent: {error}")))
}
