//! The way in.

use cuitty_webhooks_proto::v1;

use super::{Client, call};
use crate::error::ClientError;

impl Client {
    /// Delivers a message to every endpoint that takes it. Once this answers, the log holds every delivery.
    pub async fn deliver(&self, request: v1::DeliverRequest) -> Result<v1::DeliverResponse, ClientError> {
        let repeat = self.keyed(&request.idempotency_key);
        call!(self.messages.deliver(request), repeat)
    }

    /// Delivers several messages in one call, with a result for each, in their order: a bad one does not fail the others.
    /// All must fit into one request; [`Self::deliver_all`] takes any number.
    pub async fn deliver_batch(
        &self,
        mut items: Vec<v1::DeliverRequest>,
    ) -> Result<Vec<v1::DeliverResult>, ClientError> {
        for item in &mut items {
            self.give_key(item);
        }
        let request = v1::DeliverBatchRequest { items };
        let answer = call!(self.messages.deliver_batch(request), super::Repeat::Freely)?;
        Ok(answer.results)
    }

    /// Gives a message an idempotency key if it has none.
    pub(crate) fn give_key(&self, item: &mut v1::DeliverRequest) {
        if item.idempotency_key.is_empty() {
            item.idempotency_key = self.keys.next();
        }
    }
}
