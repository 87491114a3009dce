//! Tells nats-server how work items go, on a task of its own: a connection that is down must not hold up the loop.

use std::sync::Arc;
use std::time::Duration;

use cuitty_webhooks_log::{Acker, Log, LogError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::debug;

use crate::engine::Work;

/// How long what is still to be told may take at the end. What is not told comes again.
const FINISH_TIME: Duration = Duration::from_secs(1);

enum Word {
    Settled(Arc<Work>),
    Later(Arc<Work>, Duration),
    Progress(Arc<Work>),
    Finished(oneshot::Sender<()>),
}

/// Clones share the task, which ends with the last of them.
#[derive(Clone)]
pub(super) struct Replies {
    log: Log,
    words: mpsc::UnboundedSender<Word>,
}

impl Replies {
    pub(super) fn start(log: Log) -> Self {
        let (words, receiver) = mpsc::unbounded_channel();
        tokio::spawn(tell(receiver));
        Self { log, words }
    }

    /// The item is done.
    pub(super) fn settle(&self, work: Arc<Work>) {
        self.say(Word::Settled(work));
    }

    /// The item is to come again after `delay`.
    pub(super) fn park(&self, work: Arc<Work>, delay: Duration) {
        self.say(Word::Later(work, delay));
    }

    /// The item is being worked on. Left unsaid while there is no connection: these words would only pile up.
    pub(super) fn progress(&self, work: Arc<Work>) {
        if self.log.is_connected() {
            self.say(Word::Progress(work));
        }
    }

    /// Resolves when everything said so far has been told, or after a moment.
    pub(super) async fn finish(&self) {
        let (done, is_done) = oneshot::channel();
        self.say(Word::Finished(done));
        if timeout(FINISH_TIME, is_done).await.is_err() {
            debug!("not everything was told about work items, they come again");
        }
    }

    fn say(&self, word: Word) {
        // The task ends after the last sender.
        let _ = self.words.send(word);
    }
}

async fn tell(mut words: mpsc::UnboundedReceiver<Word>) {
    while let Some(word) = words.recv().await {
        let told = match word {
            Word::Settled(work) => tell_of(&work, Acker::ack).await,
            Word::Later(work, delay) => tell_of(&work, |acker| acker.nak(delay)).await,
            Word::Progress(work) => tell_of(&work, Acker::progress).await,
            Word::Finished(done) => {
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
                Ok(())
            }
        };
        if let Err(error) = told {
            debug!(%error, "a word about a work item is lost, it comes again");
        }
    }
}

/// Only what was pulled is waited for.
async fn tell_of<'a, F>(work: &'a Work, tell: impl FnOnce(&'a Acker) -> F) -> Result<(), LogError>
where
    F: Future<Output = Result<(), LogError>>,
{
    match &work.acker {
        Some(acker) => tell(acker).await,
        None => Ok(()),
    }
}
