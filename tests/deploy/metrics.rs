//! Metrics, the dashboard, the alerts and their documentation: one set of names, and expressions that mean something.

mod names;
mod prometheus;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cuitty_webhooks_proto::v1::CreateEndpointRequest;
use harness::app::TestApp;
use harness::cli::run_command;
use harness::eventually::eventually_within;
use harness::receiver::{Receiver, Reply};
use harness::rest::RestClient;
use harness::traffic::hand_over;
use serde_json::Value;

use self::names::{Described, documented, families, histogram_of, names_in};
use self::prometheus::{Prometheus, tool};

const RULES: &str = "deploy/alerts/cuitty-webhooks.rules.yaml";
const RULE_TESTS: &str = "deploy/alerts/tests.yaml";
const DASHBOARD: &str = "deploy/grafana/cuitty-webhooks.json";
const DOCUMENT: &str = "deploy/METRICS.md";
/// How long Prometheus may take until it has scraped a process often enough for rates, and evaluated every rule.
const SCRAPED: Duration = Duration::from_mins(1);

/// A file of the repository.
fn file(path: &str) -> String {
    let path = harness::workspace().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What promtool prints with these arguments, when it succeeds.
fn promtool(arguments: &[&str]) -> String {
    let mut command = Command::new(tool("promtool"));
    command.args(arguments).current_dir(harness::workspace());
    run_command(command, "").ok()
}

/// All roles in one process.
async fn installation() -> TestApp {
    TestApp::builder()
        .processes(["api,ingest,dispatcher,projector"])
        .start()
        .await
}

/// What the process shows.
async fn shown(app: &TestApp) -> String {
    let answer = RestClient::new(app.roles[0].admin_url(), None)
        .get("/metrics")
        .await;
    String::from_utf8(answer.body.to_vec()).unwrap()
}

/// Title and expression of every query of the dashboard.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&file(DASHBOARD)).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push((title.to_owned(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    assert!(queries.len() > 50, "{queries:?}");
    queries
}

/// A query of the dashboard as Grafana sends it.
fn filled_in(expression: &str) -> String {
    let filled = expression
        .replace("$__rate_interval", "30s")
        .replace("$instance", ".*");
    assert!(!filled.contains('$'), "{filled}");
    filled
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() {
    assert!(promtool(&["check", "rules", RULES]).contains("SUCCESS"));
    assert!(promtool(&["test", "rules", RULE_TESTS]).contains("SUCCESS"));
    promtool(&[
        "check",
        "config",
        "--syntax-only",
        "deploy/prometheus/prometheus.yaml",
    ]);
    let (rules, tests) = (file(RULES), file(RULE_TESTS));
    let alerts: Vec<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(alerts.len() > 15, "{alerts:?}");
    for alert in &alerts {
        let expression = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}");
        let expected: BTreeSet<_> = tests
            .split("- name: ")
            .filter(|test| test.contains(&expression))
            .map(|test| test.contains("- value: 1"))
            .collect();
        assert_eq!(expected, BTreeSet::from([false, true]), "{alert}");
        let anchor = format!("runbook: README.md#alert-{}\n", alert.to_lowercase());
        assert_eq!(rules.matches(&anchor).count(), 1, "{alert}");
    }
    for annotation in ["summary:", "description:", "runbook:", "severity:"] {
        assert_eq!(
            rules
                .lines()
                .filter(|line| line.trim().starts_with(annotation))
                .count(),
            alerts.len()
        );
    }
}

#[test]
fn every_panel_says_what_it_tells() {
    let dashboard: Value = serde_json::from_str(&file(DASHBOARD)).unwrap();
    let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        assert!(titles.insert(title), "{title}");
        if panel["type"] == "row" {
            continue;
        }
        let description = panel["description"].as_str().unwrap_or_default();
        assert!(description.len() > 20, "{title}: {description}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
    }
}

