//! What a reader should see.

use std::time::Duration;

use super::super::*;
use super::log::endpoint;
use super::model::limits;
use super::rig::Said::{End, HandOver, Park, Pause, Read, Recover, Resume, Save, Settle, Start, Verify};
use super::rig::{Rig, delivery, detached, ordered, settings};

const SECOND: Duration = Duration::from_secs(1);

/// A lane of endpoint 0 that has detached behind item 2, with items 1 and 2 in flight and 3 to 7 acknowledged unread.
fn rig_with_a_detached_lane() -> Rig {
    let mut rig = Rig::new(limits());
    rig.open(0, settings(), None);
    rig.pull(0, 1..=7);
    rig.saved(0);
    rig.said();
    rig
}

/// An ordered lane of endpoint 0 that is live, its log being empty so far.
fn rig_with_an_ordered_lane() -> Rig {
    let mut rig = Rig::new(limits());
    rig.open(0, ordered(), None);
    rig.recovered(0, 0);
    rig.saved(0);
    rig.read(0, [], 0, true);
    rig.saved(0);
    assert_eq!(rig.said(), [Recover, Save(true, 0), Read(1, 6), Save(false, 0)]);
    rig
}

#[test]
fn a_lane_that_is_full_detaches() {
    let mut rig = Rig::new(limits());
    rig.open(0, settings(), None);
    rig.pull(0, 1..=6);
    assert_eq!(rig.said(), [Start(1, 1), Start(2, 1)]);
    // Four wait already.
    rig.pull(0, [7]);
    assert_eq!(rig.said(), [Save(true, 2)]);
    rig.pull(0, [8]);
    assert_eq!(rig.said(), [], "not before it is saved");
    rig.saved(0);
    assert_eq!(
        rig.said(),
        [
            Settle(3),
            Settle(4),
            Settle(5),
            Settle(6),
            Settle(7),
            Settle(8),
            Read(3, 6)
        ]
    );
    rig.pull(0, [9]);
    assert_eq!(rig.said(), [Settle(9)]);
    assert_eq!(
        (
            rig.scheduler.stats(rig.now).detached,
            rig.scheduler.stats(rig.now).queued.items
        ),
        (1, 0)
    );
}

#[test]
fn a_lane_detaches_when_its_breaker_opens() {
    let mut rig = Rig::new(limits());
    rig.open(0, settings(), None);
    rig.pull(0, 1..=5);
    (1..=2).for_each(|sequence| rig.end(sequence, Sign::Refusal));
    assert_eq!(rig.said(), [Start(1, 1), Start(2, 1), Start(3, 1), Start(4, 1)]);
    rig.end(3, Sign::Refusal);
    assert_eq!(rig.said(), [Save(true, 4)]);
    rig.saved(0);
    // One to probe with, later.
    assert_eq!(rig.said(), [Settle(5), Read(5, 1)]);
}

#[test]
fn a_detached_lane_rejoins_at_the_tail() {
    let mut rig = rig_with_a_detached_lane();
    (1..=2).for_each(|sequence| rig.end(sequence, Sign::Success));
    rig.read(0, 3..=7, 7, true);
    rig.pull(0, [8]);
    assert_eq!(rig.said(), [Start(3, 1), Start(4, 1), Start(5, 1), Start(6, 1)]);
    (3..=6).for_each(|sequence| rig.end(sequence, Sign::Success));
    assert_eq!(rig.said(), [Start(7, 1), Start(8, 1)], "8 was held");
    rig.end(7, Sign::Success);
    assert_eq!(rig.said(), [Save(false, 7)]);
    rig.saved(0);
    assert_eq!(rig.scheduler.stats(rig.now).detached, 0);
    // The consumer was behind.
    rig.pull(0, [5, 9]);
    assert_eq!(rig.said(), [Settle(5), Start(9, 1)]);
}

#[test]
fn nothing_is_lost_that_was_acknowledged_unread_while_a_read_was_on_its_way() {
    let mut rig = rig_with_a_detached_lane();
    rig.pull(0, [8]);
    assert_eq!(rig.said(), [Settle(8)]);
    // That was the tail when the log was read.
    rig.read(0, 3..=7, 7, true);
    for sequence in 1..=7 {
        rig.end(sequence, Sign::Success);
        rig.said();
    }
    assert_eq!(rig.scheduler.stats(rig.now).detached, 1);
    rig.read(0, [8], 8, true);
    assert!(rig.said().contains(&Start(8, 1)));
}

