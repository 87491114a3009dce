//! The client that other Rust modules use to reach Cuitty Webhooks: deliver events, manage endpoints, read the history, and,
//! on the receiving side, verify what arrives.
//!
//! ```no_run
//! # #[cfg(feature = "grpc")] {
//! use cuitty_webhooks_client::{Client, v1};
//!
//! # async fn run() -> Result<(), cuitty_webhooks_client::ClientError> {
//! let client = Client::connect("http://127.0.0.1:7710", "cwk_…").await?;
//! let accepted = client
//!     .deliver(v1::DeliverRequest {
//!         project_id: "acme".into(),
//!         event_type: "budget.exceeded".into(),
//!         payload: r#"{"budget":"compute"}"#.into(),
//!         ..Default::default()
//!     })
//!     .await?;
//! let delivery = client.get_delivery(&accepted.deliveries[0].id, accepted.log_sequence).await?;
//! # Ok(())
//! # }
//! # }
//! ```
//!
//! | feature | gives |
//! |---|---|
//! | `grpc` (default) | [`Client`]: every call of the API, repeated while the service is away; [`Client::deliver_all`] for many events |
//! | `verify` (default) | [`Verifier`] for receivers; alone (`default-features = false`) it brings no runtime |
//! | `nats` | `Publisher`: events over NATS instead of gRPC |
//!
//! The examples show each from end to end.

#[cfg(feature = "grpc")]
mod bulk;
#[cfg(feature = "grpc")]
mod client;
#[cfg(feature = "grpc")]
mod error;
#[cfg(feature = "api")]
mod keys;
#[cfg(feature = "grpc")]
mod listen;
#[cfg(feature = "nats")]
mod nats;
#[cfg(any(feature = "grpc", feature = "nats"))]
mod patience;
#[cfg(feature = "verify")]
mod verify;

#[cfg(feature = "verify")]
pub use cuitty_webhooks_domain::signing::{
    InvalidPublicKey, InvalidSecret, PublicKey, SignatureScheme, SignedHeaders, SigningSecret,
    VerificationKey, VerifyError, verify,
};
#[cfg(feature = "api")]
pub use cuitty_webhooks_proto::v1;
#[cfg(feature = "api")]
pub use prost_types::Timestamp;
#[cfg(feature = "grpc")]
pub use tonic::Code;

#[cfg(feature = "grpc")]
pub use crate::bulk::ItemRefused;
#[cfg(feature = "grpc")]
pub use crate::client::{Builder, Client, Watch};
#[cfg(feature = "grpc")]
pub use crate::error::ClientError;
#[cfg(feature = "grpc")]
pub use crate::listen::{Arrived, Listening};
#[cfg(feature = "nats")]
pub use crate::nats::{PublishError, Published, Publisher};
#[cfg(feature = "verify")]
pub use crate::verify::{NotVerified, Verified, Verifier};
