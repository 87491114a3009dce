//! The rules of Cuitty Webhooks: pure, without IO, clock or randomness.
