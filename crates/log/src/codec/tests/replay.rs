//! Bulk replays, as the first version that knew them stored them.

use cuitty_webhooks_domain::delivery::{DeliveryStatus, FailureReason};
use cuitty_webhooks_domain::replay::{
    Replay, ReplayChange, ReplayCursor, ReplayFilter, ReplayProgress, Selection,
};

use super::golden::{actor, at, hex, unhex, with_unknown_fields};
use super::*;

/// With every field set.
fn full() -> Replay {
    let started_at = at("2026-11-21T10:00:00.000001Z");
    Replay {
        id: "rpl_01h455vb4pex5vsknk084sn02q".parse().unwrap(),
        selection: Selection {
            filter: ReplayFilter {
                project_id: "acme".parse().unwrap(),
                endpoint_id: Some("ep_01h455vb4pex5vsknk084sn02s".parse().unwrap()),
                status: DeliveryStatus::Failed,
                failure_reasons: vec![FailureReason::Gone, FailureReason::Expired],
                event_types: Some("budget.*".parse().unwrap()),
                since: Some(at("2026-11-20T10:00:00Z")),
                until: Some(at("2026-11-21T09:00:00Z")),
                since_disabled: true,
                include_unmatched: true,
            },
            disabled_at: Some(at("2026-11-20T11:00:00Z")),
            through_sequence: 77,
            before: started_at,
        },
        rate_per_second: Some(500),
        total: 1000,
        cursor: Some(cursor()),
        replayed: 256,
        skipped: 4,
        progress: ReplayProgress::Failed,
        reason: "a value cannot be read".into(),
        started_at,
        ended_at: Some(at("2026-11-21T10:05:00Z")),
    }
}

fn cursor() -> ReplayCursor {
    ReplayCursor::Delivery {
        created_at: at("2026-11-20T10:00:01Z"),
        id: "dlv_01h455vb4pex5vsknk084sn02t".parse().unwrap(),
    }
}

/// With as few fields set as there may be.
fn bare(progress: ReplayProgress, cursor: Option<ReplayCursor>) -> Replay {
    let started_at = at("2026-11-21T10:00:00Z");
    Replay {
        id: full().id,
        selection: Selection {
            filter: ReplayFilter {
                status: DeliveryStatus::Delivered,
                ..ReplayFilter::failed("acme".parse().unwrap())
            },
            disabled_at: None,
            through_sequence: 0,
            before: started_at,
        },
        rate_per_second: None,
        total: 0,
        cursor,
        replayed: 0,
        skipped: 0,
        progress,
        reason: String::new(),
        started_at,
        ended_at: None,
    }
}

fn records() -> [(&'static str, ReplayRecord, &'static str); 6] {
    let record = |change, replay| ReplayRecord {
        change,
        actor: actor(),
        at: at("2026-11-21T10:05:00Z"),
        replay,
    };
    let advanced = |cursor| ReplayChange::Advanced {
        cursor,
        replayed: 200,
        skipped: 3,
    };
    let reason = full().reason;
    let unmatched = ReplayCursor::Unmatched(Some("msg_01h455vb4pex5vsknk084sn02r".parse().unwrap()));
    [
        (
            "started",
            record(ReplayChange::Started, bare(ReplayProgress::Running, None)),
            include_str!("../golden/replay_started.hex"),
        ),
        (
            "advanced",
            record(advanced(cursor()), full()),
            include_str!("../golden/replay_advanced.hex"),
        ),
        (
            "advanced through the unmatched",
            record(
                advanced(unmatched),
                bare(ReplayProgress::Running, Some(ReplayCursor::Unmatched(None))),
            ),
            include_str!("../golden/replay_advanced_unmatched.hex"),
        ),
        (
            "completed",
            record(ReplayChange::Completed, bare(ReplayProgress::Completed, None)),
            include_str!("../golden/replay_completed.hex"),
        ),
        (
            "cancelled",
            record(ReplayChange::Cancelled, bare(ReplayProgress::Cancelled, None)),
            include_str!("../golden/replay_cancelled.hex"),
        ),
        (
            "failed",
            record(ReplayChange::Failed { reason }, full()),
            include_str!("../golden/replay_failed.hex"),
        ),
    ]
}

#[test]
fn every_change_of_a_replay_is_stored_and_read_as_ever() {
    for (name, record, golden) in records() {
        let body = encode_replay(&record.change, &record.replay, &record.actor, record.at);
        assert_eq!(hex(&body), golden.trim(), "{name}");
        assert_eq!(decode_replay(unhex(golden)), Ok(record.clone()), "{name}");
        assert_eq!(
            decode_replay(with_unknown_fields(&unhex(golden))),
            Ok(record),
            "{name}"
        );
    }
}

#[test]
fn a_replay_is_not_a_fact_about_a_delivery() {
    let (_, _, golden) = records()[0].clone();
    assert!(matches!(
        decode_event(Kind::Replay, unhex(golden)),
        Err(CodecError::Invalid { field: "kind", .. })
    ));
}
