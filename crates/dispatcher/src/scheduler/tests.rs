//! Random histories, and the cases that a reader should see.

mod checks;
mod consumer;
mod dispatcher;
mod examples;
mod gone;
mod keeper;
mod log;
mod model;
mod receiver;
mod rig;
mod stats;
mod world;
