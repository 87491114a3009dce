//! Where deliveries may go when the host is a name: it is looked up when the endpoint is made, and every connection looks
//! again.

use std::net::{Ipv4Addr, TcpListener};

use cuitty_webhooks_proto::v1::{
    CreateEndpointRequest, DeliverRequest, DeliveryDetail, DeliveryStatus, Endpoint, GetEndpointRequest,
    ListEndpointsRequest, UpdateEndpointRequest,
};
use harness::app::{PROJECT, TestApp, event, summary};
use harness::dns::{Answer, DnsServer, RecordType};
use harness::eventually::eventually;
use harness::grpc::{Refusal, refused};
use harness::receiver::{Receiver, Reply};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::server::Acceptor;
use tonic::Code;

/// Never called: where names lead before they change, and beside what they must not lead to.
const PUBLIC: &str = "8.8.8.8";
/// An address of this machine that [`app`] is not allowed to call when it may call 127.0.0.1 only.
const FORBIDDEN: &str = "127.0.0.2";

/// An installation that resolves names with `dns` and may call public addresses and those of `allowed`.
async fn app(dns: &DnsServer, allowed: &str) -> TestApp {
    TestApp::builder()
        .set("egress.allow_cidrs", allowed)
        .set("api.nameservers", dns.address())
        .set("api.resolve_timeout", "300ms")
        .set("dispatcher.http.nameservers", dns.address())
        .start()
        .await
}

/// An impatient endpoint whose deliveries are tried twice.
fn endpoint_at(url: String) -> CreateEndpointRequest {
    CreateEndpointRequest {
        project_id: PROJECT.into(),
        url,
        timeout_ms: 1000,
        retry_schedule_seconds: vec![1],
        ..Default::default()
    }
}

async fn create(app: &TestApp, url: String) -> Endpoint {
    app.create_endpoint(endpoint_at(url)).await.endpoint.unwrap()
}

/// A server that nobody may connect to. The kernel takes connections for it, so that one that was made stays seen.
struct Trap(TcpListener);

