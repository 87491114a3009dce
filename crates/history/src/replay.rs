//! What a bulk replay looks at: how much it is, and page by page.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::{Delivery, FailureReason};
use cuitty_webhooks_domain::ids::{DeliveryId, MessageId};
use cuitty_webhooks_domain::names::{EventType, EventTypePattern};
use cuitty_webhooks_domain::replay::Selection;
use sqlx::types::Uuid;
use sqlx::{ColumnIndex, Database as Backend, Decode, Encode, FromRow, QueryBuilder, Row, Type};

use crate::database::{Database, on_reader, sequence_column};
use crate::error::HistoryError;
use crate::filter::DeliveryFilter;
use crate::rows::{DELIVERY_COLUMNS, StoredDelivery, convert};
use crate::store::Store;

/// A message that no endpoint subscribed to, without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmatchedRef {
    /// The message.
    pub message_id: MessageId,
    /// Its type.
    pub event_type: EventType,
}

/// A row, and where the history was when it was read: told in one statement, so that a history that is being folded anew is
/// never mistaken for one that holds no more.
struct AsOf<T> {
    sequence: i64,
    row: Option<T>,
}

impl<'r, R, T> FromRow<'r, R> for AsOf<T>
where
    R: Row,
    T: FromRow<'r, R>,
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    Option<Uuid>: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        let is_there = row.try_get::<Option<Uuid>, _>("id")?.is_some();
        Ok(Self {
            sequence: row.try_get("reached")?,
            row: is_there.then(|| T::from_row(row)).transpose()?,
        })
    }
}

/// The rows, unless the history had not reached `reached` of the log.
fn as_of<T>(rows: Vec<AsOf<T>>, reached: u64) -> Option<Vec<T>> {
    let is_behind = |row: &AsOf<T>| row.sequence < sequence_column(reached);
    if rows.is_empty() || rows.iter().any(is_behind) {
        return None;
    }
    Some(rows.into_iter().filter_map(|row| row.row).collect())
}

#[derive(Debug, FromRow)]
struct StoredId {
    id: Uuid,
}

#[derive(Debug, FromRow)]
struct StoredUnmatchedRef {
    id: Uuid,
    event_type: String,
}

impl TryFrom<StoredUnmatchedRef> for UnmatchedRef {
    type Error = HistoryError;

    fn try_from(row: StoredUnmatchedRef) -> Result<Self, HistoryError> {
        let event_type = row.event_type.parse().map_err(|_| HistoryError::Corrupt {
            table: "messages",
            column: "event_type",
        })?;
        Ok(Self {
            message_id: MessageId::from_uuid(row.id),
            event_type,
        })
    }
}

/// The three reads with `reached` give `None` when the history has not reached that log sequence.
impl Store {
    /// How many deliveries and unmatched messages are selected.
    pub async fn count_replayable(&self, selection: &Selection) -> Result<u64, HistoryError> {
        let hint = self.index_hint(selection);
        let deliveries: i64 = on_reader!(self.database(), reader => {
            let mut query = QueryBuilder::new(format!("SELECT count(*) FROM deliveries AS d {hint}"));
            push_deliveries(&mut query, selection);
            query.build_query_scalar().fetch_one(reader).await?
        });
        let mut unmatched = 0;
        if selection.filter.include_unmatched {
            unmatched = on_reader!(self.database(), reader => {
                let mut query = QueryBuilder::new(format!("SELECT count(*) {UNMATCHED}"));
                push_unmatched(&mut query, selection);
                query.build_query_scalar().fetch_one(reader).await?
            });
        }
        Ok(u64::try_from(deliveries + unmatched).unwrap_or_default())
    }