#[tokio::test]
async fn what_is_documented_shown_and_asked_for_are_the_same_metrics() {
    let app = installation().await;
    let text = shown(&app).await;
    let described = families(&text);

    // Constants of the code that no process describes would be missing here.
    let sources = [
        "log/src/metrics",
        "api/src/metrics",
        "dispatcher/src/metrics",
        "projector/src/metrics",
        "server/src/gauges",
        "server/src/telemetry/measured",
        "server/src/telemetry/spans",
    ]
    .map(|path| file(&format!("crates/{path}.rs")));
    let declared: BTreeSet<String> = sources
        .iter()
        .flat_map(|source| source.split('"').filter(|text| text.starts_with("webhooks_")))
        .map(str::to_owned)
        .collect();
    let ours: BTreeSet<String> = described
        .keys()
        .filter(|name| name.starts_with("webhooks_"))
        .cloned()
        .collect();
    assert_eq!(declared, ours);

    let documented: BTreeMap<String, Described> = documented(&file(DOCUMENT));
    assert_eq!(
        documented, described,
        "{DOCUMENT} is generated from what is described"
    );

    let asked: Vec<String> = queries().into_iter().map(|(_, expression)| expression).collect();
    for expression in asked.iter().chain([&file(RULES)]) {
        for name in names_in(expression) {
            let known = described.contains_key(&name)
                || histogram_of(&name)
                    .is_some_and(|name| described.get(name).is_some_and(|it| it.kind == "histogram"));
            assert!(known, "{name} is asked for, and nobody shows it");
        }
    }
}

#[tokio::test]
async fn what_a_process_shows_is_what_promtool_takes_for_good() {
    let app = installation().await;
    let text = shown(&app).await;
    let mut command = Command::new(tool("promtool"));
    command.args(["check", "metrics"]);
    let ran = run_command(command, &text);
    // Gauges of the first version, whose names are kept.
    let complaints: Vec<_> = ran
        .err
        .lines()
        .filter(|line| {
            !line.ends_with("non-histogram and non-summary metrics should not have \"_count\" suffix")
        })
        .collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[tokio::test]
async fn a_prometheus_that_scrapes_a_process_can_answer_every_panel_and_every_alert() {
    let app = installation().await;
    let prometheus = Prometheus::start(&app.roles[0].admin_url(), Path::new(RULES)).await;
    let receiver = Receiver::start();
    receiver.script("/busy", [Reply::status(500), Reply::status(200)]);
    let endpoint = app
        .create_endpoint(CreateEndpointRequest {
            url: receiver.url("/busy"),
            retry_schedule_seconds: vec![1; 10],
            ..Default::default()
        })
        .await
        .endpoint
        .unwrap();

    // Series begin with a value, and rates with the second: traffic comes when it is being watched.
    prometheus.scraped(SCRAPED).await;
    hand_over(&app, &endpoint.id, 20).await;
    let accepted = |count: f64| format!("sum(webhooks_messages_accepted_total) >= {count}");
    eventually_within(SCRAPED, "what was accepted is scraped", || async {
        prometheus.first(&accepted(20.0)).await.ok_or("not yet")
    })
    .await;
    let ended = "sum(webhooks_deliveries_ended_total{outcome=\"succeeded\"}) == 20";
    eventually_within(SCRAPED, "what was delivered is scraped", || async {
        prometheus.first(ended).await.ok_or("not yet")
    })
    .await;

    for (title, expression) in queries() {
        let series = prometheus.query(&filled_in(&expression)).await;
        // Those that are compared with 0 are empty in good days.
        assert!(
            !series.is_empty() || expression.contains("> 0"),
            "{title}: {expression}"
        );
    }
    for (title, least, most) in [
        ("Accepted per second", f64::MIN_POSITIVE, 100.0),
        ("Attempts that succeed", 0.5, 1.0),
        ("Refused for our reasons", 0.0, 0.0),
        ("Oldest due delivery", 0.0, 5.0),
        ("Active projectors", 1.0, 1.0),
        ("Connected processes", 1.0, 1.0),
        ("Time to append", 0.0002, 60.0),
        ("Duration of attempts", 0.0002, 60.0),
        ("Lateness of timers", 0.0002, 60.0),
        ("Storage", 1.0, 1e9),
        ("Resident memory", 1e6, 1e10),
    ] {
        let expression = queries().into_iter().find(|(it, _)| it == title).expect(title).1;
        let value = prometheus.first(&filled_in(&expression)).await.expect(title);
        assert!((least..=most).contains(&value), "{title}: {value}");
    }
    let partitions = prometheus.first("sum(webhooks_membership_partitions) - max(webhooks_log_partitions)");
    assert_eq!(partitions.await, Some(0.0));

    let alerts = prometheus.alerts(SCRAPED).await;
    assert_eq!(alerts.len(), file(RULES).matches("- alert: ").count());
    // One process of all roles that does what it should gives no cause for alarm.
    let firing: Vec<_> = alerts.iter().filter(|(_, state)| *state != "inactive").collect();
    assert!(firing.is_empty(), "{firing:?}");
}
