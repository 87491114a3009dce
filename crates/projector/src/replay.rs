//! Carrying bulk replays out: reads what is selected from the history and requests it again, below live traffic.
//!
//! What a replay requests has ids that follow from its own and the original's. Whoever takes a replay up, after a restart or
//! a change of leader, waits until the history has passed the log's end of that moment, and leaves out what it shows of
//! the page that was under way: so nothing is requested twice, however long ago the page was begun.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use cuitty_webhooks_domain::Clock;
use cuitty_webhooks_domain::endpoint::Actor;
use cuitty_webhooks_domain::ids::ReplayId;
use cuitty_webhooks_domain::replay::{Replay, ReplayCommand, decide, evolve};
use cuitty_webhooks_history::{HistoryError, Store};
use cuitty_webhooks_log::directory::Directory;
use cuitty_webhooks_log::{Log, LogError, ReplayEntry, Replays};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use crate::backoff::Backoff;
use crate::config::ProjectorConfig;
use crate::error::ProjectorError;
use crate::metrics;

mod page;
mod sending;

use self::page::{Page, read_page};
use self::sending::Sending;

/// How often it is looked for replays that nobody has told of.
const LOOK: Duration = Duration::from_secs(5);
/// How long the history may take to reach where the log ended before it is looked again.
const CATCH_UP: Duration = Duration::from_secs(2);
/// How long the change of somebody else may take to be known here.
const KNOWN: Duration = Duration::from_secs(2);

/// What replays are carried out with. Clones share it.
#[derive(Clone)]
pub(crate) struct Replayer {
    pub(crate) config: ProjectorConfig,
    pub(crate) log: Log,
    pub(crate) directory: Directory,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
}

