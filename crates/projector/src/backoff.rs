use std::time::Duration;

/// Pauses that double from 100 ms up to a cap.
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);

    pub(crate) fn new(max: Duration) -> Self {
        Self {
            next: Self::FIRST.min(max),
            max,
        }
    }

    /// Waits the next pause out.
    pub(crate) async fn pause(&mut self) {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_the_cap() {
        let mut backoff = Backoff::new(Duration::from_millis(350));
        let mut pauses = Vec::new();
        for _ in 0..4 {
            let started = Instant::now();
            backoff.pause().await;
            pauses.push(started.elapsed().as_millis());
        }
        assert_eq!(pauses, [100, 200, 350, 350]);
    }
}