impl Trap {
    fn set(address: &str, port: u16) -> Self {
        let listener = TcpListener::bind((address, port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    fn assert_untouched(&self) {
        let error = self.0.accept().expect_err("nobody may connect");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
}

/// Hands over an event for one endpoint; gives the delivery's id.
async fn send(app: &TestApp, endpoint: &Endpoint) -> String {
    let request = DeliverRequest {
        endpoint_id: endpoint.id.clone(),
        ..event("order.paid", "{}")
    };
    let accepted = app.messages().deliver(request).await.unwrap().into_inner();
    accepted.deliveries[0].id.clone()
}

/// [`send`], and waits for the end.
async fn deliver(app: &TestApp, endpoint: &Endpoint) -> DeliveryDetail {
    app.ended(&send(app, endpoint).await).await
}

/// The error class of each attempt, empty for a success.
fn classes(detail: &DeliveryDetail) -> Vec<&str> {
    detail
        .attempts
        .iter()
        .map(|attempt| attempt.error.as_ref().map_or("", |error| &error.class))
        .collect()
}

fn assert_url_is_refused(refusal: &Refusal, name: &str) {
    assert_eq!(
        (refusal.code, refusal.reason.as_str(), refusal.field_names()),
        (Code::InvalidArgument, "INVALID_FIELDS", vec!["url"]),
        "{name}"
    );
}

/// Says of the first attempt that it is followed by another one after 1 s, as scheduled, ±20 %.
fn assert_retried_on_schedule(detail: &DeliveryDetail) {
    let seconds = |time: &Option<prost_types::Timestamp>| {
        let time = time.expect("a time");
        time.seconds as f64 + f64::from(time.nanos) / 1e9
    };
    let first = &detail.attempts[0];
    let ended = seconds(&first.started_at) + first.duration_ms / 1000.0;
    let delay = seconds(&first.next_attempt_at) - ended;
    assert!((0.75..1.7).contains(&delay), "{delay} s");
    assert_eq!(detail.attempts[1].number, 2);
}

#[tokio::test]
async fn a_name_that_leads_where_nobody_may_be_called_is_refused() {
    let dns = DnsServer::start();
    let app = app(&dns, "").await;
    dns.script("db.internal.test", [Answer::addresses(["10.0.0.1"])]);
    dns.script("inner.test", [Answer::alias("db.internal.test")]);
    let mut names = Vec::new();
    for (name, answer) in [
        ("private.test", Answer::addresses(["10.0.0.1"])),
        ("loopback.test", Answer::addresses(["127.0.0.1"])),
        ("metadata.test", Answer::addresses(["169.254.169.254"])),
        ("loopback6.test", Answer::addresses(["::1"])),
        ("local6.test", Answer::addresses(["fd00::1"])),
        ("mapped.test", Answer::addresses(["::ffff:10.0.0.1"])),
        ("mapped-public.test", Answer::addresses(["::ffff:8.8.8.8"])),
        ("mixed.test", Answer::addresses([PUBLIC, "10.0.0.1"])),
        ("mixed6.test", Answer::addresses([PUBLIC, "fd00::1"])),
        ("alias.test", Answer::alias("db.internal.test")),
        ("alias-of-alias.test", Answer::alias("inner.test")),
        ("large.test", Answer::addresses(["10.0.0.1"]).truncated()),
        ("under_score.test", Answer::addresses(["10.0.0.1"])),
    ] {
        dns.script(name, [answer]);
        names.push(name);
    }
    // A name server may keep silent about one family, so that the whole answer does not come in time.
    for (name, silent, address) in [
        ("half.test", RecordType::AAAA, "10.0.0.1"),
        ("half6.test", RecordType::A, "fd00::1"),
    ] {
        dns.script(name, [Answer::addresses([address])]);
        dns.script_type(name, silent, [Answer::silence()]);
        names.push(name);
    }

    for name in names {
        let request = endpoint_at(format!("https://{name}/hook"));
        assert_url_is_refused(&refused(app.endpoints().create_endpoint(request).await), name);
        assert_ne!(dns.queries(name, RecordType::A), 0, "{name} was looked up");
    }

    let request = ListEndpointsRequest {
        project_id: PROJECT.into(),
        ..Default::default()
    };
    let nothing = refused(app.endpoints().list_endpoints(request).await);
    assert_eq!(nothing.code, Code::NotFound, "the project has no endpoint");
}

#[tokio::test]
async fn an_endpoint_cannot_be_moved_to_such_a_name() {
    let dns = DnsServer::start();
    let app = app(&dns, "").await;
    dns.script("public.test", [Answer::addresses([PUBLIC])]);
    dns.script("private.test", [Answer::addresses(["10.0.0.1"])]);
    let endpoint = create(&app, "https://public.test/hook".into()).await;

    let request = UpdateEndpointRequest {
        endpoint: Some(Endpoint {
            url: "https://private.test/hook".into(),
            ..endpoint.clone()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["url".into()],
        }),
        expected_revision: 0,
    };
    assert_url_is_refused(
        &refused(app.endpoints().update_endpoint(request).await),
        "private.test",
    );

    let request = GetEndpointRequest {
        endpoint_id: endpoint.id.clone(),
    };
    let after = app.endpoints().get_endpoint(request).await.unwrap().into_inner();
    assert_eq!(after, endpoint);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_yet_may_be_an_endpoint() {
    let dns = DnsServer::start();
    let app = app(&dns, "").await;
    for (name, answer) in [
        ("unknown.test", Answer::no_such_name()),
        ("empty.test", Answer::addresses([])),
        ("failing.test", Answer::failure()),
        ("silent.test", Answer::silence()),
    ] {
        dns.script(name, [answer]);
        let url = format!("https://{name}/hook");
        assert_eq!(create(&app, url.clone()).await.url, url);
    }
}

#[tokio::test]
async fn a_name_that_turns_private_after_it_was_checked_is_not_connected_to() {
    let dns = DnsServer::start();
    let app = app(&dns, "").await;
    let trap = Trap::set("127.0.0.1", 0);
    dns.script(
        "rebinding.test",
        [Answer::addresses([PUBLIC]), Answer::addresses(["127.0.0.1"])],
    );
    let url = format!("http://rebinding.test:{}/hook", trap.port());
    let endpoint = create(&app, url).await;

    let detail = deliver(&app, &endpoint).await;

    assert_eq!(classes(&detail), ["blocked_address", "blocked_address"]);
    assert_retried_on_schedule(&detail);
    for attempt in &detail.attempts {
        assert_eq!((attempt.remote_address.as_str(), &attempt.response), ("", &None));
        let timing = attempt.timing.unwrap();
        assert!(
            timing.dns_ms.is_some() && timing.connect_ms.is_none(),
            "{timing:?}"
        );
        // What it resolves to in our network is not the caller's to know.
        let message = &attempt.error.as_ref().unwrap().message;
        assert!(
            message.contains("rebinding.test") && !message.contains("127."),
            "{message}"
        );
    }
    let delivery = summary(&detail);
    assert_eq!(
        (delivery.status(), delivery.failure_reason.as_str()),
        (DeliveryStatus::Failed, "exhausted")
    );
    assert_eq!(
        dns.queries("rebinding.test", RecordType::A),
        3,
        "looked up each time"
    );
    trap.assert_untouched();
}

#[tokio::test]
async fn of_several_addresses_only_an_allowed_one_is_connected_to() {
    let dns = DnsServer::start();
    let app = app(&dns, "127.0.0.1/32").await;
    let receiver = Receiver::start();
    let trap = Trap::set(FORBIDDEN, receiver.port());
    dns.script(
        "mixed.test",
        [
            Answer::addresses(["127.0.0.1"]),
            Answer::addresses([FORBIDDEN, "127.0.0.1", "::1"]),
        ],
    );
    let url = format!("http://mixed.test:{}/hook", receiver.port());
    let endpoint = create(&app, url).await;

    let detail = deliver(&app, &endpoint).await;

    assert_eq!(classes(&detail), [""]);
    assert_eq!(
        detail.attempts[0].remote_address,
        format!("127.0.0.1:{}", receiver.port())
    );
    assert_eq!(receiver.requests("/hook").len(), 1);
    trap.assert_untouched();
}

#[tokio::test]
async fn a_remembered_answer_is_checked_like_a_new_one() {
    let dns = DnsServer::start();
    let app = app(&dns, "127.0.0.1/32").await;
    let trap = Trap::set(FORBIDDEN, 0);
    dns.script(
        "remembered.test",
        [
            Answer::addresses(["127.0.0.1"]),
            Answer::addresses([FORBIDDEN]).ttl(300),
            Answer::addresses(["127.0.0.1"]),
        ],
    );
    let url = format!("http://remembered.test:{}/hook", trap.port());
    let endpoint = create(&app, url).await;

    let detail = deliver(&app, &endpoint).await;

    assert_eq!(classes(&detail), ["blocked_address", "blocked_address"]);
    assert_eq!(
        dns.queries("remembered.test", RecordType::A),
        2,
        "the second attempt asked nobody"
    );
    trap.assert_untouched();
}

#[tokio::test]
async fn a_kept_connection_stays_at_its_address_and_the_next_one_is_checked() {
    let dns = DnsServer::start();
    let app = app(&dns, "127.0.0.1/32").await;
    let receiver = Receiver::start();
    receiver.script("/hook", [Reply::status(200), Reply::status(200), Reply::reset()]);
    let trap = Trap::set(FORBIDDEN, receiver.port());
    dns.script("moving.test", [Answer::addresses(["127.0.0.1"])]);
    let url = format!("http://moving.test:{}/hook", receiver.port());
    let endpoint = create(&app, url).await;

    let first = deliver(&app, &endpoint).await;
    dns.script("moving.test", [Answer::addresses([FORBIDDEN])]);
    let second = deliver(&app, &endpoint).await;

    assert_eq!((classes(&first), classes(&second)), (vec![""], vec![""]));
    assert_eq!(
        first.attempts[0].remote_address,
        second.attempts[0].remote_address
    );
    let timing = second.attempts[0].timing.unwrap();
    assert_eq!(
        (timing.dns_ms, timing.connect_ms),
        (None, None),
        "on the same connection"
    );

    // The receiver closes it. A new one is made to nowhere.
    let third = deliver(&app, &endpoint).await;
    assert_eq!(classes(&third), ["reset", "blocked_address"]);
    assert_eq!(receiver.requests("/hook").len(), 3);
    trap.assert_untouched();
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_is_tried_again() {
    let dns = DnsServer::start();
    let app = app(&dns, "127.0.0.1/32").await;
    let receiver = Receiver::start();
    for (name, answer) in [
        ("unknown.test", Answer::no_such_name()),
        ("empty.test", Answer::addresses([])),
        ("failing.test", Answer::failure()),
        ("silent.test", Answer::silence()),
    ] {
        dns.script(name, [answer]);
        let url = format!("http://{name}:{}/{name}", receiver.port());
        let endpoint = create(&app, url).await;
        let id = &send(&app, &endpoint).await;
        eventually(&format!("{name}: the first attempt is over"), || async {
            let detail = app.delivery(id).await;
            if detail.attempts.is_empty() {
                Err("not yet")
            } else {
                Ok(())
            }
        })
        .await;
        dns.script(name, [Answer::addresses(["127.0.0.1"])]);

        let detail = app.ended(id).await;

        assert_eq!(classes(&detail), ["dns", ""], "{name}: {detail:?}");
        assert_retried_on_schedule(&detail);
        let first = &detail.attempts[0];
        assert_eq!(first.remote_address, "");
        // Also a name server that keeps silent has no more time than the endpoint has.
        assert!(first.duration_ms < 1500.0, "{name}: {} ms", first.duration_ms);
        assert_eq!(receiver.requests(&format!("/{name}")).len(), 1);
    }
}

#[tokio::test]
async fn a_name_in_an_allowed_network_is_delivered_to_by_its_name() {
    let dns = DnsServer::start();
    let app = app(&dns, "127.0.0.1/32").await;
    let receiver = Receiver::start();
    dns.script("host.internal.test", [Answer::addresses(["127.0.0.1"])]);
    for (name, answer) in [
        ("plain.test", Answer::addresses(["127.0.0.1"])),
        ("alias.test", Answer::alias("host.internal.test")),
        ("large.test", Answer::addresses(["127.0.0.1"]).truncated()),
        ("under_score.test", Answer::addresses(["127.0.0.1"])),
        ("single", Answer::addresses(["127.0.0.1"])),
    ] {
        dns.script(name, [answer]);
        let url = format!("http://{name}:{}/{name}", receiver.port());
        let endpoint = create(&app, url.clone()).await;
        let detail = deliver(&app, &endpoint).await;

        assert_eq!(classes(&detail), [""], "{name}: {detail:?}");
        let attempt = &detail.attempts[0];
        assert_eq!(attempt.remote_address, format!("127.0.0.1:{}", receiver.port()));
        assert_eq!(attempt.request.as_ref().unwrap().url, url);
        assert!(attempt.timing.unwrap().dns_ms.is_some());
        let request = receiver.received(&format!("/{name}"), 1).await.remove(0);
        assert_eq!(request.header("host"), format!("{name}:{}", receiver.port()));
    }
}

#[tokio::test]
async fn tls_is_asked_for_by_name() {
    let dns = DnsServer::start();
    let app = app(&dns, "127.0.0.1/32").await;
    dns.script("tls.test", [Answer::addresses(["127.0.0.1"])]);
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint = create(&app, format!("https://tls.test:{}/hook", address.port())).await;

    let id = send(&app, &endpoint).await;
    let (socket, _) = listener.accept().await.unwrap();
    let handshake = LazyConfigAcceptor::new(Acceptor::default(), socket)
        .await
        .unwrap();
    assert_eq!(handshake.client_hello().server_name(), Some("tls.test"));

    drop((handshake, listener));
    let detail = app.ended(&id).await;
    assert_eq!(classes(&detail), ["tls", "connect"]);
    assert_eq!(detail.attempts[0].remote_address, address.to_string());
}

/// Works the same where the machine has no IPv6.
#[tokio::test]
async fn one_family_of_addresses_does_not_hinder_the_other() {
    let dns = DnsServer::start();
    let app = app(&dns, "127.0.0.1/32,::1/128").await;
    let receiver = Receiver::start();

    // Nobody listens at ::1, which is tried first.
    dns.script("both.test", [Answer::addresses(["127.0.0.1", "::1"])]);
    dns.script("six.test", [Answer::addresses(["::1"])]);
    // A name server that never answers one of the two questions.
    for (name, silent) in [
        ("four-only.test", RecordType::AAAA),
        ("six-only.test", RecordType::A),
    ] {
        dns.script(name, [Answer::addresses(["127.0.0.1", "::1"])]);
        dns.script_type(name, silent, [Answer::silence()]);
    }
    // One that fails on it.
    dns.script("four-failing.test", [Answer::addresses(["127.0.0.1"])]);
    dns.script_type("four-failing.test", RecordType::AAAA, [Answer::failure()]);

    for (name, expected) in [
        ("both.test", ""),
        ("four-only.test", ""),
        ("four-failing.test", ""),
        ("six.test", "connect"),
        ("six-only.test", "connect"),
    ] {
        let url = format!("http://{name}:{}/hook", receiver.port());
        let detail = deliver(&app, &create(&app, url).await).await;
        assert_eq!(classes(&detail)[0], expected, "{name}: {detail:?}");
        let dns_ms = detail.attempts[0]
            .timing
            .unwrap()
            .dns_ms
            .expect("it was looked up");
        assert!(dns_ms < 900.0, "{name}: {dns_ms} ms");
    }
}
