//! The next page of a replay, and what is to be requested of it.

use cuitty_webhooks_domain::delivery::{Delivery, DeliveryRef};
use cuitty_webhooks_domain::endpoint::Endpoint;
use cuitty_webhooks_domain::ids::DeliveryId;
use cuitty_webhooks_domain::replay::{Replay, ReplayCursor};
use cuitty_webhooks_history::UnmatchedRef;

use super::Replayer;
use crate::error::ProjectorError;

/// Rows of a page, at least and at most: it lasts a second or so, and is what a cancellation or a crash leaves uncounted.
const ROWS: (u32, u32) = (16, 256);
/// Unmatched messages of a page, each of which may go to many endpoints.
const MESSAGES: u32 = 16;

/// A delivery that is to be requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) delivery: DeliveryRef,
    /// The delivery that it replays; `None` for a message that had none.
    pub(super) replay_of: Option<DeliveryId>,
}

/// What a replay looks at next.
pub(super) enum Page {
    Some {
        items: Vec<Item>,
        /// The last of the page.
        cursor: ReplayCursor,
        /// Deliveries and messages that are requested again.
        messages: u64,
        /// Those that nobody takes now.
        skipped: u64,
    },
    /// Nothing: it has looked at everything.
    End,
}

/// Reads what follows the replay's cursor in a history that has reached `reached`; `None` when it has not.
pub(super) async fn read_page(
    replayer: &Replayer,
    replay: &Replay,
    reached: u64,
) -> Result<Option<Page>, ProjectorError> {
    let selection = &replay.selection;
    let after = match replay.cursor {
        None => None,
        Some(ReplayCursor::Delivery { created_at, id }) => Some((created_at, id)),
        Some(ReplayCursor::Unmatched(after)) => {
            return unmatched(replayer, replay, after, reached).await;
        }
    };
    let rate = replay.rate_per_second.unwrap_or(replayer.config.replay.rate);
    let rows = rate.clamp(ROWS.0, ROWS.1);
    let Some(mut deliveries) = replayer.store.replayable(selection, after, reached, rows).await? else {
        return Ok(None);
    };
    let Some(last) = deliveries.last() else {
        return unmatched(replayer, replay, None, reached).await;
    };
    let cursor = ReplayCursor::Delivery {
        created_at: last.created_at,
        id: last.delivery.delivery_id,
    };
    let found = deliveries.len() as u64;
    // As they stand in the log: an ordered endpoint gets them in that order.
    deliveries.sort_by_key(|delivery| delivery.requested_sequence);
    let is_taken = |delivery: &Delivery| {
        let entry = replayer.directory.get(delivery.delivery.endpoint_id);
        entry.is_some_and(|entry| takes(&entry.endpoint))
    };
    let items: Vec<_> = deliveries
        .iter()
        .filter(|delivery| is_taken(delivery))
        .map(|delivery| Item {
            delivery: DeliveryRef {
                delivery_id: DeliveryId::replayed(replay.id, delivery.delivery.delivery_id),
                ..delivery.delivery.clone()
            },
            replay_of: Some(delivery.delivery.delivery_id),
        })
        .collect();
    let messages = items.len() as u64;
    Ok(Some(Page::Some {
        items,
        cursor,
        messages,
        skipped: found - messages,
    }))
}

async fn unmatched(
    replayer: &Replayer,
    replay: &Replay,
    after: Option<cuitty_webhooks_domain::ids::MessageId>,
    reached: u64,
) -> Result<Option<Page>, ProjectorError> {
    if !replay.selection.filter.include_unmatched {
        return Ok(Some(Page::End));
    }
    let (store, selection) = (&replayer.store, &replay.selection);
    let Some(found) = store
        .replayable_unmatched(selection, after, reached, MESSAGES)
        .await?
    else {
        return Ok(None);
    };
    let Some(last) = found.last() else {
        return Ok(Some(Page::End));
    };
    let cursor = ReplayCursor::Unmatched(Some(last.message_id));
    let fanned_out: Vec<_> = found
        .iter()
        .map(|message| fan_out(replayer, replay, message))
        .collect();
    let messages = fanned_out.iter().filter(|items| !items.is_empty()).count() as u64;
    Ok(Some(Page::Some {
        cursor,
        messages,
        skipped: found.len() as u64 - messages,
        items: fanned_out.concat(),
    }))
}

/// The deliveries of a message to the endpoints that subscribe to it now, or to the one that is meant.
fn fan_out(replayer: &Replayer, replay: &Replay, message: &UnmatchedRef) -> Vec<Item> {
    let project_id = replay.project_id();
    let only = replay.selection.filter.endpoint_id;
    let matching = replayer.directory.matching(project_id, &message.event_type);
    let endpoints = matching.into_iter().flatten().map(|entry| entry.endpoint.id);
    endpoints
        .filter(|&id| only.is_none_or(|only| only == id))
        .filter(|&id| {
            replayer
                .directory
                .get(id)
                .is_some_and(|entry| takes(&entry.endpoint))
        })
        .map(|endpoint_id| Item {
            delivery: DeliveryRef {
                delivery_id: DeliveryId::fanned_out(replay.id, message.message_id, endpoint_id),
                message_id: message.message_id,
                project_id: project_id.clone(),
                endpoint_id,
                event_type: message.event_type.clone(),
            },
            replay_of: None,
        })
        .collect()
}

/// Whether a delivery to the endpoint would be attempted.
fn takes(endpoint: &Endpoint) -> bool {
    endpoint.deleted_at.is_none() && endpoint.is_active()
}
