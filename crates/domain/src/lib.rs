//! The rules of Cuitty Webhooks, without IO, clock or randomness: `now` and `rng` are arguments.
//!
//! Everything that decides stands here: what a valid endpoint is ([`endpoint`]), which endpoints a message goes to
//! ([`fan_out`]), which event types a project knows and what their payloads must be (`event_type`), what an attempt's outcome
//! means for its delivery ([`delivery`]), when the next attempt is due ([`retry`]), what a bulk replay selects and how far it is
//! ([`replay`]), how a request is signed ([`signing`]), how a secret is sealed ([`seal`]), which addresses may be reached
//! ([`egress`]), what differs between the kinds of destination ([`destination`]) and what an API key is good for ([`api_key`]).
//! The other crates carry the decisions out.
//!
//! Start at [`delivery::DeliveryEvent`]: the facts that the log stores and everything else is folded from.

pub mod api_key;
pub mod attempt;
pub mod delivery;
pub mod destination;
pub mod egress;
pub mod endpoint;
pub mod envelope;
#[cfg(feature = "event-types")]
pub mod event_type;
pub mod fan_out;
pub mod ids;
pub mod limits;
pub mod names;
pub mod project;
pub mod rejection;
pub mod replay;
pub mod retry;
pub mod seal;
pub mod signing;
pub mod slack;
pub mod subject;
pub mod trace;

/// Tells the time. Passed to whatever needs it; only the binary's edge reads the real clock.
pub type Clock = fn() -> chrono::DateTime<chrono::Utc>;
