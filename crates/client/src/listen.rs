//! Deliveries that come over the connection, for those who cannot be reached.

use cuitty_webhooks_proto::v1;
use cuitty_webhooks_proto::v1::listen_request::Request as Say;
use cuitty_webhooks_proto::v1::listen_response::Response as Told;
use futures_util::stream;
use tokio::sync::{mpsc, oneshot};
use tonic::Streaming;

use crate::client::Client;
use crate::error::ClientError;

/// Answers on their way.
const UNSENT: usize = 512;

/// An endpoint whose deliveries arrive here. It is deleted when this is dropped, or its connection lost.
pub struct Listening {
    /// The endpoint.
    pub endpoint: v1::Endpoint,
    /// What its deliveries are signed with.
    pub signing_secret: String,
    answers: mpsc::Sender<v1::ListenRequest>,
    told: Streaming<v1::ListenResponse>,
    /// Ends what is said to the server when it is dropped.
    end: oneshot::Sender<()>,
}

/// A delivery that arrived. What is dropped unanswered fails when the endpoint's timeout has passed, and comes again.
#[derive(Debug)]
pub struct Arrived {
    /// As an HTTP endpoint would get them.
    pub headers: Vec<v1::Header>,
    /// The body.
    pub payload: Vec<u8>,
    tag: u64,
    answers: mpsc::Sender<v1::ListenRequest>,
}

impl Client {
    /// Listens for the events of a project, or of the one that the key is bound to when `project_id` is empty. `event_types`
    /// are as an endpoint's. Needs the scope `manage`.
    pub async fn listen(&self, project_id: &str, event_types: &[String]) -> Result<Listening, ClientError> {
        let (answers, said) = mpsc::channel(UNSENT);
        let start = v1::ListenStart {
            project_id: project_id.to_owned(),
            event_types: event_types.to_vec(),
        };
        // There is room for it.
        let _ = answers.try_send(say(Say::Start(start)));
        let (end, ended) = oneshot::channel();
        let said = stream::unfold((said, ended), async |(mut said, mut ended)| {
            let message = tokio::select! {
                biased;
                message = said.recv() => message?,
                _ = &mut ended => return None,
            };
            Some((message, (said, ended)))
        });
        let mut told = self.listeners.clone().listen(said).await?.into_inner();
        let started = told.message().await?.and_then(|told| told.response);
        let Some(Told::Started(started)) = started else {
            return Err(ClientError::Internal(
                "the server does not say what it made".into(),
            ));
        };
        Ok(Listening {
            endpoint: started.endpoint.unwrap_or_default(),
            signing_secret: started.signing_secret,
            answers,
            told,
            end,
        })
    }
}

impl Listening {
    /// The next delivery; `None` when the server ended the call.
    pub async fn next(&mut self) -> Result<Option<Arrived>, ClientError> {
        while let Some(told) = self.told.message().await? {
            if let Some(Told::Delivery(delivery)) = told.response {
                return Ok(Some(Arrived {
                    headers: delivery.headers,
                    payload: delivery.payload.to_vec(),
                    tag: delivery.tag,
                    answers: self.answers.clone(),
                }));
            }
        }
        Ok(None)
    }

    /// Ends the call, and waits until the server has deleted the endpoint.
    pub async fn end(self) -> Result<(), ClientError> {
        let Self { mut told, end, .. } = self;
        drop(end);
        while told.message().await?.is_some() {}
        Ok(())
    }
}

impl Arrived {
    /// The value of a header, by its name in lower case; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        let header = self.headers.iter().find(|header| header.name == name);
        header.map_or("", |header| &header.value)
    }

    /// Says that it was taken, or why not: then the attempt fails with that, and is made again later.
    pub async fn answer(self, taken: Result<(), String>) {
        let answer = v1::ListenAnswer {
            tag: self.tag,
            error: taken.err().unwrap_or_default(),
        };
        // If the call has ended, the attempt has failed already.
        let _ = self.answers.send(say(Say::Answer(answer))).await;
    }
}

fn say(request: Say) -> v1::ListenRequest {
    v1::ListenRequest {
        request: Some(request),
    }
}
