//! Kills under load: 20,000 events to 50 endpoints through separate processes and PostgreSQL.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use harness::app::TestApp;
use harness::eventually::{eventually, is};
use harness::receiver::Receiver;
use harness::rest::RestClient;
use harness::roles::command;

use crate::TAKEOVER;
use crate::acks::Acks;
use crate::ledger::{Ledger, Moment};
use crate::load::{
    API, DISPATCHERS, EVENTS, Load, PROJECTOR, attempts_are_in_flight, both_dispatchers_work,
    everything_arrives, start,
};

#[tokio::test]
async fn killing_a_dispatcher_the_projector_and_the_api_loses_nothing_and_repeats_what_was_in_flight() {
    let _turn = crate::turn().await;
    let receiver = Receiver::start();
    let mut app = start(&receiver).await;
    let acks = Acks::listen(&app.nats.url()).await;
    let load = Load::start(&app);

    load.reaches(15).await;
    both_dispatchers_work(&app).await;
    attempts_are_in_flight(&receiver).await;
    app.roles[DISPATCHERS[0]].kill9();
    let killed = Moment::now();
    let acknowledged = acks.done().await;
    load.reaches(30).await;
    app.roles[DISPATCHERS[0]].start_again();
    load.reaches(40).await;
    app.roles[PROJECTOR].kill9();
    load.reaches(55).await;
    app.roles[PROJECTOR].start_again();
    load.reaches(70).await;
    app.roles[API].kill9();
    app.roles[API].start_again();
    let accepted = load.finish().await;

    everything_arrives(&app, &receiver, &accepted).await;
    let ledger = Ledger::read(&app.nats.url(), &receiver).await;
    ledger.check_outcomes();
    let repeated = ledger.repeated();
    let left = ledger.left_by_the_killed(killed, &acknowledged);
    println!(
        "the killed dispatcher left {} deliveries undone, {} of them in flight; {} were repeated; the last arrived {:.1?} after the kill",
        left.undone.len(),
        left.in_flight.len(),
        repeated.len(),
        left.last_arrival,
    );
    assert!(!left.in_flight.is_empty(), "the kill met nothing");
    let unexplained: Vec<_> = repeated.difference(&left.in_flight).collect();
    assert!(
        unexplained.is_empty(),
        "repeated without having been in flight: {unexplained:?}"
    );
    assert!(left.last_arrival <= TAKEOVER, "{:?}", left.last_arrival);
    the_history_can_be_folded_again(&app);
}

/// `projection rebuild` and `projection verify` on what the load has left: every row comes back the same.
fn the_history_can_be_folded_again(app: &TestApp) {
    for subcommand in ["verify", "rebuild", "verify"] {
        let output = command(&["projection", subcommand], &app.settings);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{output:?}");
        println!("projection {subcommand}: {}", said.trim_end());
        // "rebuilt up to log sequence 40050: 40000 events in …", "folded 40000 events up to …"
        let events = said.split(" events").next();
        let events = events.and_then(|text| text.rsplit(' ').next());
        let events: usize = events.and_then(|number| number.parse().ok()).expect("a number");
        assert!(events >= 2 * EVENTS, "a request and an outcome each: {said}");
        if subcommand == "verify" {
            let identical = said.split(" rows identical, 0 differ, 0 older").next();
            let rows = identical.and_then(|text| text.rsplit(' ').next()).expect("rows");
            assert!(rows.parse::<usize>().expect("a number") >= EVENTS, "{said}");
        }
    }
}

/// nats-server writes acknowledgements to its file ten times a second: those of the last moment die with it. This long on
/// a busy machine.
const UNWRITTEN: TimeDelta = TimeDelta::milliseconds(500);

#[tokio::test]
async fn killing_nats_server_loses_nothing_and_repeats_at_most_what_was_in_flight() {
    let _turn = crate::turn().await;
    let receiver = Receiver::start();
    let mut app = start(&receiver).await;
    let load = Load::start(&app);

    let mut outages = Vec::new();
    for percent in [25, 60] {
        load.reaches(percent).await;
        both_dispatchers_work(&app).await;
        attempts_are_in_flight(&receiver).await;
        app.nats.kill9();
        let killed = Moment::now();
        for index in DISPATCHERS {
            let admin = RestClient::new(app.roles[index].admin_url(), None);
            eventually("the dispatcher notices", || async {
                is(admin.get("/readyz").await.status.as_u16(), 503)
            })
            .await;
        }
        app.nats.restart().await;
        outages.push((killed, Moment::now()));
    }
    let accepted = load.finish().await;

    everything_arrives(&app, &receiver, &accepted).await;
    let ledger = Ledger::read(&app.nats.url(), &receiver).await;
    ledger.check_outcomes();
    let repeated = ledger.repeated();
    let mut open = BTreeSet::new();
    for (killed, back) in outages {
        let stories = ledger.stories.values();
        let in_flight = stories
            .filter(|story| story.arrivals[0].at <= killed.at && story.outcomes[0].stored_at > killed.wall)
            .count();
        println!(
            "nats-server was killed with {in_flight} attempts in flight and was back after {:.1?}",
            back.at.saturating_duration_since(killed.at),
        );
        assert!(in_flight > 0, "the kill met nothing");
        // What was begun while it was away could not be recorded either.
        let unrecorded = ledger.stories.iter().filter(|(_, story)| {
            story.was_begun(back) && story.outcomes[0].stored_at > killed.wall - UNWRITTEN
        });
        open.extend(unrecorded.map(|(id, _)| id.as_str()));
    }
    println!("{} deliveries were repeated", repeated.len());
    let unexplained: Vec<_> = repeated.difference(&open).collect();
    assert!(
        unexplained.is_empty(),
        "repeated without having been in flight: {unexplained:?}"
    );
}
