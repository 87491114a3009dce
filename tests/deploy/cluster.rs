//! The prod overlay under load while its parts are killed: three nats-servers that hold a copy each, PostgreSQL, TLS on
//! everything, a user of NATS for each role, and as many processes of each role as the overlay has pods.

mod load;
mod machine;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use cuitty_webhooks_client::Client;
use cuitty_webhooks_domain::delivery::DeliveryEvent;
use cuitty_webhooks_log::EventBody;
use cuitty_webhooks_proto::v1::{
    CreateApiKeyRequest, CreateEndpointRequest, DeliveryStatus, ListDeliveriesRequest, PageRequest,
};
use harness::books::{AttemptRef, Books, Moment};
use harness::eventually::{eventually_within, is};
use harness::log::stored_in;
use harness::receiver::{Captured, Receiver, Reply};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use self::load::{Doors, Load, Ran};
use self::machine::{Machine, Pod};

/// Events of both phases together, at least.
const EVENTS: usize = 20_000;
/// Those of the first one.
const UNDER_KILLS: usize = 12_000;
/// The project of the module `module-budgets`.
const PROJECT: &str = "budgets";
const ENDPOINTS: usize = 12;
/// Its place among them fails at every so manieth event, the first time.
const FAILING: usize = 5;
const FAILS_EVERY: usize = 8;
/// How long the receivers take: a kill meets attempts in flight.
const ANSWER: Duration = Duration::from_millis(50);
/// Events that must be accepted between two disturbances.
const BETWEEN: usize = 500;
/// Events that must be accepted while one nats-server is away.
const WITHOUT: usize = 300;
/// How long it takes at most until the projector has found what nobody delivers, `projector.sweep_after` and more.
const SWEPT: Duration = Duration::from_mins(8);
/// How long anything may take on a machine that does other things, too: nothing here judges how fast it is.
const PATIENCE: Duration = Duration::from_mins(3);

fn path(endpoint: usize) -> String {
    format!("/endpoint/{endpoint}")
}

fn event_type(endpoint: usize) -> String {
    format!("load.endpoint{endpoint}")
}

/// The idempotency key of the event that arrived.
fn key_of(request: &Captured) -> String {
    key_in(&request.body)
}

fn key_in(payload: &[u8]) -> String {
    let payload: Value = serde_json::from_slice(payload).expect("JSON");
    payload["key"].as_str().expect("a key").to_owned()
}

/// Whether the first attempt of an event is to fail, and so is to be followed by exactly one more.
fn is_to_fail(key: &str) -> bool {
    let number = key
        .rsplit('-')
        .next()
        .and_then(|number| number.parse::<usize>().ok());
    let number = number.expect("a number");
    number % ENDPOINTS == FAILING && (number / ENDPOINTS).is_multiple_of(FAILS_EVERY)
}

fn answer(request: &Captured) -> Reply {
    let is_first = request.header("x-cuitty-attempt") == "1";
    let fails = is_first && is_to_fail(&key_of(request));
    Reply::status(if fails { 500 } else { 200 }).after(ANSWER)
}

/// The installation.
struct Cluster {
    machine: Machine,
    nats: Vec<Pod>,
    apis: Vec<Pod>,
    ingests: Vec<Pod>,
    dispatchers: Vec<Pod>,
    projectors: Vec<Pod>,
}