#[test]
fn a_lane_that_is_taken_over_is_saved_before_anything_relies_on_it() {
    let mut rig = Rig::new(limits());
    rig.open(0, settings(), Some(detached(10)));
    rig.pull(0, [12]);
    assert_eq!(rig.said(), [Recover]);
    rig.recovered(0, 10);
    assert_eq!(rig.said(), [Save(true, 10)]);
    rig.saved(0);
    assert_eq!(rig.said(), [Settle(12), Read(11, 6)]);
}

#[test]
fn what_the_last_owner_recorded_is_not_attempted_again() {
    let mut rig = Rig::new(limits());
    rig.open(0, settings(), Some(detached(10)));
    let lane = LaneId {
        endpoint_id: endpoint(0),
        life: 1,
    };
    let known = HashMap::from([(
        delivery(11),
        Known {
            attempts: 1,
            next: None,
        },
    )]);
    let (state, outcomes_to) = (detached(10), 13);
    rig.tell(Event::Recovered {
        lane,
        recovered: Recovered {
            state,
            known,
            outcomes_to,
        },
    });
    rig.saved(0);
    rig.said();
    rig.read(0, [11, 12], 12, true);
    assert_eq!(rig.said(), [Start(12, 1)]);
}

#[test]
fn a_failed_head_blocks_an_ordered_lane_and_the_next_starts_after_its_end() {
    let mut rig = rig_with_an_ordered_lane();
    rig.pull(0, [1, 2]);
    assert_eq!(rig.said(), [Start(1, 1)]);
    rig.block(1, 5 * SECOND);
    assert_eq!(rig.said(), [Save(true, 0)]);
    rig.saved(0);
    assert_eq!(rig.said(), [Settle(1), Settle(2)]);
    assert_eq!(rig.wait(Duration::from_millis(4999)), []);
    assert_eq!(rig.wait(Duration::from_millis(1)), [Start(1, 2), Read(1, 6)]);
    rig.read(0, [1, 2], 2, true);
    assert!(!rig.said().contains(&Start(2, 1)));
    rig.end(1, Sign::Success);
    assert!(rig.said().contains(&Start(2, 1)));
}

#[test]
fn cancelling_a_blocked_head_lets_the_next_one_go() {
    let mut rig = rig_with_an_ordered_lane();
    rig.pull(0, [1, 2]);
    rig.said();
    rig.block(1, 3600 * SECOND);
    rig.saved(0);
    rig.said();
    rig.tell(Event::Cancelled {
        endpoint_id: endpoint(0),
        delivery_id: delivery(1),
    });
    assert_eq!(rig.said(), [End(1), Read(1, 6)]);
    rig.end(1, Sign::Silent);
    rig.read(0, [1, 2], 2, true);
    assert!(rig.said().contains(&Start(2, 1)));
}

#[test]
fn a_deadline_ends_a_block() {
    let mut rig = rig_with_an_ordered_lane();
    let deadline = rig.now + 10 * SECOND;
    let item = Item {
        deadline,
        ..rig.item(1)
    };
    rig.pull_item(0, item);
    rig.said();
    rig.block(1, 3600 * SECOND);
    rig.saved(0);
    assert_eq!(rig.wait(9 * SECOND), [Save(true, 0), Settle(1)]);
    assert_eq!(rig.wait(SECOND), [End(1), Read(1, 6)]);
}

#[test]
fn a_rate_is_kept() {
    let room = Room {
        items: 100,
        bytes: 100_000,
    };
    let mut rig = Rig::new(Limits {
        lane: room,
        total: Room {
            items: 1000,
            bytes: 1_000_000,
        },
        ..limits()
    });
    let rate = Some(4);
    rig.open(0, LaneSettings { rate, ..settings() }, None);
    rig.pull(0, 1..=50);
    let mut starts = 0;
    for _ in 0..500 {
        for said in rig.wait(Duration::from_millis(10)) {
            if let Start(sequence, 1) = said {
                starts += 1;
                rig.end(sequence, Sign::Success);
            }
        }
    }
    // 5 s at 4 each.
    assert!((20..=21).contains(&starts), "{starts}");
}

#[test]
fn endpoints_that_answer_keep_half_of_the_slots() {
    let mut rig = Rig::new(limits());
    (0..3).for_each(|number| rig.open(number, settings(), None));
    rig.pull(2, [1]);
    rig.said();
    rig.end(1, Sign::Success);
    rig.pull(0, [2, 3]);
    rig.pull(1, [4, 5]);
    assert_eq!(
        rig.said(),
        [Start(2, 1), Start(3, 1)],
        "two of four slots for those that have not answered yet"
    );
    rig.pull(2, [6, 7]);
    assert_eq!(rig.said(), [Start(6, 1), Start(7, 1)]);
}

