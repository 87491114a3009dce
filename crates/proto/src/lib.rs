//! The two contracts of Cuitty Webhooks, generated from `proto/`: the gRPC API ([`v1`]) and the stored events ([`events::v1`]).
//!
//! Generated code only. The API's doors live in the `api` crate, the stored events' codec in the `log` crate.

/// The gRPC API, package `cuitty.webhooks.v1`.
pub mod v1 {
    tonic::include_proto!("cuitty.webhooks.v1");
}

/// What is stored in the log.
pub mod events {
    /// Package `cuitty.webhooks.events.v1`: additive only.
    pub mod v1 {
        tonic::include_proto!("cuitty.webhooks.events.v1");
    }
}

/// The encoded `FileDescriptorSet` of both contracts, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
