//! Endpoints that live as long as a call: their deliveries go to the caller.
//!
//! Such an endpoint is one of kind `nats` on a subject of its own that wants replies, and this process subscribes there for
//! the caller. So nothing but the last step differs from other endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use cuitty_webhooks_domain::endpoint::{Endpoint, EndpointDraft};
use cuitty_webhooks_domain::ids::EndpointId;
use cuitty_webhooks_domain::signing::SigningSecret;
use cuitty_webhooks_log::{AnswerTo, Listener, Notified};
use futures_util::{Stream, StreamExt};
use rand::RngExt;
use tokio::sync::mpsc;

use super::input::Violations;
use super::{App, NewEndpoint, Terms, observed};
use crate::auth::{Caller, Scope};
use crate::error::AppError;

const DESCRIPTION: &str = "listens for as long as a call lasts";
/// Deliveries on their way to the caller, and deliveries whose answers are awaited; those of one endpoint that are in flight
/// are fewer. What is above is dropped, and so is retried.
const UNREAD: usize = 512;
const UNANSWERED: usize = 1024;

/// What a caller wants to be brought.
#[derive(Debug, Default)]
pub(crate) struct NewListener {
    /// May be empty with a key that is bound to a project.
    pub(crate) project_id: String,
    pub(crate) event_types: Vec<String>,
}

/// What a caller says of a delivery.
#[derive(Debug)]
pub(crate) struct ListenAnswer {
    pub(crate) tag: u64,
    /// Empty when it was taken.
    pub(crate) error: String,
}

/// A delivery for the caller.
#[derive(Debug)]
pub(crate) struct Brought {
    pub(crate) tag: u64,
    pub(crate) notified: Notified,
}

/// An endpoint, its secret and its deliveries. Dropping these deletes it.
pub(crate) struct Listening {
    pub(crate) endpoint: Endpoint,
    pub(crate) signing_secret: SigningSecret,
    pub(crate) log_sequence: u64,
    pub(crate) deliveries: mpsc::Receiver<Result<Brought, AppError>>,
}

impl App {
    /// Makes an endpoint whose deliveries are brought to the caller, until `answers` end or are an error, `deliveries` is
    /// dropped, the key is revoked or the service shuts down. Then it is deleted.
    #[tracing::instrument(name = "api.listen", skip_all)]
    pub(crate) async fn listen(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        new: NewListener,
        answers: impl Stream<Item = Result<ListenAnswer, AppError>> + Send + 'static,
    ) -> Result<Listening, AppError> {
        observed("listen", async {
            caller.require(Scope::Manage)?;
            let mut violations = Violations::default();
            let project_id = violations.project(caller, &new.project_id);
            let project_id = violations.finish(project_id)?;
            caller.require_project(&project_id)?;
            let place = self.watches.place()?;
            let name: u128 = self.with_rng(RngExt::random);
            let subject = format!("{}.{project_id}.listen.{name:032x}", self.policy.nats_prefix);
            let listener = self.log.listen(subject.clone()).await?;
            let new = NewEndpoint {
                project_id: project_id.to_string(),
                draft: EndpointDraft {
                    url: format!("nats:{subject}?reply"),
                    event_types: new.event_types,
                    description: DESCRIPTION.to_owned(),
                    ..EndpointDraft::default()
                },
                ..NewEndpoint::default()
            };
            let created = self.create_endpoint(caller, new, String::new()).await?.value;
            let (sender, deliveries) = mpsc::channel(UNREAD);
            let session = Session {
                app: Arc::clone(self),
                caller: Arc::clone(caller),
                endpoint_id: created.endpoint.id,
                listener,
                unanswered: BTreeMap::new(),
                deliveries: sender,
            };
            // On its own: the endpoint is deleted also when the caller goes without a word.
            tokio::spawn(async move {
                session.run(answers).await;
                drop(place);
            });
            Ok(Listening {
                endpoint: created.endpoint,
                signing_secret: created.signing_secret,
                log_sequence: created.log_sequence,
                deliveries,
            })
        })
        .await
    }
}

/// One caller that listens.
struct Session {
    app: Arc<App>,
    caller: Arc<Caller>,
    endpoint_id: EndpointId,
    listener: Listener,
    unanswered: BTreeMap<u64, AnswerTo>,
    deliveries: mpsc::Sender<Result<Brought, AppError>>,
}

impl Session {
    async fn run(mut self, answers: impl Stream<Item = Result<ListenAnswer, AppError>>) {
        let ended = self.carry(answers).await;
        let id = self.endpoint_id;
        // Before the call ends, so that a shutdown waits for it.
        let deleted = self.app.delete_endpoint(&self.caller, id, Terms::default()).await;
        if let Err(error) = deleted {
            tracing::warn!(endpoint.id = %id, %error, "an endpoint outlives its listener: delete it");
        }
        if let Err(error) = ended {
            // The caller may be gone.
            let _ = self.deliveries.try_send(Err(error));
        }
    }

    /// Carries deliveries to the caller and answers back, until there is a reason to end.
    async fn carry(
        &mut self,
        answers: impl Stream<Item = Result<ListenAnswer, AppError>>,
    ) -> Result<(), AppError> {
        let revoked = self.app.keys.revoked(&self.caller);
        let stopped = self.app.watches.stopped();
        tokio::pin!(answers, revoked, stopped);
        for tag in 1.. {
            let notified = loop {
                tokio::select! {
                    () = &mut stopped => return Err(AppError::ShuttingDown),
                    () = &mut revoked => return Err(AppError::WrongKey),
                    () = self.deliveries.closed() => return Ok(()),
                    answer = answers.next() => match answer {
                        Some(answer) => self.answer(answer?).await,
                        None => return Ok(()),
                    },
                    notified = self.listener.next() => break notified,
                }
            };
            let Some(mut notified) = notified else {
                return Err(AppError::ShuttingDown);
            };
            let Some(to) = notified.answer_to.take() else {
                continue;
            };
            if self.deliveries.try_send(Ok(Brought { tag, notified })).is_ok() {
                self.unanswered.insert(tag, to);
            }
            if self.unanswered.len() > UNANSWERED {
                self.unanswered.pop_first();
            }
        }
        Ok(())
    }

    async fn answer(&mut self, ListenAnswer { tag, error }: ListenAnswer) {
        if let Some(to) = self.unanswered.remove(&tag) {
            self.listener.answer(to, &error).await;
        }
    }
}