#[test]
fn the_window_grows_with_successes_and_halves_with_failures() {
    let mut rig = Rig::new(Limits {
        max_in_flight: 100,
        ..limits()
    });
    rig.open(0, settings(), None);
    rig.pull(0, 1..=4);
    assert_eq!(rig.said(), [Start(1, 1), Start(2, 1)]);
    rig.end(1, Sign::Success);
    assert_eq!(rig.said(), [Start(3, 1), Start(4, 1)], "three at a time");
    rig.pull(0, 5..=7);
    rig.end(2, Sign::Failure);
    rig.end(3, Sign::Failure);
    assert_eq!(rig.said(), [], "one at a time");
    rig.end(4, Sign::Success);
    assert_eq!(rig.said(), [Start(5, 1), Start(6, 1)]);
}

#[test]
fn a_probe_goes_alone() {
    let mut rig = Rig::new(limits());
    rig.open(0, settings(), None);
    rig.pull(0, 1..=4);
    (1..=4).for_each(|sequence| rig.end(sequence, Sign::Refusal));
    rig.saved(0);
    rig.said();
    rig.pull(0, [5, 6]);
    rig.saved(0);
    rig.read(0, [5, 6], 6, true);
    assert_eq!(rig.said(), [Save(true, 4), Settle(5), Settle(6), Read(5, 1)]);
    assert_eq!(
        rig.wait(Duration::from_millis(1999))
            .iter()
            .find(|said| matches!(said, Start(..))),
        None
    );
    assert_eq!(rig.wait(Duration::from_millis(1)), [Start(5, 1)]);
    rig.end(5, Sign::Success);
    assert!(rig.said().contains(&Start(6, 1)));
}

#[test]
fn the_backlog_of_an_inactive_endpoint_ends_at_once() {
    let mut rig = Rig::new(limits());
    rig.open(0, settings(), None);
    rig.pull(0, 1..=6);
    (1..=3).for_each(|sequence| rig.end(sequence, Sign::Refusal));
    rig.said();
    rig.saved(0);
    rig.read(0, [5, 6], 6, true);
    rig.said();
    let settings = LaneSettings {
        active: false,
        ..settings()
    };
    rig.tell(Event::Changed {
        endpoint_id: endpoint(0),
        settings,
        probe: false,
    });
    assert_eq!(
        rig.said(),
        [Read(7, 4), End(5)],
        "while 4 is in flight, and half of the slots is for others"
    );
    rig.end(5, Sign::Silent);
    assert_eq!(rig.said(), [End(6)]);
}

#[test]
fn nothing_starts_after_the_lease_has_run_out_until_it_is_renewed() {
    let mut rig = Rig::new(limits());
    rig.lease(5 * SECOND);
    rig.open(0, settings(), None);
    rig.pull(0, 1..=3);
    rig.wait(5 * SECOND);
    rig.end(1, Sign::Success);
    rig.pull(0, [4]);
    assert_eq!(rig.said(), [Park(4)]);
    rig.lease(5 * SECOND);
    assert_eq!(rig.said(), [Start(3, 1)]);
}

#[test]
fn nothing_is_acknowledged_unread_after_the_lease_has_run_out() {
    let mut rig = Rig::new(limits());
    rig.open(0, settings(), None);
    rig.lease(5 * SECOND);
    rig.pull(0, 1..=7);
    rig.said();
    assert_eq!(rig.wait(5 * SECOND).last(), None);
    // Too late, perhaps, for the next owner to have seen it.
    rig.saved(0);
    assert_eq!(rig.said(), []);
    rig.lease(5 * SECOND);
    assert_eq!(rig.said(), [Save(true, 2)]);
    rig.saved(0);
    assert!(rig.said().contains(&Settle(7)));
}

#[test]
fn what_a_lane_did_ahead_of_the_consumer_is_not_done_again() {
    let mut rig = Rig::new(limits());
    rig.open(0, ordered(), None);
    rig.recovered(0, 5);
    rig.saved(0);
    rig.read(0, [], 8, true);
    rig.saved(0);
    rig.said();
    rig.pull(0, 4..=9);
    assert_eq!(rig.said(), [Verify(4), Settle(6), Settle(7), Settle(8)]);
    rig.end(4, Sign::Silent);
    rig.end(5, Sign::Silent);
    assert_eq!(rig.said(), [Verify(5), Start(9, 1)]);
}

