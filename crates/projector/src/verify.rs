//! Proving that the history is what the log says.

use std::cmp::Ordering;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId, MessageId};
use cuitty_webhooks_history::{
    DeliveryDetail, EndpointFailures, Snapshot, Store, StoreConfig, UnmatchedMessage,
};
use cuitty_webhooks_log::Log;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::ProjectorConfig;
use crate::error::ProjectorError;
use crate::rebuild::fold_until;
use crate::{Progress, Stage};

/// Rows read at once from each side.
const CHUNK: u32 = 500;
/// Differences that are told one by one; the rest is only counted.
const TOLD: usize = 20;

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// The log sequence up to which log and history were compared.
    pub checkpoint: u64,
    /// Log sequences that were folded.
    pub events: u64,
    /// How long folding took.
    pub folding: Duration,
    /// How long comparing took.
    pub comparing: Duration,
    /// Deliveries, unmatched messages and failing endpoints that are the same on both sides.
    pub identical: u64,
    /// Rows whose events are past the log's retention, so that nothing can be said about them.
    pub expired: u64,
    /// Rows that differ, are missing, or should not be there.
    pub different: u64,
    /// The first of these, in order of their ids.
    pub differences: Vec<Difference>,
}

/// A row on which history and log disagree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Id of the delivery, the unmatched message or the failing endpoint.
    pub id: String,
    /// What is wrong with it.
    pub kind: DifferenceKind,
}

/// How history and log disagree on a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DifferenceKind {
    /// The log says that there is such a row, the history has none.
    Missing,
    /// The history has a row that the log knows nothing of.
    Unexpected,
    /// Both have it, and these parts are not the same.
    Changed(Vec<&'static str>),
}

impl fmt::Display for DifferenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing in the history"),
            Self::Unexpected => f.write_str("not in the log"),
            Self::Changed(parts) => write!(f, "differs in {}", parts.join(", ")),
        }
    }
}

/// Folds the log up to the history's checkpoint into an empty SQLite history in a temporary directory, and compares it
/// with the live one row by row. Changes nothing; the live history may be written meanwhile.
pub async fn verify(
    log: &Log,
    store: &Store,
    config: &ProjectorConfig,
    stop: &CancellationToken,
    mut progress: impl FnMut(Progress),
) -> Result<VerifyReport, ProjectorError> {
    let scratch = tempfile::Builder::new()
        .prefix("cuitty-webhooks-verify-")
        .tempdir()?;
    let url = format!("sqlite:{}", scratch.path().join("shadow.db").display());
    let shadow = Store::open(&StoreConfig {
        url,
        ..StoreConfig::default()
    })
    .await?;

    // The bulk is folded before the snapshot is taken, so that the live database holds that no longer than it must.
    let started = Instant::now();
    let (first, _) = log.bounds().await?;
    let ahead = store.checkpoint().await?;
    let reached = fold_until(log, &shadow, 0, ahead, config, stop, &mut progress).await?;
    let mut live = store.snapshot().await?;
    let checkpoint = live.checkpoint();
    if checkpoint < ahead {
        return Err(ProjectorError::Interrupted {
            expected: ahead,
            actual: checkpoint,
        });
    }
    fold_until(log, &shadow, reached, checkpoint, config, stop, &mut progress).await?;
    let folding = started.elapsed();

    let mut comparison = Comparison {
        report: VerifyReport {
            checkpoint,
            events: (checkpoint + 1).saturating_sub(first),
            folding,
            ..VerifyReport::default()
        },
        horizon: Horizon::of(log).await?,
    };
    let started = Instant::now();
    let mut folded = shadow.snapshot().await?;
    let comparing = async {
        comparison
            .compare::<DeliveryDetail>(&mut live, &mut folded, &mut progress)
            .await?;
        comparison
            .compare::<UnmatchedMessage>(&mut live, &mut folded, &mut progress)
            .await?;
        comparison
            .compare::<EndpointFailures>(&mut live, &mut folded, &mut progress)
            .await
    };
    stop.run_until_cancelled(comparing)
        .await
        .ok_or(ProjectorError::Stopped)??;
    comparison.report.comparing = started.elapsed();
    Ok(comparison.report)
}

/// Where the log begins.
struct Horizon {
    sequence: u64,
    stored_at: Option<DateTime<Utc>>,
}

impl Horizon {
    async fn of(log: &Log) -> Result<Self, ProjectorError> {
        let (sequence, _) = log.bounds().await?;
        let stored_at = log.get(sequence).await?.map(|event| event.stored_at);
        Ok(Self { sequence, stored_at })
    }

