use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use cuitty_webhooks_proto::v1::message_service_server::{MessageService, MessageServiceServer};
use futures_util::stream;
use tokio::net::TcpListener;
use tonic::{Request, Response};

use super::*;

/// A service that fails as it is told to, and takes every event once.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Streams end with this after so many answers, each once; the answer that would follow is lost.
    breaks: Vec<(usize, Status)>,
    /// Items whose keys were seen, and how often anything was sent.
    taken: BTreeSet<String>,
    sent: usize,
    streams: usize,
    /// Items refused for now before any is taken.
    overloaded: usize,
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn take(&self, DeliverStreamRequest { tag, item }: DeliverStreamRequest) -> v1::DeliverStreamResponse {
        let mut state = self.state();
        state.sent += 1;
        let item = item.unwrap();
        let told = if state.overloaded > 0 {
            state.overloaded -= 1;
            rejected("OVERLOADED")
        } else if item.payload.is_empty() {
            rejected("INVALID_FIELDS")
        } else {
            let duplicate = !state.taken.insert(item.idempotency_key.clone());
            Told::Accepted(v1::DeliverResponse {
                message_id: item.idempotency_key,
                duplicate,
                ..Default::default()
            })
        };
        v1::DeliverStreamResponse {
            tag,
            result: Some(v1::DeliverResult { result: Some(told) }),
        }
    }
}

use v1::DeliverStreamRequest;

fn rejected(reason: &str) -> Told {
    Told::Rejected(v1::ItemError {
        reason: reason.into(),
        message: "no".into(),
        field: "payload".into(),
    })
}

#[tonic::async_trait]
impl MessageService for Fake {
    type DeliverStreamStream = Pin<Box<dyn Stream<Item = Result<v1::DeliverStreamResponse, Status>> + Send>>;

    async fn deliver(&self, _: Request<v1::DeliverRequest>) -> Result<Response<v1::DeliverResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn deliver_batch(
        &self,
        _: Request<v1::DeliverBatchRequest>,
    ) -> Result<Response<v1::DeliverBatchResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn deliver_stream(
        &self,
        request: Request<Streaming<DeliverStreamRequest>>,
    ) -> Result<Response<Self::DeliverStreamStream>, Status> {
        let planned = {
            let mut state = self.state();
            state.streams += 1;
            state.breaks.pop()
        };
        let state = (request.into_inner(), planned, 0, self.clone());
        let answers = stream::unfold(Some(state), async |state| {
            let (mut items, planned, answered, fake) = state?;
            let item = items.message().await.ok()??;
            let answer = fake.take(item);
            if let Some((after, status)) = &planned
                && answered == *after
            {
                return Some((Err(status.clone()), None));
            }
            Some((Ok(answer), Some((items, planned, answered + 1, fake))))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

async fn start(state: State) -> (Fake, Client) {
    let fake = Fake(Arc::new(Mutex::new(state)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = stream::unfold(listener, async |listener| {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let service = MessageServiceServer::new(fake.clone());
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    let client = Client::builder(&format!("http://{address}"), "key")
        .patience(Duration::from_secs(2))
        .connect();
    (fake, client.await.unwrap())
}

fn items(count: usize) -> impl Stream<Item = v1::DeliverRequest> {
    stream::iter((0..count).map(|_| v1::DeliverRequest {
        payload: "{}".into(),
        ..Default::default()
    }))
}

/// Sends, and gives what became of each item, by its place.
async fn deliver(
    client: &Client,
    items: impl Stream<Item = v1::DeliverRequest>,
) -> (Result<(), ClientError>, BTreeMap<u64, Result<String, String>>) {
    let mut told = BTreeMap::new();
    let each = |place, result: Result<v1::DeliverResponse, ItemRefused>| {
        let result = result
            .map(|taken| taken.message_id)
            .map_err(|refused| refused.reason);
        assert_eq!(told.insert(place, result), None, "{place} is told twice");
    };
    let result = client.deliver_all(items, each).await;
    (result, told)
}

#[tokio::test]
async fn every_event_is_answered_for_once_though_streams_break() {
    let broken = [
        (10, Status::unavailable("gone")),
        (300, Status::unavailable("gone")),
        (0, Status::unavailable("")),
    ];
    let (fake, client) = start(State {
        breaks: broken.to_vec(),
        ..State::default()
    })
    .await;

    let (result, told) = deliver(&client, items(2_000)).await;

    result.unwrap();
    assert!(told.keys().copied().eq(0..2_000));
    let ids: BTreeSet<_> = told.values().map(|result| result.clone().unwrap()).collect();
    let state = fake.state();
    assert_eq!((ids.len(), state.taken.len(), state.streams), (2_000, 2_000, 4));
    // What was on its way when a stream broke, and only that, was sent again.
    assert!(
        state.sent > 2_000 && state.sent <= 2_000 + 3 * WINDOW,
        "{}",
        state.sent
    );
}

#[tokio::test]
async fn a_refused_event_does_not_stop_the_others_and_one_refused_for_now_is_sent_again() {
    let (fake, client) = start(State {
        overloaded: 5,
        ..State::default()
    })
    .await;
    let empty = stream::iter([v1::DeliverRequest::default()]);

    let (result, told) = deliver(&client, items(3).chain(empty).chain(items(3))).await;

    result.unwrap();
    let refused: Vec<_> = told.iter().filter(|(_, result)| result.is_err()).collect();
    assert_eq!(refused, [(&3, &Err("INVALID_FIELDS".to_owned()))]);
    assert_eq!((told.len(), fake.state().taken.len()), (7, 6));
    assert_eq!(fake.state().sent, 7 + 5);
}

#[tokio::test]
async fn what_will_not_be_answered_otherwise_is_not_asked_again() {
    let (fake, client) = start(State {
        breaks: vec![(0, Status::permission_denied("no"))],
        ..State::default()
    })
    .await;
    let (result, told) = deliver(&client, items(3)).await;
    assert!(matches!(result, Err(ClientError::Refused { .. })), "{result:?}");
    assert_eq!((told.len(), fake.state().streams), (0, 1));
}

#[tokio::test]
async fn patience_ends_when_nothing_is_answered_for() {
    let (fake, client) = start(State {
        breaks: vec![(0, Status::unavailable("gone")); 100],
        ..State::default()
    })
    .await;
    let (result, told) = deliver(&client, items(3)).await;
    assert!(matches!(result, Err(ClientError::Unavailable(_))), "{result:?}");
    assert_eq!(told.len(), 0);
    assert!(
        (3..50).contains(&fake.state().streams),
        "{}",
        fake.state().streams
    );
}
