//! Deliveries, and sending them again.

use cuitty_webhooks_proto::v1;
use tonic::Streaming;

use super::{Client, Repeat, call};
use crate::error::ClientError;

impl Client {
    /// A delivery with its payload and every attempt, once the history has passed `min_log_sequence` (0 does not wait).
    pub async fn get_delivery(
        &self,
        delivery_id: &str,
        min_log_sequence: u64,
    ) -> Result<v1::DeliveryDetail, ClientError> {
        let request = v1::GetDeliveryRequest {
            delivery_id: delivery_id.into(),
            min_log_sequence,
            verify: false,
        };
        call!(self.deliveries.get_delivery(request), Repeat::Freely)
    }

    /// Like [`Self::get_delivery`], with a check of every signature that an attempt carried.
    pub async fn verify_delivery(
        &self,
        delivery_id: &str,
        min_log_sequence: u64,
    ) -> Result<v1::DeliveryDetail, ClientError> {
        let request = v1::GetDeliveryRequest {
            delivery_id: delivery_id.into(),
            min_log_sequence,
            verify: true,
        };
        call!(self.deliveries.get_delivery(request), Repeat::Freely)
    }

    /// A page of the delivery history, newest first.
    pub async fn list_deliveries(
        &self,
        request: v1::ListDeliveriesRequest,
    ) -> Result<v1::ListDeliveriesResponse, ClientError> {
        call!(self.deliveries.list_deliveries(request), Repeat::Freely)
    }

    /// Delivery events as the log stores them, from now on.
    pub async fn watch_deliveries(&self, request: v1::WatchDeliveriesRequest) -> Result<Watch, ClientError> {
        let events = self.deliveries.clone().watch_deliveries(request).await?;
        Ok(Watch(events.into_inner()))
    }

    /// Sends an ended delivery again, as a new delivery of the same message.
    pub async fn replay_delivery(
        &self,
        request: v1::ReplayDeliveryRequest,
    ) -> Result<v1::Delivery, ClientError> {
        let repeat = self.keyed(&request.idempotency_key);
        call!(self.deliveries.replay_delivery(request), repeat)
    }

    /// Ends a pending delivery as failed.
    pub async fn cancel_delivery(&self, delivery_id: &str) -> Result<v1::Delivery, ClientError> {
        let request = v1::CancelDeliveryRequest {
            delivery_id: delivery_id.into(),
        };
        call!(self.deliveries.cancel_delivery(request), self.under_new_key())
    }

    /// Sends many deliveries again in the background, or, with `dry_run`, counts them.
    pub async fn start_replay(&self, request: v1::StartReplayRequest) -> Result<v1::Replay, ClientError> {
        let repeat = self.keyed(&request.idempotency_key);
        call!(self.deliveries.start_replay(request), repeat)
    }

    /// How far a replay is.
    pub async fn get_replay(&self, replay_id: &str) -> Result<v1::Replay, ClientError> {
        let request = v1::GetReplayRequest {
            replay_id: replay_id.into(),
        };
        call!(self.deliveries.get_replay(request), Repeat::Freely)
    }

    /// Ends a replay: what it has sent again until then stays so.
    pub async fn cancel_replay(&self, replay_id: &str) -> Result<v1::Replay, ClientError> {
        let request = v1::CancelReplayRequest {
            replay_id: replay_id.into(),
        };
        call!(self.deliveries.cancel_replay(request), self.under_new_key())
    }
}

/// Events of [`Client::watch_deliveries`], in the order of the log. When the connection is lost they end with an error: what
/// happens until the next watch is in the history.
pub struct Watch(Streaming<v1::DeliveryEvent>);

impl Watch {
    /// The next event; `None` when the server ended the stream.
    pub async fn next(&mut self) -> Result<Option<v1::DeliveryEvent>, ClientError> {
        Ok(self.0.message().await?)
    }
}