impl Cluster {
    /// As `kubectl apply` makes it: everything at once, and the Job again until it has made the streams.
    async fn start() -> Self {
        let machine = Machine::new().await;
        let nats = machine.start_all("nats");
        for server in &nats {
            server.ready().await;
        }
        let mut cluster = Self {
            apis: machine.start_all("api"),
            ingests: machine.start_all("ingest"),
            dispatchers: machine.start_all("dispatcher"),
            projectors: machine.start_all("projector"),
            nats,
            machine,
        };
        eventually_within(PATIENCE, "the Job makes the streams", || async {
            let ran = cluster.machine.run_job("topology");
            if ran.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&ran.stderr).into_owned())
            }
        })
        .await;
        for pod in cluster.roles() {
            pod.becomes_ready().await;
        }
        cluster.is_whole().await;
        cluster
    }

    fn roles(&mut self) -> impl Iterator<Item = &mut Pod> {
        self.apis
            .iter_mut()
            .chain(&mut self.ingests)
            .chain(&mut self.dispatchers)
            .chain(&mut self.projectors)
    }

    /// No role has ended by itself, or missed a permission.
    async fn everybody_is_well(&mut self) {
        for pod in self.roles() {
            assert!(pod.is_running(), "{} has ended", pod.name());
            let denied = pod.metric("webhooks_log_denied_total").await as usize;
            assert_eq!(denied, 0, "{}:\n{}", pod.name(), pod.output());
        }
    }

    /// Waits until the probes of all nats-servers are answered and every stream and consumer has all its copies, current.
    async fn is_whole(&self) {
        for server in &self.nats {
            server.ready().await;
        }
        eventually_within(PATIENCE, "every copy is current", || async {
            let ran = self.projectors[0].exec(&["topology", "check"]).await;
            if ran.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned())
            }
        })
        .await;
    }

    /// Waits until exactly one projector is active, and says which.
    async fn leader(&self) -> usize {
        eventually_within(PATIENCE, "one projector is active", || async {
            let mut active = Vec::new();
            for (index, projector) in self.projectors.iter().enumerate() {
                if projector.metric("webhooks_projector_active_count").await > 0.0 {
                    active.push(index);
                }
            }
            if let [leader] = active[..] {
                Ok(leader)
            } else {
                Err(active)
            }
        })
        .await
    }

    /// Deliveries that nobody made until the projector found them.
    async fn swept(&self) -> usize {
        let mut swept = 0.0;
        for projector in &self.projectors {
            swept += projector.metric("webhooks_swept_deliveries_total").await;
        }
        swept as usize
    }

    /// The key that one of the API's processes has printed, as README.md says.
    async fn admin_key(&self) -> String {
        eventually_within(PATIENCE, "a key is printed", || async {
            let logs: String = self.apis.iter().map(Pod::output).collect();
            let line = logs.lines().find(|line| line.contains("admin API key"));
            let key = line.and_then(|line| line.rsplit(' ').next());
            key.map(str::to_owned).ok_or(logs)
        })
        .await
    }

    /// Ways in for callers with a key that may only deliver, and one of somebody who may read everything.
    async fn doors(&self) -> (Doors, Client) {
        let admin = self.machine.caller(&self.apis[0], &self.admin_key().await).await;
        let key = CreateApiKeyRequest {
            project_id: PROJECT.into(),
            scopes: vec!["deliver".into()],
            ..Default::default()
        };
        let key = admin.create_api_key(key).await.expect("a key").secret;
        let mut apis = Vec::new();
        for api in &self.apis {
            apis.push(self.machine.caller(api, &key).await);
        }
        let module = self.machine.module().await;
        (Doors { apis, module }, admin)
    }

    /// Makes the endpoints, and waits until every process that needs them knows them and every partition is held.
    async fn create_endpoints(&self, admin: &Client, receiver: &Receiver) {
        for endpoint in 0..ENDPOINTS {
            receiver.judge(&path(endpoint), answer);
            let request = CreateEndpointRequest {
                project_id: PROJECT.into(),
                url: receiver.url(&path(endpoint)),
                event_types: vec![event_type(endpoint)],
                ..Default::default()
            };
            admin.create_endpoint(request).await.expect("an endpoint");
        }
        eventually_within(PATIENCE, "the endpoints are known", || async {
            let mut known = Vec::new();
            for pod in [&self.apis, &self.ingests, &self.dispatchers]
                .into_iter()
                .flatten()
            {
                known.push(pod.metric("webhooks_directory_endpoints").await as usize);
            }
            is(known.iter().all(|known| *known == ENDPOINTS), true)
        })
        .await;
        eventually_within(PATIENCE, "every partition is held", || async {
            let mut held = 0;
            for dispatcher in &self.dispatchers {
                held += dispatcher.metric("webhooks_membership_partitions").await as usize;
            }
            is(held, self.machine.partitions())
        })
        .await;
    }

    /// A dispatcher takes the place of each one, as a rolling update has it: the next is ready before one is asked to end.
    async fn roll_dispatchers(&mut self, load: &Load) {
        for index in 0..self.dispatchers.len() {
            load.takes(BETWEEN).await;
            let mut next = self.machine.start("dispatcher", self.dispatchers.len() + index);
            next.becomes_ready().await;
            let mut old = std::mem::replace(&mut self.dispatchers[index], next);
            let ended = old.terminate().await;
            assert!(ended.success(), "{ended}:\n{}", old.output());
        }
    }
}

/// A nats-server that was killed.
struct Outage {
    killed: Moment,
    /// When it had caught up.
    back: Moment,
    /// From the kill until [`WITHOUT`] events had been accepted by the other two.
    accepted_after: Duration,
    /// From its start until every copy was current.
    whole_after: Duration,
}

