//! Copies of an overlay that are broken in one place, for each rule at least one: the rules must be able to fail.

use serde_json::{Value, json};

/// Breaks one object of a list, if it is there.
pub(super) type Break = Box<dyn Fn(&mut Vec<Value>)>;

/// A rule, and what it must refuse.
#[expect(clippy::too_many_lines, reason = "it is a table")]
pub(super) fn copies() -> Vec<(&'static str, Break)> {
    vec![
        (
            "namespace",
            set("Deployment", "api", "/metadata/namespace", json!("default")),
        ),
        (
            "namespace",
            set("Namespace", "cuitty-webhooks", "/metadata/labels", json!({})),
        ),
        (
            "image",
            container(
                "Deployment",
                "api",
                "/image",
                json!("ghcr.io/cuitty/webhooks:latest"),
            ),
        ),
        (
            "image",
            container("StatefulSet", "nats", "/image", json!("localhost:5000/nats")),
        ),
        (
            "arguments",
            container("Deployment", "ingest", "/args/0", json!("inject")),
        ),
        (
            "arguments",
            container("Job", "topology", "/args/3", json!("/etc/webhooks.toml")),
        ),
        (
            "resources",
            container(
                "Deployment",
                "dispatcher",
                "/resources/limits/memory",
                Value::Null,
            ),
        ),
        (
            "resources",
            container("StatefulSet", "nats", "/resources/requests", Value::Null),
        ),
        (
            "probes",
            container(
                "Deployment",
                "api",
                "/readinessProbe/httpGet/path",
                json!("/livez"),
            ),
        ),
        (
            "probes",
            container(
                "Deployment",
                "api",
                "/livenessProbe/httpGet/path",
                json!("/readyz"),
            ),
        ),
        (
            "probes",
            container("Deployment", "projector", "/startupProbe", Value::Null),
        ),
        (
            "probes",
            container(
                "StatefulSet",
                "nats",
                "/readinessProbe/httpGet/port",
                json!("metrics"),
            ),
        ),
        (
            "security",
            container(
                "Deployment",
                "api",
                "/securityContext/readOnlyRootFilesystem",
                json!(false),
            ),
        ),
        (
            "security",
            container(
                "StatefulSet",
                "nats",
                "/securityContext/capabilities",
                Value::Null,
            ),
        ),
        (
            "security",
            pod("Deployment", "ingest", "/securityContext/runAsUser", json!(0)),
        ),
        (
            "security",
            pod(
                "Deployment",
                "ingest",
                "/volumes/0",
                json!({"name": "config", "hostPath": {"path": "/"}}),
            ),
        ),
        (
            "account",
            pod("Deployment", "api", "/automountServiceAccountToken", json!(true)),
        ),
        ("account", remove("ServiceAccount", "projector")),
        (
            "ports",
            container("Deployment", "dispatcher", "/ports/0/containerPort", json!(9090)),
        ),
        (
            "ports",
            set("Service", "api", "/spec/ports/0/targetPort", json!("grpc")),
        ),
        (
            "ports",
            set(
                "Service",
                "api",
                "/spec/selector",
                json!({"app.kubernetes.io/name": "server"}),
            ),
        ),
        ("ports", configure("0.0.0.0:7710", "127.0.0.1:7710")),
        (
            "grace",
            pod(
                "Deployment",
                "dispatcher",
                "/terminationGracePeriodSeconds",
                json!(43),
            ),
        ),
        (
            "grace",
            pod("Deployment", "api", "/terminationGracePeriodSeconds", Value::Null),
        ),
        ("grace", configure("delay = \"5s\"", "delay = \"0s\"")),
        (
            "references",
            rename(
                "Deployment",
                "api",
                r#""configMap":{"name":""#,
                r#""configMap":{"name":"x-"#,
            ),
        ),
        (
            "references",
            container(
                "StatefulSet",
                "nats",
                "/envFrom/0/secretRef/name",
                json!("passwords"),
            ),
        ),
        (
            "references",
            rename("Deployment", "projector", "projector-url", "projector"),
        ),
        (
            "references",
            container(
                "Deployment",
                "api",
                "/volumeMounts/0/name",
                json!("configuration"),
            ),
        ),
        (
            "selectors",
            set(
                "Deployment",
                "api",
                "/spec/template/metadata/labels",
                json!({"app": "api"}),
            ),
        ),
        (
            "selectors",
            set(
                "PodDisruptionBudget",
                "api",
                "/spec/selector/matchLabels",
                json!({"app": "api"}),
            ),
        ),
        (
            "selectors",
            set(
                "NetworkPolicy",
                "dispatcher",
                "/spec/podSelector/matchLabels",
                json!({"app": "d"}),
            ),
        ),
        ("disruption", remove("PodDisruptionBudget", "dispatcher")),
        (
            "disruption",
            set("PodDisruptionBudget", "nats", "/spec/maxUnavailable", json!(2)),
        ),
        (
            "spread",
            pod("Deployment", "api", "/topologySpreadConstraints", Value::Null),
        ),
        ("spread", pod("StatefulSet", "nats", "/affinity", Value::Null)),
        (
            "scaling",
            set(
                "ScaledObject",
                "dispatcher",
                "/spec/scaleTargetRef/name",
                json!("dispatchers"),
            ),
        ),
        (
            "scaling",
            set("ScaledObject", "dispatcher", "/spec/maxReplicaCount", json!(32)),
        ),
        (
            "scaling",
            set(
                "ScaledObject",
                "dispatcher",
                "/spec/triggers/3/metadata/consumer",
                json!("dispatch-16"),
            ),
        ),
        (
            "scaling",
            set(
                "ScaledObject",
                "dispatcher",
                "/spec/triggers/3/metadata/account",
                json!("$G"),
            ),
        ),
        (
            "scaling",
            set("ScaledObject", "dispatcher", "/spec/triggers/3/name", json!("p2")),
        ),
        (
            "scaling",
            set("ScaledObject", "dispatcher", "/spec/minReplicas", json!(2)),
        ),
        (
            "scaling",
            set(
                "HorizontalPodAutoscaler",
                "dispatcher",
                "/spec/scaleTargetRef/kind",
                json!("StatefulSet"),
            ),
        ),
        (
            "scaling",
            set(
                "HorizontalPodAutoscaler",
                "dispatcher",
                "/spec/maxReplicas",
                json!(100),
            ),
        ),
        ("denied", remove("NetworkPolicy", "default-deny")),
        (
            "denied",
            set(
                "NetworkPolicy",
                "default-deny",
                "/spec/policyTypes",
                json!(["Ingress"]),
            ),
        ),
        ("names", remove("NetworkPolicy", "names")),
        ("names", rename("NetworkPolicy", "names", "kube-dns", "coredns")),
        (
            "egress",
            rename("NetworkPolicy", "dispatcher", "10.0.0.0/8", "11.0.0.0/8"),
        ),
        (
            "egress",
            rename("NetworkPolicy", "dispatcher", "2000::/3", "::/0"),
        ),
        ("egress", remove("NetworkPolicy", "dispatcher")),
        (
            "network ports",
            set(
                "NetworkPolicy",
                "api",
                "/spec/ingress/0/ports/0/port",
                json!(8080),
            ),
        ),
        (
            "network ports",
            set(
                "NetworkPolicy",
                "roles",
                "/spec/egress/0/ports/0/port",
                json!(4223),
            ),
        ),
        ("network ports", remove("NetworkPolicy", "nats-cluster")),
    ]
}