impl Replayer {
    /// Carries out every running replay, those that come too. They stop where they are when this is dropped.
    pub(crate) async fn run(self) {
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let mut backoff = Backoff::new(self.config.max_backoff);
        let replays = loop {
            match Replays::start(&self.log, stop.clone()).await {
                Ok(replays) => break replays,
                Err(error) => {
                    warn!(%error, "cannot learn of bulk replays; trying again");
                    backoff.pause().await;
                }
            }
        };
        let mut changes = replays.changes();
        let mut tasks = JoinSet::new();
        let mut running: HashMap<Id, ReplayId> = HashMap::new();
        loop {
            changes.mark_unchanged();
            for entry in replays.running(None) {
                let id = entry.replay.id;
                if running.values().any(|&known| known == id) {
                    continue;
                }
                let span = info_span!("project.replay", replay.id = %id);
                let carried_out = carry_out(self.clone(), replays.clone(), id).instrument(span);
                running.insert(tasks.spawn(carried_out).id(), id);
            }
            ::metrics::gauge!(metrics::REPLAYS).set(running.len() as f64);
            tokio::select! {
                _ = changes.changed() => {}
                Some(ended) = tasks.join_next_with_id() => {
                    let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                    running.remove(&id);
                }
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Where the log ended at this moment, once the history has reached that.
    async fn caught_up(&self) -> Result<u64, ProjectorError> {
        let (_, last) = self.log.bounds().await?;
        while !self.store.wait_for(last, CATCH_UP).await? {
            let readable = self.log.last_readable(last).await?;
            if self.store.checkpoint().await? >= readable {
                return Ok(readable);
            }
            debug!(last, "a replay waits for the history");
        }
        Ok(last)
    }
}

/// Takes a replay up again and again until it has ended.
async fn carry_out(replayer: Replayer, replays: Replays, id: ReplayId) {
    let mut backoff = Backoff::new(replayer.config.max_backoff);
    while let Some(entry) = replays.get(id).filter(|entry| entry.replay.is_running()) {
        let mut job = Job::new(&replayer, &replays, &entry);
        let error = match job.run().await {
            Ok(()) => return,
            Err(error) => error,
        };
        if is_hopeless(&error) {
            let reason = error.to_string();
            match job.record(ReplayCommand::Fail { reason }).await {
                Ok(()) => return,
                Err(error) => warn!(%error, "cannot record that a replay failed"),
            }
        } else {
            warn!(%error, "a replay is held up; trying again");
        }
        backoff.pause().await;
    }
}

/// Whether trying again would end in the same way.
fn is_hopeless(error: &ProjectorError) -> bool {
    matches!(
        error,
        ProjectorError::History(HistoryError::Corrupt { .. }) | ProjectorError::Log(LogError::TooLarge(_))
    )
}

/// One replay, taken up once.
struct Job<'a> {
    replayer: &'a Replayer,
    replays: &'a Replays,
    replay: Replay,
    /// Of its last change.
    sequence: u64,
    sending: Sending,
}

impl<'a> Job<'a> {
    fn new(replayer: &'a Replayer, replays: &'a Replays, entry: &ReplayEntry) -> Self {
        let config = &replayer.config.replay;
        let rate = entry.replay.rate_per_second.unwrap_or(config.rate);
        Self {
            replayer,
            replays,
            replay: entry.replay.clone(),
            sequence: entry.sequence,
            sending: Sending::new(rate, config.max_outstanding),
        }
    }

    /// Goes on until the replay has ended, or an error.
    async fn run(&mut self) -> Result<(), ProjectorError> {
        let mut reached = self.replayer.caught_up().await?;
        let mut is_first = true;
        loop {
            let Some(page) = read_page(self.replayer, &self.replay, reached).await? else {
                // Somebody folds the history anew.
                reached = self.replayer.caught_up().await?;
                is_first = true;
                continue;
            };
            let Page::Some {
                mut items,
                cursor,
                skipped,
                messages,
            } = page
            else {
                return self.record(ReplayCommand::Complete).await;
            };
            if is_first {
                let ids: Vec<_> = items.iter().map(|item| item.delivery.delivery_id).collect();
                let mut known = HashSet::new();
                for ids in ids.chunks(sending::CHUNK) {
                    let Some(some) = self.replayer.store.existing(ids, reached).await? else {
                        return Err(LogError::Unavailable("the history is being folded anew".into()).into());
                    };
                    known.extend(some);
                }
                items.retain(|item| !known.contains(&item.delivery.delivery_id));
                is_first = false;
            }
            let is_running = || {
                let entry = self.replays.get(self.replay.id);
                entry.is_none_or(|entry| entry.replay.is_running())
            };
            let sent = self.sending.send(self.replayer, items, is_running).await?;
            if !sent.all {
                // Cancelled in the middle of the page: what was requested of it is recorded, no more.
                let advance = ReplayCommand::Advance {
                    cursor: self.replay.cursor.unwrap_or(cursor),
                    replayed: sent.originals,
                    skipped: 0,
                };
                return self.record(advance).await;
            }
            ::metrics::counter!(metrics::REPLAY_SKIPPED).increment(skipped);
            self.record(ReplayCommand::Advance {
                cursor,
                replayed: messages,
                skipped,
            })
            .await?;
            if !self.replay.is_running() {
                return Ok(());
            }
        }
    }

    /// Appends what `command` changes. When somebody else was faster, decides anew on what that one has left.
    async fn record(&mut self, command: ReplayCommand) -> Result<(), ProjectorError> {
        loop {
            let Ok(Some(change)) = decide(&self.replay, command.clone()) else {
                return Ok(());
            };
            let now = (self.replayer.clock)();
            let after = evolve(self.replay.clone(), &change, now);
            let actor = Actor::system(self.replayer.config.id.as_str());
            let appended = self
                .replayer
                .log
                .append_replay(&change, &after, &actor, now, self.sequence)
                .await;
            match appended {
                Ok(sequence) => {
                    let has_ended = self.replay.is_running() && !after.is_running();
                    (self.replay, self.sequence) = (after, sequence);
                    if has_ended {
                        self.tell_end();
                        // Otherwise it would be taken up again.
                        self.replays.wait_for(sequence, KNOWN).await;
                    }
                    return Ok(());
                }
                Err(LogError::Conflict { .. }) => {
                    self.replays.wait_for(self.sequence + 1, KNOWN).await;
                    let entry = self.replays.get(self.replay.id);
                    let Some(newer) = entry.filter(|entry| entry.sequence > self.sequence) else {
                        return Err(
                            LogError::Unavailable("a change of a replay is not known yet".into()).into(),
                        );
                    };
                    (self.replay, self.sequence) = (newer.replay.clone(), newer.sequence);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn tell_end(&self) {
        let replay = &self.replay;
        let state = replay.progress.as_str();
        ::metrics::counter!(metrics::REPLAYS_ENDED, "state" => state).increment(1);
        info!(
            state,
            total = replay.total,
            replayed = replay.replayed,
            skipped = replay.skipped,
            reason = replay.reason,
            "replay ended"
        );
    }
}