async fn kill_nats(cluster: &mut Cluster, load: &Load, node: usize) -> Outage {
    load.takes(BETWEEN).await;
    cluster.nats[node].kill9();
    let killed = Moment::now();
    let accepted_after = load.takes(WITHOUT).await;
    cluster.nats[node].start_again();
    let started = Instant::now();
    cluster.is_whole().await;
    Outage {
        killed,
        back: Moment::now(),
        accepted_after,
        whole_after: started.elapsed(),
    }
}

/// Kills the active projector, and says how long it took until the other one was.
async fn kill_leader(cluster: &mut Cluster, load: &Load) -> Duration {
    load.takes(BETWEEN).await;
    let leader = cluster.leader().await;
    cluster.projectors[leader].kill9();
    let killed = Instant::now();
    let other = &cluster.projectors[1 - leader];
    eventually_within(PATIENCE, "the other one takes over", || async {
        is(other.metric("webhooks_projector_active_count").await as u8, 1)
    })
    .await;
    let taken_over_after = killed.elapsed();
    cluster.projectors[leader].start_again();
    cluster.projectors[leader].becomes_ready().await;
    taken_over_after
}

/// Pages of the history with this status, up to the last.
async fn listed(admin: &Client, status: DeliveryStatus) -> Result<BTreeSet<String>, String> {
    let (mut ids, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let request = ListDeliveriesRequest {
            project_id: PROJECT.into(),
            status: status.into(),
            page: Some(PageRequest { limit: 200, cursor }),
            ..Default::default()
        };
        let page = admin.list_deliveries(request).await;
        let page = page.map_err(|error| error.to_string())?;
        ids.extend(page.deliveries.into_iter().map(|delivery| delivery.id));
        cursor = page.next_cursor;
        if cursor.is_empty() {
            return Ok(ids);
        }
    }
}

/// Waits until every event has arrived, the history has caught up, and nothing waits for anything.
async fn everything_is_done(machine: &Machine, admin: &Client, receiver: &Receiver, runs: &[&Ran]) {
    let accepted: usize = runs.iter().map(|run| run.accepted.len()).sum();
    let arrive = || {
        eventually_within(SWEPT, "every accepted event arrives", || async {
            let arrived = receiver.distinct_ids();
            if arrived >= accepted { Ok(()) } else { Err(arrived) }
        })
    };
    if timeout(PATIENCE, arrive()).await.is_err() {
        let late = missing(machine, receiver, runs).await;
        println!("accepted and not arrived within {PATIENCE:?}: {late:#?}");
        arrive().await;
    }
    eventually_within(PATIENCE, "nothing is pending", || async {
        let status = admin.status().await.map_err(|error| error.to_string())?;
        let lag = status.components.and_then(|components| components.projection_lag);
        let pending = listed(admin, DeliveryStatus::Pending).await?;
        is((lag, pending.len()), (Some(0), 0))
    })
    .await;
}

/// The events that have not arrived, each with what the log holds of it.
async fn missing(machine: &Machine, receiver: &Receiver, runs: &[&Ran]) -> Vec<String> {
    let arrived: HashSet<_> = receiver.all_requests().iter().map(key_of).collect();
    let log = machine.log().await;
    let stored = stored_in(&log).await;
    let requested: HashMap<_, _> = stored
        .iter()
        .filter_map(|event| match &event.body {
            EventBody::Event(DeliveryEvent::Requested(requested)) => {
                let delivery = requested.delivery.delivery_id.to_string();
                Some((
                    key_in(&requested.payload),
                    (event.sequence, event.stored_at, delivery),
                ))
            }
            _ => None,
        })
        .collect();
    let books = Books::of(stored, receiver);
    let lags = log.consumer_lag().await;
    let events = runs.iter().flat_map(|run| &run.accepted);
    let missing = events.filter(|event| !arrived.contains(&event.key)).map(|event| {
        let requested = requested.get(&event.key);
        let account = requested.and_then(|(_, _, delivery)| books.account(delivery));
        format!("{event:?}: requested {requested:?}, {account:?}")
    });
    missing.chain([format!("{lags:?}")]).collect()
}

