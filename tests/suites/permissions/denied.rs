//! What is refused, and how it shows.

use harness::app::logged_in;
use harness::eventually::eventually;
use harness::nats::{NatsServer, OPERATOR, inbox_of};
use harness::roles::{RoleProcess, Settings, command};

use super::{MODULE_USER, User};

/// Of every user, what it may publish on and subscribe to least of all.
#[expect(clippy::too_many_lines, reason = "most of it is the table of what is refused")]
#[tokio::test]
async fn no_user_may_do_what_is_anothers() {
    let nats = NatsServer::start_with_accounts().await;
    let settings = logged_in(&Settings::new(&nats.url(), "sqlite::memory:"), &nats, OPERATOR);
    let made = command(&["topology", "apply"], &settings);
    assert!(made.status.success(), "{made:?}");

    let control = [
        "webhooks.endpoint.acme.ep_1",
        "webhooks.event_type.acme.order.paid",
        "webhooks.project.acme",
        "webhooks.api_key.key_1",
        "webhooks.replay.acme.rpl_1",
    ];
    let work = [
        "webhooks.work.0.acme.ep_1.requested",
        "webhooks.message.acme.unmatched",
    ];
    let work_due = ["webhooks.work.0.acme.ep_1.due"];
    let outcomes = [
        "webhooks.outcome.acme.ep_1.succeeded",
        "webhooks.outcome.acme.ep_1.attempted",
    ];
    let published = [
        "cuitty.events.acme.order.paid",
        "cuitty.events.budgets2.order.paid",
    ];
    let topology = [
        "$JS.API.STREAM.CREATE.OTHER",
        "$JS.API.STREAM.UPDATE.WEBHOOKS_CONTROL",
        "$JS.API.STREAM.DELETE.WEBHOOKS",
        "$JS.API.STREAM.PURGE.WEBHOOKS",
        "$JS.API.STREAM.PURGE.WEBHOOKS_CONTROL",
        "$JS.API.STREAM.MSG.DELETE.WEBHOOKS",
        "$JS.API.STREAM.RESTORE.WEBHOOKS",
        "$JS.API.STREAM.SNAPSHOT.WEBHOOKS",
        "$JS.API.STREAM.LEADER.STEPDOWN.WEBHOOKS",
        "$JS.API.CONSUMER.DELETE.WEBHOOKS.dispatch-0",
        "$JS.API.CONSUMER.PAUSE.WEBHOOKS.dispatch-0",
        "$SYS.REQ.SERVER.PING",
    ];
    let entries = [
        "$KV.WEBHOOKS_IDEMPOTENCY.x",
        "$KV.WEBHOOKS_CANCELLATIONS.x",
        "$KV.WEBHOOKS_API_KEY_USES.x",
    ];
    let reading = [
        "$JS.API.INFO",
        "$JS.API.STREAM.INFO.WEBHOOKS",
        "$JS.API.STREAM.MSG.GET.WEBHOOKS",
        "$JS.API.DIRECT.GET.WEBHOOKS_INGEST",
        "$JS.API.CONSUMER.CREATE.WEBHOOKS_INGEST.x",
        "$JS.API.CONSUMER.MSG.NEXT.WEBHOOKS_INGEST.ingest",
        "$JS.ACK.WEBHOOKS.dispatch-0.1.1.1.1.1",
    ];
    let notifications = [
        "cuitty.notifications.budgets.x",
        "webhooks.ingest.rejected.budgets",
    ];
    for (user, others) in [
        (
            "webhooks-dispatcher",
            [
                &control[..],
                &work,
                &work_due,
                &published,
                &topology,
                &entries,
                &["$JS.API.CONSUMER.CREATE.WEBHOOKS_INGEST.x"],
            ]
            .concat(),
        ),
        (
            "webhooks-api",
            [
                &outcomes[..],
                &work_due,
                &published,
                &topology,
                &notifications,
                &[
                    "$KV.WEBHOOKS_DISPATCHERS.x",
                    "$JS.ACK.WEBHOOKS.dispatch-0.1.1.1.1.1",
                    "$KV.WEBHOOKS_LANES.x",
                ],
            ]
            .concat(),
        ),
        (
            "webhooks-ingest",
            [
                &control[..],
                &outcomes,
                &work_due,
                &published,
                &topology,
                &entries[1..],
                &["webhooks.timer.dlv_1.2", "$KV.WEBHOOKS_LANES.x"],
            ]
            .concat(),
        ),
        (
            "webhooks-projector",
            [
                &outcomes[..],
                &work[1..],
                &control[1..4],
                &work_due,
                &published,
                &topology,
                &entries,
                &notifications,
            ]
            .concat(),
        ),
        (
            MODULE_USER,
            [
                &control[..],
                &work,
                &work_due,
                &outcomes,
                &published,
                &topology,
                &entries,
                &reading,
                &notifications,
                &["webhooks.timer.dlv_1.2"],
            ]
            .concat(),
        ),
    ] {
        let mut logged_in = User::log_in(&nats, user).await;
        for subject in others {
            logged_in.may_not_publish(subject).await;
        }
        let users = [
            "webhooks-api",
            "webhooks-ingest",
            "webhooks-dispatcher",
            "webhooks-projector",
            OPERATOR,
            MODULE_USER,
        ];
        for other in users.into_iter().filter(|&other| other != user) {
            let inbox = format!("{}.>", inbox_of(other));
            logged_in.may_not_subscribe(&inbox).await;
        }
        for subject in [
            ">",
            "webhooks.>",
            "cuitty.events.>",
            "_INBOX.>",
            "$JS.API.>",
            "$KV.>",
            "cuitty.notifications.>",
        ] {
            logged_in.may_not_subscribe(subject).await;
        }
    }
    // A module hears nothing of another one's project.
    let mut module = User::log_in(&nats, MODULE_USER).await;
    for subject in [
        "webhooks.work.*.deploys.*.requested",
        "webhooks.work.*.*.*.requested",
        "webhooks.outcome.>",
        "webhooks.ingest.rejected.*",
        "webhooks.ingest.rejected.deploys",
        "cuitty.notifications.deploys.>",
    ] {
        module.may_not_subscribe(subject).await;
    }
    // And the module's own.
    let subject = "cuitty.events.budgets.order.paid";
    // The answer to what it publishes goes nowhere but to modules, whatever subject it names.
    let spoofed = module.client.publish_with_reply(subject, control[0], "{}".into());
    spoofed.await.unwrap();
    module.publish_event(subject, "{}").await;
    let operator = User::log_in(&nats, OPERATOR).await;
    let streams = async_nats::jetstream::new(operator.client.clone());
    for (stream, messages) in [("WEBHOOKS", 0), ("WEBHOOKS_CONTROL", 0), ("WEBHOOKS_INGEST", 2)] {
        let found = streams.get_stream(stream).await.unwrap();
        assert_eq!(found.cached_info().state.messages, messages, "{stream}");
    }
}