    /// Whether what happened at `time` is no longer in the log.
    fn is_after(&self, time: DateTime<Utc>) -> bool {
        self.sequence > 1 && self.stored_at.is_none_or(|stored_at| time < stored_at)
    }
}

/// A row of the history.
trait Row: PartialEq + Sized {
    /// What rows are ordered by.
    type Id: Ord + fmt::Display;

    fn id(&self) -> Self::Id;

    /// Whether its first event is no longer in the log.
    fn is_before(&self, horizon: &Horizon) -> bool;

    /// Whether the log's later events alone make a row of it too, another one.
    const OUTLIVES_ITS_FIRST_EVENT: bool = false;

    /// The parts in which `self` and `other` are not the same.
    fn changes(&self, other: &Self) -> Vec<&'static str>;

    async fn chunk(snapshot: &mut Snapshot) -> Result<Vec<Self>, ProjectorError>;
}

impl Row for DeliveryDetail {
    type Id = DeliveryId;

    fn id(&self) -> DeliveryId {
        self.delivery.delivery.delivery_id
    }

    fn is_before(&self, horizon: &Horizon) -> bool {
        self.delivery.requested_sequence < horizon.sequence
    }

    fn changes(&self, other: &Self) -> Vec<&'static str> {
        let parts = [
            ("state", self.delivery != other.delivery),
            ("content type", self.content_type != other.content_type),
            ("payload", self.payload != other.payload),
            ("attempts", self.attempts != other.attempts),
        ];
        parts
            .into_iter()
            .filter(|(_, changed)| *changed)
            .map(|(part, _)| part)
            .collect()
    }

    async fn chunk(snapshot: &mut Snapshot) -> Result<Vec<Self>, ProjectorError> {
        Ok(snapshot.next_chunk(CHUNK).await?)
    }
}

impl Row for UnmatchedMessage {
    type Id = MessageId;

    fn id(&self) -> MessageId {
        self.message_id
    }

    fn is_before(&self, horizon: &Horizon) -> bool {
        horizon.is_after(self.created_at)
    }

    fn changes(&self, _other: &Self) -> Vec<&'static str> {
        vec!["message"]
    }

    async fn chunk(snapshot: &mut Snapshot) -> Result<Vec<Self>, ProjectorError> {
        Ok(snapshot.next_unmatched_chunk(CHUNK).await?)
    }
}

impl Row for EndpointFailures {
    type Id = EndpointId;

    fn id(&self) -> EndpointId {
        self.endpoint_id
    }

    fn is_before(&self, horizon: &Horizon) -> bool {
        horizon.is_after(self.failing_since)
    }

    const OUTLIVES_ITS_FIRST_EVENT: bool = true;

    fn changes(&self, _other: &Self) -> Vec<&'static str> {
        vec!["failures"]
    }

    async fn chunk(snapshot: &mut Snapshot) -> Result<Vec<Self>, ProjectorError> {
        Ok(snapshot.next_failures_chunk(CHUNK).await?)
    }
}

/// The rows of one side, one after another.
struct Rows<'a, R> {
    snapshot: &'a mut Snapshot,
    chunk: std::vec::IntoIter<R>,
}

impl<'a, R: Row> Rows<'a, R> {
    fn of(snapshot: &'a mut Snapshot) -> Self {
        Self {
            snapshot,
            chunk: Vec::new().into_iter(),
        }
    }

    async fn next(&mut self) -> Result<Option<R>, ProjectorError> {
        if self.chunk.as_slice().is_empty() {
            self.chunk = R::chunk(self.snapshot).await?.into_iter();
        }
        Ok(self.chunk.next())
    }
}

struct Comparison {
    report: VerifyReport,
    horizon: Horizon,
}

