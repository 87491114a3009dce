//! The client that other Rust modules use to reach Cuitty Webhooks: deliver messages, manage endpoints, read the
//! history, and, on the receiving side, verify what arrives.
//!
//! ```no_run
//! use cuitty_webhooks_client::{Client, v1};
//!
//! # async fn run() -> Result<(), cuitty_webhooks_client::ClientError> {
//! let client = Client::connect("http://127.0.0.1:7710", "whk_…").await?;
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
//! ```
//!
//! Start at [`Client`]; receivers start at [`verify()`].

mod client;
mod error;

pub use cuitty_webhooks_domain::signing::{
    InvalidPublicKey, InvalidSecret, PublicKey, SignatureScheme, SignedHeaders, SigningSecret,
    VerificationKey, VerifyError, verify,
};
pub use cuitty_webhooks_proto::v1;

pub use crate::client::{Client, Watch};
pub use crate::error::ClientError;
