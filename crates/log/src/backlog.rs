//! Reading the work of one endpoint, apart from the rest of its partition.

use cuitty_webhooks_domain::ids::EndpointId;
use cuitty_webhooks_domain::names::ProjectId;

use crate::Log;
use crate::error::LogError;
use crate::subjects::{partition_of, work_of};
use crate::work::WorkEvent;

/// Part of an endpoint's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkRead {
    /// What is to be done with its sequence in the log: in order, and all that is kept up to `end`.
    pub items: Vec<(u64, WorkEvent)>,
    /// Sequence of the last item; one less than where the read began when there are none.
    pub end: u64,
    /// Whether the endpoint had no work behind `end`, as the stream's leader says. When it is `false` there may be none
    /// either: the next read tells.
    pub at_tail: bool,
}

impl Log {
    /// The endpoint's work from sequence `from` on (0 and 1 both mean the first): at most `max_items`, and no more than
    /// it takes to reach `max_bytes`, but one item when there is one. A read never brings more than 1000 items, nor much
    /// more than 8 MiB, whatever it asks for.
    ///
    /// [`LogError::Unavailable`] when that was not to be had within `request_timeout`.
    pub async fn read_work(
        &self,
        project_id: &ProjectId,
        endpoint_id: EndpointId,
        from: u64,
        max_items: usize,
        max_bytes: usize,
    ) -> Result<WorkRead, LogError> {
        let partition = partition_of(endpoint_id, self.stored_partitions().await?);
        let filter = work_of(partition, project_id, endpoint_id);
        let page = self.page(&filter, from, max_items, max_bytes).await?;
        let items = page.messages.into_iter().map(|message| {
            let event = WorkEvent::decode(&message.subject, message.payload);
            (message.sequence, event)
        });
        Ok(WorkRead {
            items: items.collect(),
            end: page.end,
            at_tail: page.at_tail,
        })
    }
}
