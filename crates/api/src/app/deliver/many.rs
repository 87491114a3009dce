//! Many messages of one caller, in a batch or a stream: each is accepted or refused by itself.
//!
//! Where a single message is refused when too many are being accepted, these wait for their turn, and whoever sends them waits
//! with them. What was begun is seen through, also when its caller goes away.

use std::sync::Arc;

use cuitty_webhooks_domain::limits;
use cuitty_webhooks_domain::rejection::Rejection;
use cuitty_webhooks_log::trace::{self, Traced};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::{Accepted, NewMessage};
use crate::app::places::TakenPlace;
use crate::app::{App, observed, observed_in};
use crate::auth::{Caller, Scope};
use crate::error::AppError;
use crate::metrics as names;

/// Messages of one batch or stream that are accepted at the same time.
const AT_ONCE: usize = 128;

/// A message of many, as its door read it.
pub(crate) type Item = Result<NewMessage, AppError>;

/// Counts an open stream, and keeps its place.
struct Open {
    _place: TakenPlace,
}

impl Open {
    fn new(place: TakenPlace) -> Self {
        metrics::gauge!(names::DELIVER_STREAMS).increment(1.0);
        Self { _place: place }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::gauge!(names::DELIVER_STREAMS).decrement(1.0);
    }
}

impl App {
    /// Accepts 1 to [`limits::BATCH_ITEMS`] messages: what became of each, in their order. They are accepted at the same time,
    /// and may stand in the log in another one.
    #[tracing::instrument(name = "api.deliver_batch", skip_all, fields(items = items.len()))]
    pub(crate) async fn deliver_batch(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        items: Vec<NewMessage>,
    ) -> Result<Vec<Result<Accepted, AppError>>, AppError> {
        observed("deliver_batch", async {
            caller.require(Scope::Deliver)?;
            if !(1..=limits::BATCH_ITEMS).contains(&items.len()) {
                let text = format!("must be 1 to {}, not {}", limits::BATCH_ITEMS, items.len());
                return Err(Rejection::field("items", text).into());
            }
            let results = stream::iter(items)
                .then(|item| Arc::clone(self).begin_item(Arc::clone(caller), Ok(item)))
                .buffered(AT_ONCE);
            Ok(results.collect().await)
        })
        .await
    }

    /// Accepts messages as they come: what became of each, beside its tag, in any order.
    ///
    /// No more are read while [`AT_ONCE`] are under way, or while nobody takes the results. The stream ends when `items` does.
    /// After an error of `items`, when the caller's key is revoked, or when the service shuts down, no more are read; once
    /// what was read is answered for, the stream ends with an error.
    #[tracing::instrument(name = "api.deliver_stream", skip_all)]
    pub(crate) async fn deliver_stream<S, E>(
        self: &Arc<Self>,
        caller: Arc<Caller>,
        items: S,
    ) -> Result<impl Stream<Item = Result<(u64, Result<Accepted, AppError>), E>> + Send + use<S, E>, AppError>
    where
        S: Stream<Item = Result<(u64, Item), E>> + Send + Unpin + 'static,
        E: From<AppError> + Send + 'static,
    {
        observed("deliver_stream", async {
            caller.require(Scope::Deliver)?;
            let place = self.deliver_streams.take(&caller);
            let open = Open::new(place.map_err(AppError::TooManyStreams)?);
            let (tell, told) = oneshot::channel();
            let read = self.read_items(&caller, items, tell);
            let app = Arc::clone(self);
            // Whoever takes the results reads the items, long after the call itself was answered.
            let traced = Traced::current();
            let results = read
                .then(move |(tag, item)| {
                    let beginning = Arc::clone(&app).begin_item(Arc::clone(&caller), item);
                    let traced = traced.clone();
                    async move {
                        let accepting = match traced {
                            Some(traced) => traced.run(beginning).await,
                            None => beginning.await,
                        };
                        (tag, accepting)
                    }
                })
                .map(async |(tag, accepting)| (tag, accepting.await))
                .buffer_unordered(AT_ONCE)
                .map(Ok);
            // Nothing is told when `items` just ended.
            let end = stream::once(told).filter_map(async |why| why.ok().map(Err));
            // Open until the results are taken, or nobody wants them any more.
            Ok(results.chain(end).inspect(move |_| {
                let _ = &open;
            }))
        })
        .await
    }

    /// `items` until they end, or there is a reason to read no more, which is told.
    fn read_items<S, E, T>(
        &self,
        caller: &Caller,
        items: S,
        tell: oneshot::Sender<E>,
    ) -> impl Stream<Item = T> + Send + use<S, E, T>
    where
        S: Stream<Item = Result<T, E>> + Send + Unpin + 'static,
        E: From<AppError> + Send + 'static,
        T: Send + 'static,
    {
        let closing = self.closing.clone();
        let revoked = Box::pin(self.keys.revoked(caller));
        stream::unfold((items, revoked, tell), move |(mut items, mut revoked, tell)| {
            let closing = closing.clone();
            async move {
                let why = tokio::select! {
                    biased;
                    () = closing.cancelled() => AppError::ShuttingDown.into(),
                    () = &mut revoked => AppError::WrongKey.into(),
                    next = items.next() => match next? {
                        Ok(item) => return Some((item, (items, revoked, tell))),
                        Err(error) => error,
                    },
                };
                // A caller who is gone is told nothing.
                let _ = tell.send(why);
                None
            }
        })
    }

    /// Begins to accept a message, once there is room for it. It goes on whether or not its result is waited for.
    async fn begin_item(
        self: Arc<Self>,
        caller: Arc<Caller>,
        item: Item,
    ) -> impl Future<Output = Result<Accepted, AppError>> + Send {
        let room = self.room().await;
        let app = Arc::clone(&self);
        self.begun(async move {
            let (_turn, permit) = room?;
            app.deliver_item(&caller, item?, permit).await
        })
    }

    #[tracing::instrument(
        name = "api.deliver_item",
        skip_all,
        fields(project.id = Empty, event.type = Empty, message.id = Empty, log.seq = Empty)
    )]
    async fn deliver_item(
        &self,
        caller: &Caller,
        message: NewMessage,
        permit: OwnedSemaphorePermit,
    ) -> Result<Accepted, AppError> {
        // The call is about many messages.
        let call = Span::none();
        let taking = self.take(caller, message, permit, &call);
        observed_in(Span::none(), "deliver_item", taking).await
    }

    /// A turn among the messages that wait for one, and with it a place among those being accepted, as soon as there are both.
    /// The turn is to be kept for as long as the message is being accepted.
    pub(super) async fn room(&self) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), AppError> {
        let turn = Arc::clone(&self.queued).acquire_owned().await;
        let turn = turn.map_err(AppError::internal)?;
        let place = Arc::clone(&self.accepts).acquire_owned().await;
        Ok((turn, place.map_err(AppError::internal)?))
    }

    /// Work that goes on by itself. A panic is an error of that work alone.
    pub(super) fn begun<T, W>(&self, work: W) -> impl Future<Output = Result<T, AppError>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, AppError>> + Send + 'static,
    {
        let working = self.accepting.spawn(trace::carried(work.in_current_span()));
        async move {
            working.await.unwrap_or_else(|error| {
                tracing::error!("accepting a message panicked");
                Err(AppError::internal(error))
            })
        }
    }
}