/// Every event that was acknowledged was made one delivery, has arrived, and stands in the history as delivered; and nothing
/// else does. Each first attempt that the receiver let fail was followed by one more.
async fn nothing_is_lost(admin: &Client, receiver: &Receiver, books: &Books, runs: [&Ran; 2]) {
    let mut arrived: HashMap<String, HashSet<String>> = HashMap::new();
    for request in receiver.all_requests() {
        let delivery = request.header("x-cuitty-delivery-id").to_owned();
        arrived.entry(key_of(&request)).or_default().insert(delivery);
    }
    let mut delivered = BTreeSet::new();
    let mut accepted = 0;
    for event in runs.into_iter().flat_map(|run| &run.accepted) {
        accepted += 1;
        let deliveries = arrived.get(&event.key).map(|ids| ids.iter().collect::<Vec<_>>());
        let Some([delivery]) = deliveries.as_deref() else {
            panic!("{event:?} has arrived as {deliveries:?}");
        };
        let named = event.delivery_id.as_ref();
        assert!(
            named.is_none_or(|named| named == *delivery),
            "{event:?}: {delivery}"
        );
        let account = books.account(delivery).expect("it is in the log");
        let attempts = 1 + usize::from(is_to_fail(&event.key));
        assert_eq!(account.outcomes.len(), attempts, "{event:?}: {account:?}");
        delivered.insert((*delivery).clone());
    }
    assert_eq!(
        (delivered.len(), arrived.len(), books.len()),
        (accepted, accepted, accepted)
    );
    books.check_delivered();
    assert_eq!(
        listed(admin, DeliveryStatus::Delivered)
            .await
            .expect("the history"),
        delivered
    );
    let failed = listed(admin, DeliveryStatus::Failed).await;
    assert_eq!(failed.expect("the history"), BTreeSet::new());
}

fn report(run: &Ran, repeated: usize) {
    println!(
        "{}: {} events accepted in {:.1?}; {} of {} calls failed ({:.2} %) {:?}; longest time without an acceptance {:.1?}, \
         of one event until its own {:.1?}; {repeated} attempts were repeated",
        run.name,
        run.accepted.len(),
        run.took(),
        run.failed(),
        run.calls(),
        100.0 * run.failed() as f64 / run.calls() as f64,
        run.failures,
        run.longest_gap(),
        run.longest_wait(),
    );
}

#[tokio::test]
async fn the_prod_overlay_loses_nothing_when_its_parts_are_killed_and_repeats_nothing_when_dispatchers_are_rolled()
 {
    let receiver = Receiver::start();
    let mut cluster = Cluster::start().await;
    let (doors, admin) = cluster.doors().await;
    cluster.create_endpoints(&admin, &receiver).await;

    let load = Load::start("kills", &doors, UNDER_KILLS);
    let mut outages = Vec::new();
    for node in 0..cluster.nats.len() {
        outages.push(kill_nats(&mut cluster, &load, node).await);
    }
    let taken_over_after = kill_leader(&mut cluster, &load).await;
    let kills = load.finish().await;
    everything_is_done(&cluster.machine, &admin, &receiver, &[&kills]).await;
    cluster.everybody_is_well().await;

    let rolled = Moment::now();
    let load = Load::start(
        "rolling",
        &doors,
        EVENTS.saturating_sub(kills.accepted.len()).max(6000),
    );
    cluster.roll_dispatchers(&load).await;
    let rolling = load.finish().await;
    everything_is_done(&cluster.machine, &admin, &receiver, &[&kills, &rolling]).await;
    cluster.everybody_is_well().await;
    let swept = cluster.swept().await;

    let books = Books::of(stored_in(&cluster.machine.log().await).await, &receiver);
    let since = books.repeated_since(rolled);
    let before: Vec<_> = books
        .repeated()
        .into_iter()
        .filter(|one| !since.contains(one))
        .collect();
    for (node, outage) in outages.iter().enumerate() {
        println!(
            "nats-{node} killed: {WITHOUT} more events accepted after {:.1?}; whole again {:.1?} after its start; {} attempts unconfirmed",
            outage.accepted_after,
            outage.whole_after,
            books.unconfirmed(outage.killed, outage.back).len(),
        );
    }
    println!("the active projector killed: the other one took over after {taken_over_after:.1?}");
    println!("found undelivered by the projector: {swept}");
    report(&kills, before.len());
    report(&rolling, since.len());

    nothing_is_lost(&admin, &receiver, &books, [&kills, &rolling]).await;
    assert_eq!(swept, 0, "attempted only because the projector found them");
    assert!(kills.accepted.len() + rolling.accepted.len() >= EVENTS);
    assert_eq!(since, [], "repeated although nothing was killed");
    assert_eq!(
        rolling.failures,
        BTreeMap::new(),
        "callers saw dispatchers being rolled"
    );
    let explained: BTreeSet<AttemptRef> = outages
        .iter()
        .flat_map(|outage| books.unconfirmed(outage.killed, outage.back))
        .collect();
    let unexplained: Vec<_> = before.iter().filter(|one| !explained.contains(one)).collect();
    assert!(
        unexplained.is_empty(),
        "repeated without a reason: {unexplained:?}"
    );
}
