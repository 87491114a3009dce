//! A real Prometheus server that scrapes one process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::eventually::{eventually_within, is};
use harness::ports::free_address;
use harness::process::Process;
use harness::rest::RestClient;
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tempfile::TempDir;

/// How long it may take to start.
const START: Duration = Duration::from_secs(30);

/// `prometheus` or `promtool`, as `make promtool` installs it.
pub(super) fn tool(name: &str) -> PathBuf {
    let path = harness::workspace().join(".tools/bin").join(name);
    assert!(path.exists(), "there is no {name}: run `make promtool`");
    path
}

/// Stopped on drop, its data removed.
pub(super) struct Prometheus {
    client: RestClient,
    _process: Process,
    _dir: TempDir,
}

impl Prometheus {
    /// Scrapes the process at `target` (`http://host:port`) and evaluates `rules`, both every second.
    pub(super) async fn start(target: &str, rules: &Path) -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        let rules = harness::workspace().join(rules);
        let config = serde_json::json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": [rules],
            "scrape_configs": [{
                "job_name": "cuitty-webhooks",
                "static_configs": [{ "targets": [target.trim_start_matches("http://")] }],
            }],
        });
        // JSON is YAML.
        let path = dir.path().join("prometheus.yaml");
        std::fs::write(&path, config.to_string()).expect("write the configuration");
        let address = free_address();
        let mut command = Command::new(tool("prometheus"));
        command.arg(format!("--config.file={}", path.display()));
        command.arg(format!(
            "--storage.tsdb.path={}",
            dir.path().join("data").display()
        ));
        command.arg(format!("--web.listen-address={address}"));
        let process = Process::spawn("prometheus", command, &dir.path().join("output.log"));
        let client = RestClient::new(format!("http://{address}"), None);
        eventually_within(START, "prometheus is ready", || async {
            is(client.try_get("/-/ready").await?.status.as_u16(), 200)
        })
        .await;
        Self {
            client,
            _process: process,
            _dir: dir,
        }
    }

    /// Waits until the target was scraped twice.
    pub(super) async fn scraped(&self, patience: Duration) {
        eventually_within(patience, "the process is scraped", || async {
            let scrapes = self.first("sum(count_over_time(up[5m])) > 2").await;
            scrapes.ok_or("not yet")
        })
        .await;
    }

    /// The samples that an expression has now: labels and value.
    ///
    /// # Panics
    /// When it is refused.
    pub(super) async fn query(&self, expression: &str) -> Vec<(Value, f64)> {
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let body = format!("query={}", utf8_percent_encode(expression, NON_ALPHANUMERIC));
        let answer = self
            .client
            .send(Method::POST, "/api/v1/query", &form, body)
            .await
            .json();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        let data = &answer["data"];
        assert_eq!(data["resultType"], "vector", "{expression}");
        let samples = data["result"].as_array().expect("samples").iter();
        samples
            .map(|sample| {
                let value = sample["value"][1].as_str().expect("a value");
                (sample["metric"].clone(), value.parse().expect("a number"))
            })
            .collect()
    }

    /// The value of the first sample of an expression.
    pub(super) async fn first(&self, expression: &str) -> Option<f64> {
        self.query(expression).await.first().map(|(_, value)| *value)
    }

    /// Every alert and its state, once each was evaluated.
    ///
    /// # Panics
    /// When one cannot be evaluated.
    pub(super) async fn alerts(&self, patience: Duration) -> Vec<(String, String)> {
        let rules = eventually_within(patience, "every rule is evaluated", || async {
            let answer = self.client.get("/api/v1/rules").await.json();
            let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
            let rules: Vec<Value> = groups
                .iter()
                .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default())
                .collect();
            let waiting = rules.iter().any(|rule| rule["health"] == "unknown");
            if waiting || rules.is_empty() {
                Err("not yet")
            } else {
                Ok(rules)
            }
        })
        .await;
        let text = |rule: &Value, key: &str| rule[key].as_str().expect("a text").to_owned();
        rules
            .iter()
            .map(|rule| {
                assert_eq!(rule["health"], "ok", "{rule}");
                (text(rule, "name"), text(rule, "state"))
            })
            .collect()
    }
}