/// What the binary says of a configuration, and what it must say so of.
pub(super) fn configurations() -> Vec<(&'static str, Break)> {
    vec![
        ("there is no such key", configure("partitions", "partition")),
        ("log.replicas", configure("replicas = 3", "replicas = 2")),
        (
            "shutdown.timeout",
            configure("timeout = \"35s\"", "timeout = \"3s\""),
        ),
        ("listen.api", configure("0.0.0.0:7710", "0.0.0.0")),
        (
            "there is no such key",
            container(
                "Deployment",
                "api",
                "/env/0/name",
                json!("CUITTY_WEBHOOKS__LOG__URLS_FILE"),
            ),
        ),
        (
            "sealing.keys",
            rename("Deployment", "dispatcher", "SEALING__KEYS_FILE", "X"),
        ),
        (
            "cannot read",
            rename(
                "Deployment",
                "projector",
                "secrets/history-url",
                "secrets/history",
            ),
        ),
        (
            "api.tls",
            rename("Deployment", "api", "tls/api/tls.key", "tls/api/key.pem"),
        ),
    ]
}

/// Puts `value` where the pointer leads, also where nothing is yet.
fn set(kind: &'static str, name: &'static str, pointer: impl Into<String>, value: Value) -> Break {
    let pointer = pointer.into();
    Box::new(move |all| {
        let (parent_path, key) = pointer.rsplit_once('/').expect("a pointer");
        for object in of(all, kind, name) {
            let parent = object
                .pointer_mut(parent_path)
                .unwrap_or_else(|| panic!("{kind} {name} has no {parent_path}"));
            match key.parse::<usize>() {
                Ok(index) => parent[index] = value.clone(),
                Err(_) => parent[key] = value.clone(),
            }
        }
    })
}

fn pod(kind: &'static str, name: &'static str, pointer: &str, value: Value) -> Break {
    set(kind, name, format!("/spec/template/spec{pointer}"), value)
}

fn container(kind: &'static str, name: &'static str, pointer: &str, value: Value) -> Break {
    pod(kind, name, &format!("/containers/0{pointer}"), value)
}

fn remove(kind: &'static str, name: &'static str) -> Break {
    Box::new(move |all| all.retain(|object| object["kind"] != kind || object["metadata"]["name"] != name))
}

/// Replaces a text wherever it stands in an object.
fn rename(kind: &'static str, name: &'static str, from: &'static str, to: &'static str) -> Break {
    Box::new(move |all| {
        for object in of(all, kind, name) {
            let text = object.to_string();
            assert!(text.contains(from), "{from}");
            *object = serde_json::from_str(&text.replace(from, to)).expect("JSON");
        }
    })
}

/// Replaces a text in the configuration of the roles.
fn configure(from: &'static str, to: &'static str) -> Break {
    Box::new(move |all| {
        for object in all {
            if let Some(config) = object["data"]["config.toml"].as_str() {
                assert!(config.contains(from), "{from}");
                object["data"]["config.toml"] = config.replace(from, to).into();
            }
        }
    })
}

fn of<'a>(all: &'a mut [Value], kind: &'a str, name: &'a str) -> impl Iterator<Item = &'a mut Value> {
    all.iter_mut()
        .filter(move |object| object["kind"] == kind && object["metadata"]["name"] == name)
}
