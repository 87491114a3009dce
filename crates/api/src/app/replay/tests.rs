use super::*;
use crate::testing::caller;

fn new() -> NewReplay {
    NewReplay {
        project_id: "acme".into(),
        ..NewReplay::default()
    }
}

#[test]
fn nothing_given_means_what_has_failed() {
    let read = read_filter(&caller(None), &new());
    assert_eq!(read, Ok(ReplayFilter::failed("acme".parse().unwrap())));
}

#[test]
fn everything_that_is_wrong_is_listed() {
    let wrong = NewReplay {
        endpoint_id: "ep".into(),
        event_type: "a b".into(),
        failure_reasons: vec!["gone".into(), "lost".into()],
        idempotency_key: "\n".into(),
        ..NewReplay::default()
    };
    let Err(Rejection::Invalid(violations)) = read_filter(&caller(None), &wrong) else {
        panic!("it was accepted");
    };
    let fields: Vec<_> = violations.iter().map(|wrong| wrong.field.as_str()).collect();
    let expected = [
        "idempotency_key",
        "project_id",
        "endpoint_id",
        "event_type",
        "failure_reasons",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn no_more_failure_reasons_are_named_than_there_are() {
    let named = |count: usize, name: &str| {
        let new = NewReplay {
            failure_reasons: vec![name.into(); count],
            ..new()
        };
        read_filter(&caller(None), &new)
    };
    assert!(named(FailureReason::ALL.len(), "gone").is_ok());
    assert!(named(FailureReason::ALL.len() + 1, "gone").is_err());
    let Err(Rejection::Invalid(violations)) = named(100_000, "lost") else {
        panic!("it was accepted");
    };
    assert!(violations.len() <= FailureReason::ALL.len() + 1);
}

#[test]
fn a_replay_of_another_project_is_not_seen() {
    let now = DateTime::from_timestamp(0, 0).unwrap();
    let selection = Selection {
        filter: ReplayFilter::failed("acme".parse().unwrap()),
        disabled_at: None,
        through_sequence: 0,
        before: now,
    };
    let id = format!("rpl_{:026}", 1).parse().unwrap();
    let (_, replay) = replay::start(id, selection, None, 0, now).unwrap();
    let entry = ReplayEntry { replay, sequence: 1 };
    for (project, visible) in [(None, true), (Some("acme"), true), (Some("other"), false)] {
        assert_eq!(is_visible(&caller(project), &entry), visible, "{project:?}");
    }
}

#[test]
fn different_requests_under_one_key_are_told_apart() {
    let filter = ReplayFilter::failed("acme".parse().unwrap());
    let other = ReplayFilter {
        include_unmatched: true,
        ..filter.clone()
    };
    let of = |filter: &ReplayFilter, rate: Option<u32>| fingerprint("replay", &(filter, rate));
    assert_eq!(of(&filter, None), of(&filter.clone(), None));
    assert_ne!(of(&filter, None), of(&other, None));
    assert_ne!(of(&filter, None), of(&filter, Some(1)));
}
