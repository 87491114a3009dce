//! The client that other Rust modules use to reach Cuitty Webhooks.
