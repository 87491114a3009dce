//! Stores what an attempt came to, also when another outcome of the same attempt is stored already.

use cuitty_webhooks_domain::attempt::Attempt;
use cuitty_webhooks_domain::delivery::{Concluded, Conclusion, DeliveryEvent, Due};
use cuitty_webhooks_log::{EventBody, LogError};
use tracing::{debug, error, warn};

use super::{Engine, LATER, NotNow, until_available};

/// What is to be done about an outcome whose attempt has one in the log already: the attempt was repeated, after a crash
/// or by two dispatchers at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeated {
    /// Nothing: ours is stored, or says no more than the one that is.
    Recorded,
    /// Ours ends the delivery, the stored one left it open: ours is stored too.
    Ends,
    /// The stored one has ended the delivery, so the retry that ours asks for must not come.
    Ended,
}

/// An outcome in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    /// Its sequence; `None` when another one of the same attempt says enough.
    pub(super) outcome: Option<u64>,
    /// Whether the delivery has ended.
    pub(super) has_ended: bool,
}

impl Repeated {
    /// `stored` is what the log holds where it found the duplicate, as far as it can be told.
    fn judge(ours: &Concluded, stored: Option<&EventBody>) -> Self {
        let stored = match stored {
            Some(EventBody::Event(DeliveryEvent::Concluded(stored))) if is_same_attempt(ours, stored) => {
                stored
            }
            // Told twice, an end does no harm; untold, it is lost.
            _ if is_final(ours) => return Self::Ends,
            _ => return Self::Recorded,
        };
        match (is_final(ours), is_final(stored)) {
            _ if is_same_run(ours.attempt.as_ref(), stored.attempt.as_ref()) => Self::Recorded,
            (true, false) => Self::Ends,
            (false, true) => Self::Ended,
            (true, true) | (false, false) => Self::Recorded,
        }
    }
}

impl Engine {
    /// Stores what attempt `number` came to, with `timer` first the one of the next attempt, so that a retry that is promised
    /// comes.
    pub(super) async fn record(
        &self,
        concluded: &Concluded,
        number: u32,
        timer: bool,
    ) -> Result<Stored, NotNow> {
        self.append(concluded, number, timer).await.map_err(|error| {
            self.metrics.unrecorded.increment(1);
            error!(
                delivery.id = %concluded.delivery.delivery_id,
                attempt.number = number,
                %error,
                "the log refuses the outcome of an attempt, which will be repeated"
            );
            NotNow(LATER)
        })
    }

    async fn append(&self, concluded: &Concluded, number: u32, timer: bool) -> Result<Stored, LogError> {
        if let Conclusion::Retry { next_attempt_at } = concluded.conclusion
            && timer
        {
            let due = Due {
                delivery: concluded.delivery.clone(),
                requested_sequence: concluded.requested_sequence,
                attempt_number: number + 1,
                due_at: next_attempt_at,
            };
            until_available(|| self.log.arm_timer(&due)).await?;
        }
        let appended = until_available(|| self.log.append_concluded(concluded)).await?;
        if !appended.duplicate {
            return Ok(Stored {
                outcome: Some(appended.sequence),
                has_ended: is_final(concluded),
            });
        }
        let stored = until_available(|| self.log.get(appended.sequence)).await?;
        let repeated = Repeated::judge(concluded, stored.as_ref().map(|stored| &stored.body));
        let delivery_id = concluded.delivery.delivery_id;
        debug!(delivery.id = %delivery_id, attempt.number = number, log.seq = appended.sequence, ?repeated, "an outcome of this attempt is stored already");
        let outcome = match repeated {
            Repeated::Recorded => {
                return Ok(Stored {
                    outcome: None,
                    has_ended: is_final(concluded),
                });
            }
            Repeated::Ends => Some(
                until_available(|| self.log.append_final(concluded))
                    .await?
                    .sequence,
            ),
            Repeated::Ended => None,
        };
        // Either way a timer may wait for a delivery that has ended. At worst it costs one more attempt; repeating this one
        // for it would cost as much.
        if let Err(error) = self.log.cancel_timer(delivery_id, number + 1).await {
            warn!(delivery.id = %delivery_id, attempt.number = number + 1, %error, "timer of an ended delivery not cancelled");
        }
        Ok(Stored {
            outcome,
            has_ended: true,
        })
    }
}

fn is_final(concluded: &Concluded) -> bool {
    !matches!(concluded.conclusion, Conclusion::Retry { .. })
}

/// Whether both tell of the same attempt number of the same delivery.
fn is_same_attempt(one: &Concluded, other: &Concluded) -> bool {
    let number = |of: &Concluded| of.attempt.as_ref().map(|attempt| attempt.number);
    one.delivery.delivery_id == other.delivery.delivery_id && number(one) == number(other)
}

/// Whether both are the record of one and the same run. What is stored is exact to the microsecond.
fn is_same_run(one: Option<&Attempt>, other: Option<&Attempt>) -> bool {
    let run = |of: &Attempt| (of.dispatcher_id.clone(), of.started_at.timestamp_micros());
    one.map(run) == other.map(run)
}

#[cfg(test)]
mod tests;