impl Comparison {
    /// Walks both sides in order of their ids.
    async fn compare<R: Row>(
        &mut self,
        live: &mut Snapshot,
        folded: &mut Snapshot,
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), ProjectorError> {
        let (mut live, mut folded) = (Rows::<R>::of(live), Rows::<R>::of(folded));
        let (mut left, mut right) = (live.next().await?, folded.next().await?);
        loop {
            let order = match (&left, &right) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(left), Some(right)) => left.id().cmp(&right.id()),
            };
            self.record(order, left.as_ref(), right.as_ref());
            if order.is_le() {
                left = live.next().await?;
            }
            if order.is_ge() {
                right = folded.next().await?;
            }
            let done = self.report.identical + self.report.different + self.report.expired;
            if done.is_multiple_of(u64::from(CHUNK)) {
                progress(Progress {
                    stage: Stage::Comparing,
                    done,
                    total: 0,
                });
            }
        }
    }

    fn record<R: Row>(&mut self, order: Ordering, live: Option<&R>, folded: Option<&R>) {
        let (row, kind) = match (order, live, folded) {
            (Ordering::Equal, Some(live), Some(folded)) if live == folded => {
                self.report.identical += 1;
                return;
            }
            (Ordering::Equal, Some(live), Some(_))
                if R::OUTLIVES_ITS_FIRST_EVENT && live.is_before(&self.horizon) =>
            {
                self.report.expired += 1;
                return;
            }
            (Ordering::Equal, Some(live), Some(folded)) => {
                (live, DifferenceKind::Changed(live.changes(folded)))
            }
            (Ordering::Less, Some(live), _) if live.is_before(&self.horizon) => {
                self.report.expired += 1;
                return;
            }
            (Ordering::Less, Some(live), _) => (live, DifferenceKind::Unexpected),
            (_, _, Some(folded)) => (folded, DifferenceKind::Missing),
            (_, _, None) => return,
        };
        self.report.different += 1;
        if self.report.differences.len() < TOLD {
            self.report.differences.push(Difference {
                id: row.id().to_string(),
                kind,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn message(id: u128, payload: &'static str, created_at: i64) -> UnmatchedMessage {
        UnmatchedMessage {
            message_id: format!("msg_{id:026}").parse().unwrap(),
            project_id: "acme".parse().unwrap(),
            event_type: "order.paid".parse().unwrap(),
            content_type: "application/json".into(),
            payload: Bytes::from_static(payload.as_bytes()),
            created_at: at(created_at),
        }
    }

    fn compare<R: Row>(live: Option<&R>, folded: Option<&R>) -> VerifyReport {
        let horizon = Horizon {
            sequence: 100,
            stored_at: Some(at(1000)),
        };
        let mut comparison = Comparison {
            report: VerifyReport::default(),
            horizon,
        };
        let order = match (live, folded) {
            (Some(live), Some(folded)) => live.id().cmp(&folded.id()),
            (Some(_), None) => Ordering::Less,
            _ => Ordering::Greater,
        };
        comparison.record(order, live, folded);
        comparison.report
    }

    #[test]
    fn rows_are_told_apart() {
        let row = || Some(message(1, "a", 2000));
        assert_eq!(
            compare(row().as_ref(), row().as_ref()),
            VerifyReport {
                identical: 1,
                ..VerifyReport::default()
            }
        );
        for (live, folded, kind) in [
            (
                row(),
                Some(message(1, "b", 2000)),
                DifferenceKind::Changed(vec!["message"]),
            ),
            (row(), None, DifferenceKind::Unexpected),
            (row(), Some(message(2, "a", 2000)), DifferenceKind::Unexpected),
            (None, row(), DifferenceKind::Missing),
            (Some(message(2, "a", 2000)), row(), DifferenceKind::Missing),
        ] {
            let report = compare(live.as_ref(), folded.as_ref());
            let kinds: Vec<_> = report
                .differences
                .into_iter()
                .map(|difference| difference.kind)
                .collect();
            assert_eq!((report.different, kinds), (1, vec![kind]));
        }
    }

    #[test]
    fn rows_older_than_the_log_are_no_difference_unless_the_log_has_them() {
        let old = || Some(message(1, "a", 999));
        assert_eq!(
            compare(old().as_ref(), None),
            VerifyReport {
                expired: 1,
                ..VerifyReport::default()
            }
        );
        assert_eq!(compare(None, old().as_ref()).different, 1);
    }

    #[test]
    fn an_endpoint_that_was_failing_before_the_log_begins_may_be_told_of_otherwise() {
        let failing = |since, failures| EndpointFailures {
            endpoint_id: format!("ep_{:026}", 1).parse().unwrap(),
            project_id: "acme".parse().unwrap(),
            failing_since: at(since),
            last_failure_at: at(3000),
            failures,
        };
        let report = compare(Some(&failing(999, 9)), Some(&failing(1001, 7)));
        assert_eq!((report.expired, report.different), (1, 0));
        let report = compare(Some(&failing(1001, 9)), Some(&failing(1001, 7)));
        assert_eq!((report.expired, report.different), (0, 1));
    }
}
