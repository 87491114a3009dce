//! Members on a real nats-server, watched from outside.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::LogConfig;
use crate::testing::{NatsServer, SOON, eventually};

const PARTITIONS: u16 = 16;

/// Everything that was told to any member, and what each holds, the dead ones too.
#[derive(Clone, Default)]
struct Watch {
    inner: Arc<Mutex<Watched>>,
}

#[derive(Default)]
struct Watched {
    holdings: Vec<(String, Holdings)>,
    history: Vec<(String, MembershipEvent)>,
    epochs: BTreeMap<u16, u64>,
}

impl Watch {
    fn told(&self, id: &str, event: MembershipEvent) {
        let mut watched = self.inner.lock().unwrap();
        watched.history.push((id.to_owned(), event));
        if let MembershipEvent::Acquired { partition, epoch } = event {
            let last = watched.epochs.insert(partition, epoch);
            assert!(
                last < Some(epoch),
                "epochs of {partition}: {last:?}, then {epoch}"
            );
            watched.assert_one_owner();
        }
    }

    /// By partition, who holds it now.
    fn owners(&self) -> BTreeMap<u16, String> {
        let watched = self.inner.lock().unwrap();
        watched.assert_one_owner();
        watched
            .held()
            .map(|(partition, id)| (partition, id.to_owned()))
            .collect()
    }

    fn events(&self, id: &str, is_wanted: impl Fn(&MembershipEvent) -> bool) -> usize {
        let watched = self.inner.lock().unwrap();
        watched
            .history
            .iter()
            .filter(|(who, event)| who == id && is_wanted(event))
            .count()
    }

    fn all_held_by<const N: usize>(&self, ids: [&str; N]) -> bool {
        let wanted = (0..).zip(rendezvous::owners(ids, PARTITIONS).into_iter().map(str::to_owned));
        self.owners() == wanted.collect::<BTreeMap<_, _>>()
    }
}

impl Watched {
    fn held(&self) -> impl Iterator<Item = (u16, &str)> {
        let now = Instant::now();
        let holds = move |partition| {
            self.holdings
                .iter()
                .filter(move |(_, holdings)| holdings.holds(partition, now))
        };
        (0..PARTITIONS)
            .flat_map(move |partition| holds(partition).map(move |(id, _)| (partition, id.as_str())))
    }

    fn assert_one_owner(&self) {
        let mut owners = BTreeMap::new();
        for (partition, id) in self.held() {
            let other = owners.insert(partition, id);
            assert_eq!(other, None, "{partition} is held by {id} too; {:?}", self.history);
        }
    }
}

/// A dispatcher that needs a moment for what it has in flight.
struct Member {
    log: Log,
    task: JoinHandle<()>,
    leave: CancellationToken,
}

impl Member {
    async fn join(server: &NatsServer, id: &str, watch: &Watch) -> Self {
        let log = Log::connect(config(server)).await.unwrap();
        log.ensure().await.unwrap();
        let leave = CancellationToken::new();
        let mut membership = Membership::join(&log, id, CancellationToken::new())
            .await
            .unwrap();
        watch
            .inner
            .lock()
            .unwrap()
            .holdings
            .push((id.to_owned(), membership.holdings()));
        let (id, watch, leaving) = (id.to_owned(), watch.clone(), leave.clone());
        let task = tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    event = membership.next() => event,
                    () = leaving.cancelled() => return membership.leave().await,
                };
                watch.told(&id, event);
                if let MembershipEvent::Release { partition } = event {
                    sleep(Duration::from_millis(30)).await;
                    membership.released(partition);
                }
            }
        });
        Self { log, task, leave }
    }

    /// Ends it as if its process had been killed.
    fn kill(self) {
        self.task.abort();
    }

    async fn leave(self) {
        self.leave.cancel();
        self.task.await.unwrap();
    }
}

fn config(server: &NatsServer) -> LogConfig {
    LogConfig {
        partitions: PARTITIONS,
        ..server.config()
    }
}

fn is_acquired(event: &MembershipEvent) -> bool {
    matches!(event, MembershipEvent::Acquired { .. })
}

