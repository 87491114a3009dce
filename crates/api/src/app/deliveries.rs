//! Reads of the delivery history.

use chrono::{DateTime, Utc};
use cuitty_webhooks_domain::delivery::DeliveryStatus;
use cuitty_webhooks_domain::ids::{DeliveryId, EndpointId};
use cuitty_webhooks_domain::names::{EventType, ProjectId};
use cuitty_webhooks_domain::rejection::{Rejection, Resource};
use cuitty_webhooks_history::{Cursor, DeliveryDetail, DeliveryFilter, Page, Store};

use super::input::{PageInput, Violations};
use super::{App, observed, unknown_endpoint};
use crate::auth::{Caller, Scope};
use crate::error::AppError;

/// Which deliveries are asked for; empty texts leave a part open.
#[derive(Debug, Default)]
pub(crate) struct DeliveryQuery {
    pub(crate) project_id: String,
    pub(crate) endpoint_id: String,
    pub(crate) status: Option<DeliveryStatus>,
    pub(crate) event_type: String,
    /// Created at or after.
    pub(crate) since: Option<DateTime<Utc>>,
    /// Created before.
    pub(crate) until: Option<DateTime<Utc>>,
    pub(crate) page: PageInput,
    /// Wait until the history has passed this sequence; 0 does not wait.
    pub(crate) min_log_sequence: u64,
}

impl App {
    /// A delivery with its payload and every attempt.
    #[tracing::instrument(name = "api.get_delivery", skip_all, fields(delivery.id = %id))]
    pub(crate) async fn get_delivery(
        &self,
        caller: &Caller,
        id: DeliveryId,
        min_log_sequence: u64,
    ) -> Result<DeliveryDetail, AppError> {
        observed("get_delivery", async {
            caller.require(Scope::Read)?;
            self.await_history(min_log_sequence).await?;
            self.find_delivery(caller, id).await
        })
        .await
    }

    /// A delivery as the history has it now, unless it is none of the caller's business.
    pub(super) async fn find_delivery(
        &self,
        caller: &Caller,
        id: DeliveryId,
    ) -> Result<DeliveryDetail, AppError> {
        let read = async |history: Store| history.get_delivery(id).await;
        let found = self.history.read(read).await?;
        let visible = found.filter(|detail| caller.sees(&detail.delivery.delivery.project_id));
        let not_found = || Rejection::NotFound {
            resource: Resource::Delivery,
            id: id.to_string(),
        };
        Ok(visible.ok_or_else(not_found)?)
    }

    /// A page of deliveries, newest first.
    #[tracing::instrument(name = "api.list_deliveries", skip_all)]
    pub(crate) async fn list_deliveries(
        &self,
        caller: &Caller,
        query: DeliveryQuery,
    ) -> Result<Page, AppError> {
        observed("list_deliveries", async {
            caller.require(Scope::Read)?;
            let mut violations = Violations::after(query.page.faults.clone());
            let limit = query.page.limit(&mut violations);
            let cursor = violations.parse_some::<Cursor>("cursor", &query.page.cursor);
            let event_type = violations.parse_some::<EventType>("event_type", &query.event_type);
            let (project_id, endpoint_id) =
                self.scope_of(caller, &query.project_id, &query.endpoint_id, violations)?;
            let filter = DeliveryFilter {
                project_id,
                endpoint_id,
                status: query.status,
                event_type,
                since: query.since,
                until: query.until,
            };
            self.await_history(query.min_log_sequence).await?;
            self.history
                .read(async |history| history.list_deliveries(&filter, limit, cursor).await)
                .await
        })
        .await
    }

    /// Reads the project and the endpoint that a question is about, both of which may be left open, and refuses what
    /// does not exist or is none of the caller's business. Deleted endpoints can still be asked about.
    pub(super) fn scope_of(
        &self,
        caller: &Caller,
        project_id: &str,
        endpoint_id: &str,
        mut violations: Violations,
    ) -> Result<(Option<ProjectId>, Option<EndpointId>), AppError> {
        let project = if project_id.is_empty() {
            caller.project.clone()
        } else {
            violations.parse("project_id", project_id)
        };
        let endpoint = violations.parse_some::<EndpointId>("endpoint_id", endpoint_id);
        violations.finish(Some(()))?;
        if let Some(project) = &project {
            caller.require_project(project)?;
            self.endpoints_of(project)?;
        }
        if let Some(id) = endpoint {
            let entry = self.directory.get(id).ok_or_else(|| unknown_endpoint(id))?;
            if project
                .as_ref()
                .is_some_and(|project| *project != entry.endpoint.project_id)
            {
                return Err(unknown_endpoint(id));
            }
        }
        Ok((project, endpoint))
    }

    /// Waits, bounded, until the history has passed `sequence`; 0 does not wait.
    pub(super) async fn await_history(&self, sequence: u64) -> Result<(), AppError> {
        if sequence == 0 {
            return Ok(());
        }
        // Nothing will ever pass what the log has not given out.
        if let Ok((_, last)) = self.log.bounds().await
            && sequence > last
        {
            // Where the log ends tells of other projects' traffic.
            let text = "must be a sequence of the log, which ends before it";
            return Err(Rejection::field("min_log_sequence", text).into());
        }
        let wait = async |history: Store| history.wait_for(sequence, self.read_wait).await;
        if self.history.read(wait).await? {
            Ok(())
        } else {
            Err(AppError::HistoryBehind(sequence))
        }
    }
}
