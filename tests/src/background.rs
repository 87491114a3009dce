//! Something asynchronous on a thread and a runtime of its own, so that it does not depend on the test's runtime and can be
//! ended in `drop`.

use std::future::Future;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

/// How long the future may take to end after its token was cancelled.
const PATIENCE: Duration = Duration::from_secs(40);

/// A thread that runs one future. Dropping it cancels the future's token and waits for the thread.
#[derive(Debug)]
pub(crate) struct Background {
    name: String,
    stop: CancellationToken,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Runs the future that `main` makes of its token. Tasks that it leaves behind end with it.
    pub(crate) fn spawn<F: Future<Output = ()>>(
        name: impl Into<String>,
        main: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> Self {
        let name = name.into();
        let stop = CancellationToken::new();
        let token = stop.clone();
        let (end, ended) = channel();
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                let runtime = Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(main(token));
                runtime.shutdown_background();
                let _ = end.send(());
            })
            .expect("start a thread");
        Self {
            name,
            stop,
            ended,
            thread: Some(thread),
        }
    }

    /// Cancels the token and waits for the end.
    ///
    /// # Panics
    /// When the future does not end within 40 s, or has panicked.
    pub(crate) fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.stop.cancel();
        let outcome = self.ended.recv_timeout(PATIENCE);
        if std::thread::panicking() {
            return;
        }
        assert_ne!(
            outcome,
            Err(RecvTimeoutError::Timeout),
            "{} did not end within {PATIENCE:?}",
            self.name
        );
        assert!(thread.join().is_ok(), "{} panicked", self.name);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop();
    }
}