fn is_lost(event: &MembershipEvent) -> bool {
    matches!(event, MembershipEvent::Lost { .. })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_leave_and_die() {
    let server = NatsServer::start().await;
    let watch = Watch::default();
    let a = Member::join(&server, "a", &watch).await;
    eventually("a has everything", async || watch.all_held_by(["a"])).await;
    let b = Member::join(&server, "b", &watch).await;
    eventually("a and b share", async || watch.all_held_by(["a", "b"])).await;
    let before = watch.owners();

    let c = Member::join(&server, "c", &watch).await;
    eventually("c has its share", async || watch.all_held_by(["a", "b", "c"])).await;
    let share = watch.owners().values().filter(|id| *id == "c").count();
    assert_eq!((share, watch.events("c", is_acquired)), (5, 5));
    assert_eq!(a.log.live_dispatchers().await.unwrap(), ["a", "b", "c"]);

    let started = Instant::now();
    c.leave().await;
    eventually("a and b share again", async || watch.all_held_by(["a", "b"])).await;
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "took {:?}",
        started.elapsed()
    );
    assert_eq!(watch.owners(), before);
    assert_eq!(a.log.live_dispatchers().await.unwrap(), ["a", "b"]);

    let killed = Instant::now();
    b.kill();
    eventually("a has everything again", async || watch.all_held_by(["a"])).await;
    assert!(
        killed.elapsed() < Duration::from_secs(7),
        "took {:?}",
        killed.elapsed()
    );
    assert_eq!(a.log.live_dispatchers().await.unwrap(), ["a"]);
    assert_eq!(["a", "b", "c"].map(|id| watch.events(id, is_lost)), [0, 0, 0]);
    a.leave().await;
    assert!(watch.owners().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_crash_of_the_server_moves_nothing_and_a_long_one_is_made_good() {
    let mut server = NatsServer::start().await;
    let watch = Watch::default();
    let members = [
        Member::join(&server, "a", &watch).await,
        Member::join(&server, "b", &watch).await,
    ];
    eventually("a and b share", async || watch.all_held_by(["a", "b"])).await;
    let (before, acquired) = (watch.owners(), ["a", "b"].map(|id| watch.events(id, is_acquired)));

    server.kill();
    server.restart().await;
    let restarted = Instant::now();
    eventually("two leases' time has passed", async || {
        assert_eq!(watch.owners(), before);
        restarted.elapsed() > Duration::from_secs(10)
    })
    .await;
    assert_eq!(["a", "b"].map(|id| watch.events(id, is_lost)), [0, 0]);
    assert_eq!(["a", "b"].map(|id| watch.events(id, is_acquired)), acquired);

    server.kill();
    eventually("everything is lost", async || {
        ["a", "b"]
            .iter()
            .map(|id| watch.events(id, is_lost))
            .sum::<usize>()
            == usize::from(PARTITIONS)
    })
    .await;
    assert!(watch.owners().is_empty());
    server.restart().await;
    eventually("a and b share again", async || watch.all_held_by(["a", "b"])).await;
    for member in members {
        member.leave().await;
    }
}

#[tokio::test]
async fn a_retiring_member_is_asked_for_everything_and_gets_nothing_more() {
    let server = NatsServer::start().await;
    let log = Log::connect(config(&server)).await.unwrap();
    log.ensure().await.unwrap();
    let mut membership = Membership::join(&log, "a", CancellationToken::new())
        .await
        .unwrap();
    let mut events = Vec::new();
    let collect = async |membership: &mut Membership, events: &mut Vec<MembershipEvent>| {
        while events.len() < usize::from(PARTITIONS) {
            events.push(tokio::time::timeout(SOON, membership.next()).await.unwrap());
        }
    };
    collect(&mut membership, &mut events).await;
    assert!(events.drain(..).all(|event| is_acquired(&event)));
    membership.retire();
    collect(&mut membership, &mut events).await;
    let asked: Vec<_> = (0..PARTITIONS)
        .map(|partition| MembershipEvent::Release { partition })
        .collect();
    assert_eq!(events, asked);
    assert!((0..PARTITIONS).all(|partition| membership.held_until(partition).is_some()));
    eventually("the others share without it", async || {
        log.live_dispatchers().await == Ok(Vec::new())
    })
    .await;
    for partition in 0..PARTITIONS {
        membership.released(partition);
    }
    eventually("nothing is held", async || {
        (0..PARTITIONS).all(|partition| membership.held_until(partition).is_none())
    })
    .await;
    membership.leave().await;
    assert_eq!(log.live_dispatchers().await, Ok(Vec::new()));
}

#[tokio::test]
async fn an_id_that_cannot_be_a_key_is_refused() {
    let server = NatsServer::start().await;
    let log = server.log().await;
    let refused = Membership::join(&log, "no spaces", CancellationToken::new())
        .await
        .err();
    assert!(matches!(refused, Some(LogError::Protocol(_))), "{refused:?}");
}
