//! What is told of the oldest delivery that waits.

use std::time::Duration;

use super::super::*;
use super::model::limits;
use super::rig::{Rig, detached, ordered, settings};

const SECOND: Duration = Duration::from_secs(1);

/// The oldest that the dispatcher, its endpoint, and its breaker hold.
fn oldest(rig: &Rig) -> [Duration; 3] {
    rig.scheduler.stats(rig.now).oldest
}

#[test]
fn what_waits_for_its_endpoint_is_as_old_as_the_time_since_it_was_due() {
    let mut rig = Rig::new(limits());
    rig.open(0, settings(), None);
    rig.pull(0, 1..=2);
    let item = Item {
        waited: 5 * SECOND,
        ..rig.item(3)
    };
    rig.pull_item(0, item);
    assert_eq!(oldest(&rig), [Duration::ZERO, 5 * SECOND, Duration::ZERO]);
    rig.wait(10 * SECOND);
    rig.pull(0, [4]);
    assert_eq!(oldest(&rig), [Duration::ZERO, 15 * SECOND, Duration::ZERO]);
    rig.end(1, Sign::Success);
    assert_eq!(oldest(&rig), [Duration::ZERO; 3], "3 and 4 were started");
}

#[test]
fn what_its_endpoint_could_take_waits_for_the_dispatcher() {
    let mut rig = Rig::new(limits());
    rig.open(0, settings(), None);
    rig.open(1, settings(), None);
    // Endpoints that nothing is known of share two slots of four.
    rig.pull(0, 1..=2);
    rig.pull(1, [3]);
    rig.wait(7 * SECOND);
    assert_eq!(oldest(&rig), [7 * SECOND, Duration::ZERO, Duration::ZERO]);
}

#[test]
fn what_waits_behind_an_open_breaker_is_told_apart() {
    let mut rig = Rig::new(limits());
    let state = LaneState {
        health: Health {
            breaker: BreakerState::Open {
                until: rig.now + 60 * SECOND,
                probe: 0,
            },
            consecutive_failures: 3,
        },
        ..detached(0)
    };
    rig.open(0, settings(), Some(state));
    rig.recovered(0, 0);
    rig.read(0, [1], 1, false);
    rig.wait(20 * SECOND);
    assert_eq!(oldest(&rig), [Duration::ZERO, Duration::ZERO, 20 * SECOND]);
}

#[test]
fn a_retry_that_is_not_due_is_not_old() {
    let mut rig = Rig::new(limits());
    rig.open(0, ordered(), None);
    rig.recovered(0, 0);
    rig.saved(0);
    rig.read(0, [], 0, true);
    rig.saved(0);
    rig.pull(0, [1]);
    rig.wait(30 * SECOND);
    rig.block(1, 10 * SECOND);
    rig.saved(0);
    rig.wait(5 * SECOND);
    assert_eq!(oldest(&rig), [Duration::ZERO; 3]);
}
