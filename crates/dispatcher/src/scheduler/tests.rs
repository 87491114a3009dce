//! Random histories, and the cases that a reader should see.

mod model;

use proptest::prelude::*;

use self::model::{ENDPOINTS, Model, PARTITIONS, Step, endpoint, key, limits, steps};
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Caps are never exceeded, slots never idle, every item is started, given back or dropped exactly once, lanes are served
    /// in turn and in order, nothing starts without a lease, nothing is held in silence, no pause outlasts its reason.
    #[test]
    fn any_history_keeps_the_rules(max_in_flight in 1..6usize, steps in steps()) {
        let mut model = Model::new(max_in_flight);
        for step in &steps {
            model.step(step);
        }
        model.run_dry();
    }
}

/// A model that holds every lease for an hour.
fn leased(max_in_flight: usize) -> Model {
    let mut model = Model::new(max_in_flight);
    for partition in 0..PARTITIONS {
        model.step(&Step::Lease {
            partition,
            millis: 3_600_000,
        });
    }
    model
}

fn arrive(model: &mut Model, endpoint: u8, delivery: u16) {
    model.step(&Step::Arrive {
        endpoint,
        delivery,
        bytes: 10,
    });
}

#[test]
fn the_lane_with_the_fewest_in_flight_goes_first_then_the_one_that_waited_longest() {
    let mut model = leased(3);
    model.caps = [10; ENDPOINTS as usize];
    for delivery in 0..5 {
        arrive(&mut model, 0, delivery);
    }
    for delivery in 10..13 {
        arrive(&mut model, 1, delivery);
    }
    assert_eq!((model.in_flight(Some(0)), model.in_flight(Some(1))), (3, 0));
    for delivery in 0..3 {
        model.finish(key(delivery), true);
        let expected = [(2, 1), (2, 1), (1, 2)][usize::from(delivery)];
        assert_eq!(
            (model.in_flight(Some(0)), model.in_flight(Some(1))),
            expected,
            "after {delivery}"
        );
    }
}

#[test]
fn a_settled_attempt_that_comes_again_is_acknowledged_and_a_held_one_left_alone() {
    let mut model = leased(1);
    arrive(&mut model, 0, 1);
    arrive(&mut model, 0, 1);
    assert_eq!(model.scheduler.stats().duplicates, 1);
    model.finish(key(1), true);
    model.works += 1;
    model.keys.insert(model.works, key(1));
    let item = Item {
        key: key(1),
        endpoint_id: endpoint(0),
        partition: 0,
        bytes: 10,
        max_in_flight: 1,
        work: Arc::new(model.works),
    };
    model.scheduler.handle_event(Event::Arrived(item), model.now);
    assert!(matches!(
        model.scheduler.next_command(),
        Some(Command::Settle { .. })
    ));
    assert!(model.scheduler.next_command().is_none());
}

#[test]
fn a_full_lane_pauses_its_partition_while_it_drains_and_parks_once_it_is_slow() {
    let mut model = leased(1);
    for delivery in 0..5 {
        arrive(&mut model, 0, delivery);
    }
    assert!(model.paused.is_empty(), "one in flight, four wait");
    arrive(&mut model, 0, 5);
    assert_eq!(model.paused, BTreeSet::from([0]));
    model.wait(Duration::from_millis(600));
    assert!(model.paused.is_empty(), "nothing has ended: the lane is slow");
    arrive(&mut model, 0, 6);
    assert_eq!(model.scheduler.stats().queued.items, 5, "parked");
    for delivery in 0..3 {
        model.finish(key(delivery), true);
    }
    arrive(&mut model, 0, 7);
    assert_eq!(model.scheduler.stats().queued.items, 3);
}

#[test]
fn a_lease_that_runs_out_keeps_what_waits_until_it_is_renewed() {
    let mut model = Model::new(4);
    model.step(&Step::Lease {
        partition: 0,
        millis: 1000,
    });
    for delivery in 0..3 {
        arrive(&mut model, 0, delivery);
    }
    model.wait(Duration::from_secs(1));
    model.finish(key(0), true);
    assert_eq!(
        (model.in_flight(None), model.scheduler.stats().queued.items),
        (1, 1)
    );
    model.step(&Step::Lease {
        partition: 0,
        millis: 1000,
    });
    assert_eq!(
        (model.in_flight(None), model.scheduler.stats().queued.items),
        (2, 0)
    );
}

#[test]
fn a_partition_is_handed_over_although_an_attempt_hangs() {
    let mut model = leased(4);
    arrive(&mut model, 0, 1);
    model.step(&Step::Release { partition: 0 });
    model.wait(Duration::from_millis(1_999));
    assert_eq!(model.releasing.len(), 1);
    model.wait(Duration::from_millis(1));
    assert_eq!(model.releasing.len(), 0);
    // Still reported as being worked on, so that the next owner is not given it too: the model checks that.
    model.step(&Step::Wait { millis: 10_000 });
    model.finish(key(1), true);
    assert_eq!(model.scheduler.stats().lanes, 0);
}

/// A scheduler that holds the lease of partition 0 for an hour.
fn holding(limits: Limits, now: Instant) -> Scheduler<u64> {
    let mut scheduler = Scheduler::new(limits);
    let until = now + Duration::from_hours(1);
    scheduler.handle_event(Event::Leased { partition: 0, until }, now);
    scheduler
}

/// What the arrival of attempt `number` of a delivery leads to.
fn attempt_arrives(scheduler: &mut Scheduler<u64>, number: u32, now: Instant) -> Option<Command<u64>> {
    let item = Item {
        key: AttemptKey { number, ..key(1) },
        endpoint_id: endpoint(0),
        partition: 0,
        bytes: 10,
        max_in_flight: 4,
        work: Arc::new(number.into()),
    };
    scheduler.handle_event(Event::Arrived(item), now);
    let command = scheduler.next_command();
    assert!(scheduler.next_command().is_none());
    command
}

#[test]
fn a_stale_retry_is_settled_and_a_newer_one_of_the_same_delivery_is_not_taken_for_it() {
    let now = Instant::now();
    let mut scheduler = holding(limits(4), now);
    let is_start = |command| matches!(command, Some(Command::Start { .. }));
    assert!(is_start(attempt_arrives(&mut scheduler, 2, now)));
    assert!(
        is_start(attempt_arrives(&mut scheduler, 3, now)),
        "beside a held one"
    );
    for number in [3, 2] {
        let key = AttemptKey { number, ..key(1) };
        scheduler.handle_event(Event::Finished { key, settled: true }, now);
    }
    for number in [2, 3] {
        let repeated = attempt_arrives(&mut scheduler, number, now);
        assert!(
            matches!(repeated, Some(Command::Settle { .. })),
            "{number}: {repeated:?}"
        );
    }
    assert!(
        is_start(attempt_arrives(&mut scheduler, 4, now)),
        "after stale ones"
    );
}

#[test]
fn a_report_of_progress_ends_even_when_the_next_one_is_due_a_tick_later() {
    let mut now = Instant::now();
    let limits = Limits {
        progress_interval: TICK,
        ..limits(4)
    };
    let mut scheduler = holding(limits, now);
    attempt_arrives(&mut scheduler, 1, now);
    for round in 0..3 {
        now = scheduler.poll_timeout().unwrap();
        scheduler.handle_timeout(now);
        assert!(
            matches!(scheduler.next_command(), Some(Command::Progress { .. })),
            "round {round}"
        );
        assert!(scheduler.next_command().is_none(), "round {round}");
    }
}
