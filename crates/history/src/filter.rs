//! Which deliveries a list holds, and the query that reads them off an index.

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::{Delivery, DeliveryStatus};
use cuitty_webhooks_domain::ids::EndpointId;
use cuitty_webhooks_domain::names::{EventType, ProjectId};
use sqlx::types::Uuid;
use sqlx::{Database, Encode, QueryBuilder, Type};

use crate::cursor::Cursor;
use crate::rows::DELIVERY_COLUMNS;

/// Selects deliveries; every part that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    /// Of this project.
    pub project_id: Option<ProjectId>,
    /// To this endpoint.
    pub endpoint_id: Option<EndpointId>,
    /// That stand here.
    pub status: Option<DeliveryStatus>,
    /// Of exactly this event type.
    pub event_type: Option<EventType>,
    /// Created at or after this time.
    pub since: Option<DateTime<Utc>>,
    /// Created before this time.
    pub until: Option<DateTime<Utc>>,
}

/// A part of a list, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Ordered by time of creation, then id, both descending.
    pub deliveries: Vec<Delivery>,
    /// Where the next page begins; `None` when this is the last one.
    pub next: Option<Cursor>,
}

/// Whether the database is told which index to read. SQLite keeps no statistics of its own accord and would guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IndexChoice {
    Named,
    Planner,
}

impl DeliveryFilter {
    /// The query for at most `limit` rows from `cursor` on, after `prefix` (such as `EXPLAIN `).
    pub(crate) fn query<DB>(
        &self,
        prefix: &str,
        choice: IndexChoice,
        limit: i64,
        cursor: Option<Cursor>,
    ) -> QueryBuilder<DB>
    where
        DB: Database,
        for<'t> String: Encode<'t, DB> + Type<DB>,
        for<'t> i64: Encode<'t, DB> + Type<DB>,
        for<'t> Uuid: Encode<'t, DB> + Type<DB>,
    {
        let mut query = QueryBuilder::new(format!("{prefix}SELECT {DELIVERY_COLUMNS} FROM deliveries AS d "));
        if choice == IndexChoice::Named {
            query.push("INDEXED BY ").push(self.index());
        }
        query.push(" WHERE TRUE");
        if let Some(project_id) = &self.project_id {
            query
                .push(" AND d.project_id = ")
                .push_bind(project_id.to_string());
        }
        if let Some(endpoint_id) = self.endpoint_id {
            query.push(" AND d.endpoint_id = ").push_bind(endpoint_id.uuid());
        }
        if let Some(status) = self.status {
            // Not bound: only a constant lets the planner use a partial index.
            query.push(" AND d.status = '").push(status.as_str()).push("'");
        }
        if let Some(event_type) = &self.event_type {
            query
                .push(" AND d.event_type = ")
                .push_bind(event_type.to_string());
        }
        if let Some(since) = self.since {
            query
                .push(" AND d.created_at >= ")
                .push_bind(since.timestamp_micros());
        }
        if let Some(until) = self.until {
            query
                .push(" AND d.created_at < ")
                .push_bind(until.timestamp_micros());
        }
        if let Some(cursor) = cursor {
            query
                .push(" AND (d.created_at, d.id) < (")
                .push_bind(cursor.created_at);
            query.push(", ").push_bind(cursor.id).push(")");
        }
        query
            .push(" ORDER BY d.created_at DESC, d.id DESC LIMIT ")
            .push_bind(limit);
        query
    }

    /// The index that holds the filtered rows in order with the fewest others between them.
    pub(crate) fn index(&self) -> &'static str {
        use DeliveryStatus::{Failed, Pending};
        match (&self.endpoint_id, &self.project_id, self.status) {
            (Some(_), _, Some(Pending)) => "deliveries_pending_by_endpoint",
            (Some(_), _, Some(Failed)) => "deliveries_failed_by_endpoint",
            (Some(_), _, _) => "deliveries_by_endpoint",
            (None, Some(_), Some(Pending)) => "deliveries_pending_by_project",
            (None, Some(_), Some(Failed)) => "deliveries_failed_by_project",
            (None, Some(_), _) if self.event_type.is_some() => "deliveries_by_event_type",
            (None, Some(_), _) => "deliveries_by_project",
            (None, None, Some(Pending)) => "deliveries_pending_by_time",
            (None, None, Some(Failed)) => "deliveries_failed_by_time",
            (None, None, _) => "deliveries_by_time",
        }
    }
}
