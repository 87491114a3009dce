//! The doors of Cuitty Webhooks: gRPC and REST over one App.