#[test]
fn a_partition_that_was_lost_starts_anew() {
    let mut rig = Rig::new(limits());
    rig.open(0, settings(), None);
    rig.pull(0, 1..=3);
    rig.said();
    rig.tell(Event::Lost { partition: 0 });
    rig.open(0, settings(), None);
    rig.pull(0, [4]);
    assert_eq!(rig.said(), [Park(4)]);
    assert!(
        !rig.scheduler.has_lane(endpoint(0)),
        "what it would know is out of date when the partition comes back"
    );
    rig.lease(SECOND);
    rig.open(0, settings(), None);
    rig.pull(0, [5]);
    assert_eq!(
        rig.said(),
        [],
        "1 and 2 are in flight still, and take the room of two"
    );
    rig.end(1, Sign::Success);
    assert_eq!(rig.said(), [Start(5, 1)]);
}

#[test]
fn a_hand_over_waits_for_what_is_in_flight_and_for_what_is_being_saved() {
    let mut rig = Rig::new(limits());
    rig.open(0, settings(), None);
    rig.pull(0, 1..=3);
    rig.said();
    rig.tell(Event::Releasing { partition: 0 });
    assert_eq!(rig.said(), [Park(3)]);
    rig.end(1, Sign::Success);
    assert_eq!(rig.said(), []);
    rig.end(2, Sign::Success);
    assert_eq!(rig.said(), [HandOver]);

    let mut rig = Rig::new(limits());
    rig.open(0, settings(), Some(detached(10)));
    rig.recovered(0, 10);
    rig.tell(Event::Releasing { partition: 0 });
    assert_eq!(rig.said(), [Recover, Save(true, 10)]);
    rig.saved(0);
    assert_eq!(rig.said(), [HandOver]);

    let mut rig = rig_with_a_detached_lane();
    rig.tell(Event::Releasing { partition: 0 });
    assert_eq!(rig.wait(HAND_OVER_PATIENCE), [HandOver], "but not for ever");
}

#[test]
fn a_drain_gives_back_what_waits_and_ends_what_is_in_flight() {
    let mut rig = Rig::new(limits());
    rig.open(0, settings(), None);
    rig.pull(0, 1..=4);
    rig.said();
    rig.tell(Event::Drain);
    rig.pull(0, [5]);
    assert_eq!(rig.said(), [Park(3), Park(4), Park(5)]);
    assert!(!rig.scheduler.is_settled());
    rig.end(1, Sign::Success);
    rig.end(2, Sign::Success);
    assert_eq!(rig.said(), []);
    assert!(rig.scheduler.is_settled());
}

#[test]
fn pulling_is_paused_by_what_was_pulled_and_not_by_what_was_read() {
    let mut rig = Rig::new(limits());
    for number in 0..3 {
        let first = 100 * u64::from(number);
        rig.open(number, settings(), Some(detached(first)));
        rig.recovered(number, first);
        rig.saved(number);
        rig.read(number, first + 1..=first + 6, first + 6, false);
    }
    assert!(!rig.said().contains(&Pause));
    rig.open(3, settings(), Some(detached(300)));
    rig.pull(3, 301..=365);
    assert_eq!(rig.said(), [Recover, Pause]);
    rig.recovered(3, 300);
    rig.saved(3);
    assert_eq!(rig.said().iter().filter(|&&said| said == Resume).count(), 1);
}

#[test]
fn endpoints_that_do_not_answer_leave_room_for_those_that_do() {
    let mut rig = Rig::new(Limits {
        total: Room {
            items: 32,
            bytes: 32_000,
        },
        ..limits()
    });
    rig.open(0, settings(), None);
    rig.pull(0, [1]);
    rig.end(1, Sign::Success);
    // The others never answer, and more keeps coming.
    let others = 1..10;
    others
        .clone()
        .for_each(|number| rig.open(number, settings(), None));
    for turn in 1..10 {
        for number in others.clone() {
            rig.pull(number, [10 * turn + u64::from(number)]);
            rig.saved(number);
        }
    }
    let said = rig.said();
    assert_eq!(rig.scheduler.stats(rig.now).detached, 9, "{said:?}");
    assert!(!said.contains(&Pause));
    rig.pull(0, 101..=104);
    assert_eq!(
        rig.said(),
        [Start(101, 1), Start(102, 1)],
        "the slots that are left, and no detour for the rest"
    );
}
