//! The acknowledgements of work, seen on their way to nats-server.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use async_nats::{Client, Message};
use futures_util::StreamExt;
use harness::eventually::{eventually, is};

/// Where dispatchers acknowledge: `$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.…`.
const ACKS: &str = "$JS.ACK.WEBHOOKS";
/// Place of the stream sequence among the tokens of such a subject.
const SEQUENCE: usize = 5;

/// Listens to every acknowledgement of work from its start on, until nats-server or the runtime ends.
#[derive(Debug)]
pub(crate) struct Acks {
    client: Client,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Log sequences of the work that is done.
    done: HashSet<u64>,
    marks: usize,
}

impl Acks {
    pub(crate) async fn listen(url: &str) -> Self {
        let client = async_nats::connect(url).await.unwrap();
        let mut messages = client.subscribe(format!("{ACKS}.>")).await.unwrap();
        client.flush().await.unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let told = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                told.lock().unwrap().note(&message);
            }
        });
        Self { client, seen }
    }

    /// Log sequences of all work whose acknowledgement nats-server has had by now.
    pub(crate) async fn done(&self) -> HashSet<u64> {
        // What nats-server had before our mark comes before it.
        let marks = self.seen.lock().unwrap().marks;
        self.client
            .publish(format!("{ACKS}.mark"), "".into())
            .await
            .unwrap();
        eventually("the mark comes back", || async {
            is(self.seen.lock().unwrap().marks, marks + 1)
        })
        .await;
        self.seen.lock().unwrap().done.clone()
    }
}

impl Seen {
    fn note(&mut self, message: &Message) {
        if message.subject.ends_with(".mark") {
            self.marks += 1;
        } else if message.payload.starts_with(b"+ACK") {
            let sequence = message.subject.split('.').nth(SEQUENCE).unwrap();
            self.done.insert(sequence.parse().unwrap());
        }
    }
}
