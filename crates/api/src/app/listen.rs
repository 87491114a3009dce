//! Endpoints that live as long as a call: their deliveries go to the caller.
//!
//! Such an endpoint is one of kind `nats` on a subject of its own that wants replies, and this process subscribes there for
//! the caller. So nothing but the last step differs from other endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cuitty_webhooks_domain::endpoint::{Endpoint, EndpointDraft};
use cuitty_webhooks_domain::ids::EndpointId;
use cuitty_webhooks_domain::signing::SigningSecret;
use cuitty_webhooks_domain::subject::listener_subject;
use cuitty_webhooks_log::{AnswerTo, Listener, Notified};
use futures_util::{Stream, StreamExt};
use rand::RngExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::{Instrument, Span};

use super::input::Violations;
use super::places::TakenPlace;
use super::{App, NewEndpoint, Terms, observed};
use crate::auth::{Caller, Scope};
use crate::error::AppError;

const DESCRIPTION: &str = "listens for as long as a call lasts";
/// Deliveries on their way to the caller, and deliveries whose answers are awaited. What is above is dropped, and so is
/// retried: of a caller that does not read, attempts time out and others take their places, while what they brought waits.
const UNREAD: usize = 512;
const UNANSWERED: usize = 1024;
/// Bytes of payloads and headers on their way to the caller; room for the largest payload many times.
const UNREAD_BYTES: usize = 8 * 1024 * 1024;
/// How often an endpoint is tried to be deleted, and the pause after the first time, which doubles: a minute in all.
const DELETE_TRIES: u32 = 8;
const DELETE_PAUSE: Duration = Duration::from_millis(500);

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
    /// Kept until it is handed on.
    _room: OwnedSemaphorePermit,
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
            let place = self.watches.place(caller)?;
            let name: u128 = self.with_rng(RngExt::random);
            let subject = listener_subject(&self.policy.nats_prefix, &project_id, name);
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
            let (tell, told) = oneshot::channel();
            let opening = Opening {
                app: Arc::clone(self),
                caller: Arc::clone(caller),
                listener,
                place,
                new,
            };
            // In one task from before the endpoint is there until it is deleted: the caller may go without a word at any
            // time, and a shutdown waits for what is seen through.
            self.accepting.spawn(opening.run(answers, tell, Span::current()));
            told.await.map_err(AppError::internal)?
        })
        .await
    }
}

/// Somebody who is about to listen.
struct Opening {
    app: Arc<App>,
    caller: Arc<Caller>,
    listener: Listener,
    place: TakenPlace,
    new: NewEndpoint,
}

impl Opening {
    async fn run(
        self,
        answers: impl Stream<Item = Result<ListenAnswer, AppError>>,
        tell: oneshot::Sender<Result<Listening, AppError>>,
        span: Span,
    ) {
        let Self {
            app,
            caller,
            listener,
            place,
            new,
        } = self;
        let creating = app.create_endpoint(&caller, new, String::new());
        let created = match creating.instrument(span).await {
            Ok(created) => created.value,
            Err(error) => {
                // The caller may be gone.
                let _ = tell.send(Err(error));
                return;
            }
        };
        let (sender, deliveries) = mpsc::channel(UNREAD);
        let session = Session {
            endpoint_id: created.endpoint.id,
            listener,
            unanswered: BTreeMap::new(),
            unread: Arc::new(Semaphore::new(UNREAD_BYTES)),
            deliveries: sender,
            app,
            caller,
        };
        // When the caller is gone, so are `deliveries`, and the session ends at once.
        let _ = tell.send(Ok(Listening {
            endpoint: created.endpoint,
            signing_secret: created.signing_secret,
            log_sequence: created.log_sequence,
            deliveries,
        }));
        session.run(answers).await;
        drop(place);
    }
}

/// One caller that listens.
struct Session {
    app: Arc<App>,
    caller: Arc<Caller>,
    endpoint_id: EndpointId,
    listener: Listener,
    unanswered: BTreeMap<u64, AnswerTo>,
    /// Bytes that the caller may yet leave unread.
    unread: Arc<Semaphore>,
    deliveries: mpsc::Sender<Result<Brought, AppError>>,
}

impl Session {
    async fn run(mut self, answers: impl Stream<Item = Result<ListenAnswer, AppError>>) {
        let ended = self.carry(answers).await;
        let Self {
            app,
            caller,
            endpoint_id,
            listener,
            deliveries,
            ..
        } = self;
        // What comes from now on is told at once that nobody listens, and piles up nowhere.
        drop(listener);
        delete(&app, &caller, endpoint_id).await;
        if let Err(error) = ended {
            // The caller may be gone.
            let _ = deliveries.try_send(Err(error));
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
            let Ok(room) = Arc::clone(&self.unread).try_acquire_many_owned(size(&notified)) else {
                continue;
            };
            let brought = Brought {
                tag,
                notified,
                _room: room,
            };
            if self.deliveries.try_send(Ok(brought)).is_ok() {
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

/// What a delivery takes of the memory of a caller who does not read.
fn size(notified: &Notified) -> u32 {
    let headers = notified.headers.iter();
    let headers: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
    u32::try_from(notified.payload.len() + headers).unwrap_or(u32::MAX)
}

/// Deletes the endpoint of a listener that is gone, while the log may not be reached for some time.
async fn delete(app: &App, caller: &Caller, id: EndpointId) {
    let mut pause = DELETE_PAUSE;
    for tried in 1..=DELETE_TRIES {
        let Err(error) = app.delete_endpoint(caller, id, Terms::default()).await else {
            return;
        };
        // By somebody else, or by a try whose answer was lost.
        let known = app.directory.get(id);
        if known.is_some_and(|entry| entry.endpoint.deleted_at.is_some()) {
            return;
        }
        if tried == DELETE_TRIES {
            tracing::warn!(endpoint.id = %id, %error, "an endpoint outlives its listener: delete it");
        } else {
            tracing::debug!(endpoint.id = %id, %error, "cannot delete the endpoint of a listener yet");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}
