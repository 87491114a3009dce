//! What stands in `deploy/`, checked against the schemas of what reads it and against the binary, and the prod overlay itself
//! while its parts are killed. `make deploy-check` runs it.

#![cfg(test)]

mod cluster;
mod compose;
mod manifests;
mod metrics;
mod runbook;
mod yaml;