#[tokio::test]
async fn a_process_that_is_denied_something_says_what() {
    let nats = NatsServer::start_with_accounts().await;
    let settings = Settings::new(&nats.url(), "sqlite::memory:").set("log.request_timeout", "2s");
    let made = command(&["topology", "apply"], &logged_in(&settings, &nats, OPERATOR));
    assert!(made.status.success(), "{made:?}");

    let settings = logged_in(&settings, &nats, "webhooks-ingest");
    let misplaced = RoleProcess::spawn("dispatcher", &settings);
    eventually("it says what it may not do", || async {
        let output = misplaced.output();
        let said = output.contains("permission denied") && output.contains("WEBHOOKS_DISPATCHERS");
        if said { Ok(()) } else { Err(output) }
    })
    .await;
    assert!(misplaced.metric("webhooks_log_denied_total").await >= 1.0);
    let (status, _) = misplaced.readiness().await;
    assert_eq!(status, 503);

    // Making streams is the operator's.
    let made = command(&["topology", "apply"], &settings.set("log.max_age", "15days"));
    assert_eq!(made.status.code(), Some(1));
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(
        said.contains("permission denied for subject $JS.API.STREAM.UPDATE.WEBHOOKS"),
        "{said}"
    );
}

#[tokio::test]
async fn a_process_that_makes_no_streams_waits_for_them() {
    let nats = NatsServer::start().await;
    let settings = Settings::new(&nats.url(), "sqlite::memory:").set("log.manage_topology", false);
    let ingest = RoleProcess::spawn("ingest", &settings);
    eventually("it says that it waits", || async {
        let output = ingest.output();
        if output.contains("waiting for the log's streams") {
            Ok(())
        } else {
            Err(output)
        }
    })
    .await;
    let (status, _) = ingest.readiness().await;
    assert_eq!(status, 503);
    let made = command(&["topology", "apply"], &settings);
    assert!(made.status.success(), "{made:?}");
    ingest.ready().await;
}
