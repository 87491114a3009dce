//! Between the domain and the stored contract `cuitty.webhooks.events.v1`.

mod api_key;
mod attempt;
mod delivery;
mod endpoint;
mod event_type;
mod fields;
mod replay;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::api_key::decode_api_key_state;
pub use self::api_key::{ApiKeyRecord, decode_api_key, encode_api_key};
pub(crate) use self::delivery::{decode_due, decode_requested, outcome_of};
pub use self::delivery::{decode_event, encode_concluded, encode_due, encode_requested, encode_unmatched};
pub(crate) use self::endpoint::changed_fields;
pub use self::endpoint::{EndpointRecord, decode_endpoint, decode_endpoint_state, encode_endpoint};
pub use self::event_type::{
    EventTypeRecord, ProjectRecord, decode_event_type, decode_project, encode_event_type, encode_project,
};
pub(crate) use self::event_type::{decode_event_type_state, decode_project_state};
pub use self::replay::{ReplayRecord, decode_replay, encode_replay};

/// Stored bytes cannot be read. The message they are of is set aside; reading goes on behind it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes are not the protobuf message that their subject says.
    #[error("not a stored event: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// The subject is none of the log's.
    #[error(transparent)]
    Subject(#[from] crate::subjects::UnknownSubject),
    /// A field that every such message carries is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field holds what this version does not know or what cannot be.
    #[error("{field} {message}")]
    Invalid {
        /// The field's name in the contract.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
}
