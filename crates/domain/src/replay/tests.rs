use proptest::prelude::*;

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn filter() -> ReplayFilter {
    ReplayFilter::failed("acme".parse().unwrap())
}

fn endpoint_id() -> EndpointId {
    format!("ep_{:026}", 1).parse().unwrap()
}

fn selection(filter: ReplayFilter) -> Selection {
    Selection {
        filter,
        disabled_at: None,
        through_sequence: 9,
        before: at(100),
    }
}

fn replay() -> Replay {
    let id = format!("rpl_{:026}", 1).parse().unwrap();
    start(id, selection(filter()), None, 7, at(100)).unwrap().1
}

fn cursor(number: u64) -> ReplayCursor {
    ReplayCursor::Delivery {
        created_at: at(number as i64),
        id: format!("dlv_{number:026}").parse().unwrap(),
    }
}

fn advance(number: u64) -> ReplayCommand {
    ReplayCommand::Advance {
        cursor: cursor(number),
        replayed: number,
        skipped: 1,
    }
}

fn fields(filter: ReplayFilter, rate: Option<u32>) -> Vec<String> {
    let id = format!("rpl_{:026}", 1).parse().unwrap();
    match start(id, selection(filter), rate, 0, at(0)) {
        Ok(_) => Vec::new(),
        Err(Rejection::Invalid(violations)) => violations.into_iter().map(|wrong| wrong.field).collect(),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn parts_that_do_not_fit_together_are_all_named() {
    let failed = filter;
    let delivered = || ReplayFilter {
        status: DeliveryStatus::Delivered,
        ..failed()
    };
    let reasons = vec![FailureReason::Gone];
    for (filter, expected) in [
        (failed(), &[][..]),
        (delivered(), &[]),
        (
            ReplayFilter {
                status: DeliveryStatus::Pending,
                ..failed()
            },
            &["status"],
        ),
        (
            ReplayFilter {
                failure_reasons: reasons.clone(),
                ..failed()
            },
            &[],
        ),
        (
            ReplayFilter {
                failure_reasons: reasons.clone(),
                ..delivered()
            },
            &["failure_reasons"],
        ),
        (
            ReplayFilter {
                since: Some(at(5)),
                until: Some(at(6)),
                ..failed()
            },
            &[],
        ),
        (
            ReplayFilter {
                since: Some(at(5)),
                until: Some(at(5)),
                ..failed()
            },
            &["until"],
        ),
        (
            ReplayFilter {
                since_disabled: true,
                endpoint_id: Some(endpoint_id()),
                ..failed()
            },
            &[],
        ),
        (
            ReplayFilter {
                since_disabled: true,
                ..failed()
            },
            &["since_disabled"],
        ),
        (
            ReplayFilter {
                since_disabled: true,
                failure_reasons: reasons,
                endpoint_id: Some(endpoint_id()),
                ..failed()
            },
            &["since_disabled"],
        ),
        (
            ReplayFilter {
                since_disabled: true,
                ..delivered()
            },
            &["since_disabled", "since_disabled"],
        ),
    ] {
        assert_eq!(fields(filter.clone(), None), expected, "{filter:?}");
    }
    for (rate, expected) in [
        (1, &[][..]),
        (10_000, &[]),
        (0, &["rate_per_second"]),
        (10_001, &["rate_per_second"]),
    ] {
        assert_eq!(fields(failed(), Some(rate)), expected, "{rate}");
    }
}

#[test]
fn what_has_ended_stays_as_it_is() {
    let fail = || ReplayCommand::Fail { reason: "no".into() };
    let ended = |command| {
        let change = decide(&replay(), command).unwrap().unwrap();
        evolve(replay(), &change, at(200))
    };
    let (completed, cancelled, failed) = (
        ended(ReplayCommand::Complete),
        ended(ReplayCommand::Cancel),
        ended(fail()),
    );
    assert_eq!(failed.reason, "no");
    for (replay, again, refused) in [
        (
            &completed,
            ReplayCommand::Complete,
            vec![ReplayCommand::Cancel, fail(), advance(1)],
        ),
        (
            &cancelled,
            ReplayCommand::Cancel,
            vec![ReplayCommand::Complete, fail()],
        ),
        (
            &failed,
            fail(),
            vec![ReplayCommand::Complete, ReplayCommand::Cancel, advance(1)],
        ),
    ] {
        assert_eq!(replay.ended_at, Some(at(200)));
        assert_eq!(decide(replay, again), Ok(None));
        for command in refused {
            let refused = decide(replay, command.clone());
            assert!(
                matches!(
                    refused,
                    Err(Rejection::Conflict {
                        resource: Resource::Replay,
                        ..
                    })
                ),
                "{command:?} of {:?}: {refused:?}",
                replay.progress
            );
        }
    }
}

#[test]
fn the_page_under_way_at_a_cancellation_is_still_counted() {
    let cancelled = evolve(replay(), &ReplayChange::Cancelled, at(200));
    let change = decide(&cancelled, advance(3)).unwrap().unwrap();
    let after = evolve(cancelled, &change, at(300));
    assert_eq!(
        (after.replayed, after.skipped, after.cursor),
        (3, 1, Some(cursor(3)))
    );
    assert_eq!(
        (after.progress, after.ended_at),
        (ReplayProgress::Cancelled, Some(at(200)))
    );
}

fn commands() -> impl Strategy<Value = ReplayCommand> {
    prop_oneof![
        6 => (0u64..300).prop_map(advance),
        1 => Just(ReplayCommand::Complete),
        1 => Just(ReplayCommand::Cancel),
        1 => Just(ReplayCommand::Fail { reason: "broken".into() }),
    ]
}

proptest! {
    #[test]
    fn a_replay_counts_what_it_recorded_and_ends_once(commands in proptest::collection::vec(commands(), 0..20)) {
        let mut replay = replay();
        let (mut replayed, mut skipped, mut last) = (0, 0, None);
        for (second, command) in (200..).zip(commands) {
            let before = replay.clone();
            let Ok(Some(change)) = decide(&replay, command) else { continue };
            if let ReplayChange::Advanced { cursor, replayed: more, skipped: left } = &change {
                (replayed, skipped, last) = (replayed + more, skipped + left, Some(*cursor));
            }
            replay = evolve(replay, &change, at(second));
            if !before.is_running() {
                prop_assert_eq!((replay.progress, replay.ended_at), (before.progress, before.ended_at));
            }
        }
        prop_assert_eq!((replay.replayed, replay.skipped, replay.cursor), (replayed, skipped, last));
        prop_assert_eq!(replay.is_running(), replay.ended_at.is_none());
        prop_assert_eq!(replay.reason.is_empty(), replay.progress != ReplayProgress::Failed);
        prop_assert_eq!((replay.id, replay.total, replay.started_at), (self::replay().id, 7, at(100)));
    }
}
