//! What stands in `deploy/`, checked against the schemas of what reads it and against the binary. `make deploy-check` runs it.

#![cfg(test)]

mod compose;
mod manifests;
mod metrics;
mod runbook;
mod yaml;
