//! The endpoints of a simulated world, and chance.

use std::sync::Arc;
use std::time::Duration;

use super::super::*;

/// Waits after the 1st, 2nd, … failed attempt of a delivery; it has failed after the last one.
pub(super) const RETRIES: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
];

/// Chance, always the same for the same seed (`SplitMix64`).
#[derive(Debug, Clone)]
pub(super) struct Chance(pub(super) u64);

impl Chance {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    pub(super) fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    pub(super) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// How an endpoint answers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mood {
    Good,
    Flaky,
    Refusing,
    Failing,
    Throttling,
    Hanging,
}

/// How an attempt went.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    Success,
    Refusal,
    Failure,
    Throttle(Duration),
    /// The delivery is ended without a request.
    End,
    /// The log has its outcome.
    Made,
    /// Nothing was sent, for a reason of the dispatcher's own.
    NotNow(Duration),
}

impl Mood {
    /// How an attempt goes, and how long it takes.
    pub(super) fn answer(self, chance: &mut Chance) -> (Answer, Duration) {
        let soon = chance.millis(5, 300);
        match self {
            Self::Good => (Answer::Success, soon),
            Self::Flaky if chance.percent(50) => (Answer::Success, soon),
            Self::Flaky | Self::Failing => (Answer::Failure, soon),
            Self::Refusing => (Answer::Refusal, soon),
            Self::Throttling => (Answer::Throttle(chance.millis(500, 3000)), soon),
            Self::Hanging => (Answer::Failure, Duration::from_secs(10)),
        }
    }
}

/// What an endpoint is like at the start.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) ordered: bool,
    pub(super) max_in_flight: u32,
    pub(super) rate: Option<u32>,
    pub(super) mood: Mood,
}

#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) settings: LaneSettings,
    pub(super) mood: Mood,
}

impl Receiver {
    pub(super) fn new(setup: &Setup) -> Self {
        Self {
            settings: LaneSettings {
                max_in_flight: setup.max_in_flight,
                rate: setup.rate,
                ordered: setup.ordered,
                active: true,
                probe_delays: Arc::new([Duration::from_secs(2), Duration::from_secs(8)]),
            },
            mood: setup.mood,
        }
    }
}
