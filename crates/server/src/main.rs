//! The `cuitty-webhooks` binary.
fn main() {}
