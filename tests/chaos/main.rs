//! Processes are killed with SIGKILL at work, and nothing that was acknowledged is lost.
//!
//! A test target of its own: these tests load the machine, so they run after the suites and one after another.

#![cfg(test)]

mod acks;
mod kills;
mod lanes;
mod ledger;
mod load;
mod replay;
mod rotation;
mod takeover;
mod timers;

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

/// How long after a dispatcher was killed the last of its deliveries may arrive.
const TAKEOVER: Duration = Duration::from_secs(30);

/// Waits for the other tests of this process to end, and keeps them waiting until it is dropped.
async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}
