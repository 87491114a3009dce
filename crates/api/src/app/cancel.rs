//! Cancelling: a delivery that is pending ends now.
//!
//! The history tells what the delivery is, the log how it stands: what the log holds behind the history's checkpoint is
//! folded on top, so that a history that is a little behind decides nothing. First every dispatcher is told, then the end
//! is appended. Killed in between, whoever has the delivery's turn next ends it as cancelled.

use cuitty_webhooks_domain::delivery::{Concluded, Conclusion, Delivery, FailureReason};
use cuitty_webhooks_domain::ids::DeliveryId;
use cuitty_webhooks_domain::rejection::{Rejection, Resource};
use cuitty_webhooks_history::Store;

use super::input::Violations;
use super::keyed::{Answer, Keyed, Turn, Work, fingerprint};
use super::{App, observed};
use crate::auth::{Caller, Scope};
use crate::error::AppError;

/// A delivery as the history had it, when it had reached this sequence of the log, or a later one.
struct Known {
    delivery: Delivery,
    checkpoint: u64,
}

impl App {
    /// Ends a pending delivery as cancelled, and returns it. The same for one that is cancelled already; refused for one
    /// that has ended otherwise, be it at the same time: of two ends the first one in the log stands.
    #[tracing::instrument(name = "api.cancel_delivery", skip_all, fields(delivery.id = %id))]
    pub(crate) async fn cancel_delivery(
        &self,
        caller: &Caller,
        id: DeliveryId,
        idempotency_key: String,
    ) -> Result<Answer<Delivery>, AppError> {
        observed("cancel_delivery", async {
            caller.require(Scope::Manage)?;
            let mut violations = Violations::default();
            violations.idempotency_key(&idempotency_key);
            violations.finish(Some(()))?;
            let known = self.known_delivery(caller, id).await?;
            let keyed = Keyed {
                project_id: &known.delivery.delivery.project_id,
                key: &idempotency_key,
                fingerprint: fingerprint("cancel_delivery", &id),
            };
            let checks = async {
                Box::pin(self.current(&known)).await?.is_cancellable()?;
                Ok(())
            };
            // What is cancelled stays cancelled: it may be asked for as often as one likes.
            match self.take_turn(&keyed, checks).await? {
                Turn::Done(..) => Ok(Answer::replayed(self.current(&known).await?)),
                Turn::First(intent) => self.cancel(&known, &keyed.first(intent)).await,
                Turn::Again(intent) => self.cancel(&known, &keyed.again(intent)).await,
            }
        })
        .await
    }

    async fn cancel(&self, known: &Known, work: &Work<'_>) -> Result<Answer<Delivery>, AppError> {
        let (delivery, sequence) = self.ended_by_cancelling(known).await?;
        self.record_done(work, sequence).await?;
        Ok(work.answer(delivery))
    }

    /// The delivery, cancelled, and a sequence that its end is stored at or before.
    async fn ended_by_cancelling(&self, known: &Known) -> Result<(Delivery, u64), AppError> {
        let current = self.current(known).await?;
        if !current.is_cancellable()? {
            return Ok((current, known.checkpoint));
        }
        let delivery = &current.delivery;
        let id = delivery.delivery_id;
        self.cancellations.cancel(delivery).await?;
        let cancelled = Concluded {
            delivery: delivery.clone(),
            requested_sequence: current.requested_sequence,
            attempt: None,
            conclusion: Conclusion::Failed {
                reason: FailureReason::Cancelled,
            },
            at: self.now(),
        };
        let sequence = self.log.append_concluded(&cancelled).await?.sequence;
        if let Err(error) = self.log.cancel_timers(id).await {
            // A timer that fires for a delivery that has ended starts nothing.
            tracing::warn!(%error, delivery.id = %id, "timers of a cancelled delivery not removed");
        }
        let ended = self.current(known).await?;
        if ended.is_cancellable()? {
            return Err(AppError::internal(
                "the log does not hold an end that it has stored",
            ));
        }
        tracing::info!(delivery.id = %id, endpoint.id = %delivery.endpoint_id, "delivery cancelled");
        Ok((ended, sequence))
    }

    /// What the history knows of a delivery. One that it does not know may be new: then it is waited for.
    async fn known_delivery(&self, caller: &Caller, id: DeliveryId) -> Result<Known, AppError> {
        // Another project's is waited for, too, so that it cannot be told from one that does not exist.
        let is_visible = |known: &Known| caller.sees(&known.delivery.delivery.project_id);
        let mut visible = self.read_known(id).await?.filter(is_visible);
        if visible.is_none() {
            let last = self.log.end().await?;
            self.await_history(last).await?;
            visible = self.read_known(id).await?.filter(is_visible);
        }
        let not_found = || Rejection::NotFound {
            resource: Resource::Delivery,
            id: id.to_string(),
        };
        Ok(visible.ok_or_else(not_found)?)
    }

    async fn read_known(&self, id: DeliveryId) -> Result<Option<Known>, AppError> {
        let read = async |history: Store| {
            // Before the delivery: what is folded twice changes nothing, what is left out is lost.
            let checkpoint = history.checkpoint().await?;
            let detail = history.get_delivery(id).await?;
            Ok(detail.map(|detail| Known {
                delivery: detail.delivery,
                checkpoint,
            }))
        };
        self.history.read(read).await
    }

    /// How a delivery stands by the log.
    async fn current(&self, known: &Known) -> Result<Delivery, AppError> {
        let mut delivery = known.delivery.clone();
        let outcomes = self.log.outcomes_of(&delivery.delivery, known.checkpoint).await?;
        for outcome in &outcomes {
            delivery.evolve(outcome);
        }
        Ok(delivery)
    }
}
