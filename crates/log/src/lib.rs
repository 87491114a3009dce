//! The event log of Cuitty Webhooks on NATS JetStream.