    /// Selected deliveries in order of creation and id, at most `limit` (1 or more), those that follow `after`.
    pub async fn replayable(
        &self,
        selection: &Selection,
        after: Option<(DateTime<Utc>, DeliveryId)>,
        reached: u64,
        limit: u32,
    ) -> Result<Option<Vec<Delivery>>, HistoryError> {
        let hint = self.index_hint(selection);
        let rows: Vec<AsOf<StoredDelivery>> = on_reader!(self.database(), reader => {
            let mut query = QueryBuilder::new(format!(
                "SELECT c.sequence AS reached, d.* FROM projection_checkpoint AS c
                 LEFT JOIN (SELECT {DELIVERY_COLUMNS} FROM deliveries AS d {hint}"
            ));
            push_deliveries(&mut query, selection);
            if let Some((created_at, id)) = after {
                query.push(" AND (d.created_at, d.id) > (").push_bind(created_at.timestamp_micros());
                query.push(", ").push_bind(id.uuid()).push(")");
            }
            query.push(" ORDER BY d.created_at, d.id LIMIT ").push_bind(i64::from(limit));
            query.push(") AS d ON TRUE");
            query.build_query_as().fetch_all(reader).await?
        });
        let Some(rows) = as_of(rows, reached) else {
            return Ok(None);
        };
        let mut deliveries: Vec<Delivery> = convert(rows)?;
        // A join promises no order.
        deliveries.sort_by_key(|delivery| (delivery.created_at, delivery.delivery.delivery_id));
        Ok(Some(deliveries))
    }

    /// Selected messages that no endpoint subscribed to in order of their ids, at most `limit` (1 or more), those that
    /// follow `after`.
    pub async fn replayable_unmatched(
        &self,
        selection: &Selection,
        after: Option<MessageId>,
        reached: u64,
        limit: u32,
    ) -> Result<Option<Vec<UnmatchedRef>>, HistoryError> {
        let rows: Vec<AsOf<StoredUnmatchedRef>> = on_reader!(self.database(), reader => {
            let mut query = QueryBuilder::new(format!(
                "SELECT c.sequence AS reached, d.* FROM projection_checkpoint AS c
                 LEFT JOIN (SELECT u.message_id AS id, m.event_type {UNMATCHED}"
            ));
            push_unmatched(&mut query, selection);
            if let Some(after) = after {
                query.push(" AND u.message_id > ").push_bind(after.uuid());
            }
            query.push(" ORDER BY u.message_id LIMIT ").push_bind(i64::from(limit));
            query.push(") AS d ON TRUE");
            query.build_query_as().fetch_all(reader).await?
        });
        let Some(rows) = as_of(rows, reached) else {
            return Ok(None);
        };
        let mut messages: Vec<UnmatchedRef> = convert(rows)?;
        messages.sort_by_key(|message| message.message_id);
        Ok(Some(messages))
    }

    /// Which of these deliveries the history knows.
    pub async fn existing(
        &self,
        ids: &[DeliveryId],
        reached: u64,
    ) -> Result<Option<HashSet<DeliveryId>>, HistoryError> {
        let rows: Vec<AsOf<StoredId>> = on_reader!(self.database(), reader => {
            let mut query = QueryBuilder::new(
                "SELECT c.sequence AS reached, d.id FROM projection_checkpoint AS c
                 LEFT JOIN deliveries AS d ON d.id IN ",
            );
            push_ids(&mut query, ids.iter().map(|id| id.uuid()));
            query.build_query_as().fetch_all(reader).await?
        });
        let known = as_of(rows, reached);
        Ok(known.map(|rows| {
            rows.into_iter()
                .map(|row| DeliveryId::from_uuid(row.id))
                .collect()
        }))
    }

    /// Which of these deliveries have ended, as far as the history knows.
    pub async fn ended(&self, ids: &[DeliveryId]) -> Result<HashSet<DeliveryId>, HistoryError> {
        let rows: Vec<Uuid> = on_reader!(self.database(), reader => {
            let mut query =
                QueryBuilder::new("SELECT d.id FROM deliveries AS d WHERE d.status <> 'pending' AND d.id IN ");
            push_ids(&mut query, ids.iter().map(|id| id.uuid()));
            query.build_query_scalar().fetch_all(reader).await?
        });
        Ok(rows.into_iter().map(DeliveryId::from_uuid).collect())
    }

    /// Media type and payload of these messages, of those that are known.
    pub async fn contents(
        &self,
        ids: &[MessageId],
    ) -> Result<HashMap<MessageId, (String, Bytes)>, HistoryError> {
        let rows: Vec<(Uuid, String, Vec<u8>)> = on_reader!(self.database(), reader => {
            let mut query = QueryBuilder::new("SELECT m.id, m.content_type, m.payload FROM messages AS m WHERE m.id IN ");
            push_ids(&mut query, ids.iter().map(|id| id.uuid()));
            query.build_query_as().fetch_all(reader).await?
        });
        let content = |(id, content_type, payload): (Uuid, _, Vec<u8>)| {
            (MessageId::from_uuid(id), (content_type, payload.into()))
        };
        Ok(rows.into_iter().map(content).collect())
    }

    /// Names the index that has the selected deliveries in order. SQLite keeps no statistics of its own accord and would
    /// guess.
    fn index_hint(&self, selection: &Selection) -> String {
        let filter = &selection.filter;
        let index = DeliveryFilter {
            project_id: Some(filter.project_id.clone()),
            endpoint_id: filter.endpoint_id,
            status: Some(filter.status),
            ..DeliveryFilter::default()
        };
        match self.database() {
            Database::Sqlite { .. } => format!("INDEXED BY {}", index.index()),
            Database::Postgres(_) => String::new(),
        }
    }
}

/// The unmatched messages. `CROSS JOIN` makes SQLite begin with the smaller table.
const UNMATCHED: &str = "FROM unmatched_messages AS u CROSS JOIN messages AS m";

fn push_deliveries<DB>(query: &mut QueryBuilder<DB>, selection: &Selection)
where
    DB: Backend,
    for<'t> String: Encode<'t, DB> + Type<DB>,
    for<'t> i64: Encode<'t, DB> + Type<DB>,
    for<'t> Uuid: Encode<'t, DB> + Type<DB>,
{
    let filter = &selection.filter;
    query
        .push(" WHERE d.project_id = ")
        .push_bind(filter.project_id.to_string());
    // Not bound: only a constant lets the planner use a partial index.
    query
        .push(" AND d.status = '")
        .push(filter.status.as_str())
        .push("'");
    query
        .push(" AND d.requested_sequence <= ")
        .push_bind(sequence_column(selection.through_sequence));
    if let Some(endpoint_id) = filter.endpoint_id {
        query.push(" AND d.endpoint_id = ").push_bind(endpoint_id.uuid());
    }
    let reasons = if filter.since_disabled {
        &[FailureReason::EndpointDisabled][..]
    } else {
        &filter.failure_reasons
    };
    if !reasons.is_empty() {
        query.push(" AND d.failure_reason IN (");
        let mut list = query.separated(", ");
        for reason in reasons {
            list.push_bind(reason.as_str().to_owned());
        }
        query.push(")");
    }
    if let Some(disabled_at) = selection.disabled_at {
        query
            .push(" AND d.completed_at >= ")
            .push_bind(disabled_at.timestamp_micros());
    }
    push_pattern(query, "d.event_type", filter.event_types.as_ref());
    if let Some(since) = filter.since {
        query
            .push(" AND d.created_at >= ")
            .push_bind(since.timestamp_micros());
    }
    if let Some(until) = filter.until {
        query
            .push(" AND d.created_at < ")
            .push_bind(until.timestamp_micros());
    }
}

fn push_unmatched<DB>(query: &mut QueryBuilder<DB>, selection: &Selection)
where
    DB: Backend,
    for<'t> String: Encode<'t, DB> + Type<DB>,
    for<'t> i64: Encode<'t, DB> + Type<DB>,
{
    let filter = &selection.filter;
    query
        .push(" WHERE m.id = u.message_id AND m.project_id = ")
        .push_bind(filter.project_id.to_string());
    push_pattern(query, "m.event_type", filter.event_types.as_ref());
    if let Some(since) = filter.since {
        query
            .push(" AND u.created_at >= ")
            .push_bind(since.timestamp_micros());
    }
    let until = filter
        .until
        .map_or(selection.before, |until| until.min(selection.before));
    query
        .push(" AND u.created_at < ")
        .push_bind(until.timestamp_micros());
}

fn push_pattern<DB>(query: &mut QueryBuilder<DB>, column: &str, pattern: Option<&EventTypePattern>)
where
    DB: Backend,
    for<'t> String: Encode<'t, DB> + Type<DB>,
{
    let Some(pattern) = pattern
        .map(EventTypePattern::as_str)
        .filter(|&pattern| pattern != "*")
    else {
        return;
    };
    match pattern.strip_suffix(".*") {
        None => {
            query
                .push(format!(" AND {column} = "))
                .push_bind(pattern.to_owned());
        }
        // Both databases compare by bytes, and `/` is the byte after `.`.
        Some(prefix) => {
            query
                .push(format!(" AND {column} > "))
                .push_bind(format!("{prefix}."));
            query
                .push(format!(" AND {column} < "))
                .push_bind(format!("{prefix}/"));
        }
    }
}

fn push_ids<DB>(query: &mut QueryBuilder<DB>, ids: impl Iterator<Item = Uuid>)
where
    DB: Backend,
    for<'t> Uuid: Encode<'t, DB> + Type<DB>,
{
    query.push("(");
    let mut list = query.separated(", ");
    for id in ids {
        list.push_bind(id);
    }
    query.push(")");
}
