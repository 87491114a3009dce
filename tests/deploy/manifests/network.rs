//! The rules of the network policies.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::install::{Installation, Pod};
use super::rules::unless;
use crate::yaml::{items, text, texts};

/// What a dispatcher must not be able to reach, whatever the cluster calls its own.
const PRIVATE: [&str; 6] = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
];

/// Whether a label selector takes these labels.
pub(super) fn selects(selector: &Value, labels: &Value) -> bool {
    let by_labels = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, value)| labels[key] == *value);
    let by_expressions = items(&selector["matchExpressions"]).all(|it| {
        let listed = texts(&it["values"]).contains(&text(&labels[text(&it["key"])]));
        match text(&it["operator"]) {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    });
    selector.is_object() && by_labels && by_expressions
}

/// What is not allowed is denied, both ways and for every pod.
pub(super) fn denied(it: &Installation) -> Vec<String> {
    let denied = it.of_kind("NetworkPolicy").any(|policy| {
        let spec = &policy["spec"];
        spec["podSelector"] == json!({})
            && texts(&spec["policyTypes"]) == ["Ingress", "Egress"]
            && spec["ingress"].is_null()
            && spec["egress"].is_null()
    });
    Vec::from_iter(unless(denied, || {
        "there is no policy that denies everything".into()
    }))
}

/// Every pod may ask for names: kube-dns of kube-system, whatever labels ours have.
pub(super) fn names(it: &Installation) -> Vec<String> {
    let peer = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    });
    let allowed = it.of_kind("NetworkPolicy").any(|policy| {
        let rules = items(&policy["spec"]["egress"]);
        policy["spec"]["podSelector"] == json!({})
            && rules.flat_map(|rule| items(&rule["to"])).any(|to| *to == peer)
    });
    Vec::from_iter(unless(allowed, || "nobody can ask kube-dns".into()))
}

/// A dispatcher reaches the world, but nothing private but the log.
pub(super) fn egress(it: &Installation) -> Vec<String> {
    let labels = it
        .find("Deployment", "dispatcher")
        .map(|it| it["spec"]["template"]["metadata"]["labels"].clone())
        .unwrap_or_default();
    let mut world = false;
    let mut wrong = Vec::new();
    for policy in it
        .of_kind("NetworkPolicy")
        .filter(|policy| selects(&policy["spec"]["podSelector"], &labels))
    {
        for block in items(&policy["spec"]["egress"])
            .flat_map(|rule| items(&rule["to"]))
            .map(|to| &to["ipBlock"])
            .filter(|block| block.is_object())
        {
            match text(&block["cidr"]) {
                "0.0.0.0/0" => {
                    world = true;
                    let shut: BTreeSet<_> = texts(&block["except"]).into_iter().collect();
                    wrong.extend(
                        PRIVATE
                            .iter()
                            .filter(|range| !shut.contains(*range))
                            .map(|range| format!("{range} can be reached")),
                    );
                }
                // Global unicast only: unique local and link-local addresses lie outside.
                "2000::/3" => {}
                cidr => wrong.push(format!("{cidr} can be reached")),
            }
        }
    }
    wrong.extend(unless(world, || "the world cannot be reached".into()));
    wrong
}

/// Ports of policies are ports of the pods that they lead to, and what listens can be reached.
pub(super) fn ports(it: &Installation) -> Vec<String> {
    let pods = it.pods();
    let listens = |selector: &Value, port: &Value| {
        pods.iter()
            .filter(|pod| selects(selector, pod.labels))
            .flat_map(Pod::containers)
            .flat_map(|container| items(&container["ports"]))
            .any(|it| it["containerPort"] == *port)
    };
    let mut wrong = Vec::new();
    for policy in it.of_kind("NetworkPolicy") {
        let (name, spec) = (&policy["metadata"]["name"], &policy["spec"]);
        for port in items(&spec["ingress"]).flat_map(|rule| items(&rule["ports"])) {
            wrong.extend(unless(listens(&spec["podSelector"], &port["port"]), || {
                format!("{name}: nobody listens on {}", port["port"])
            }));
        }
        for rule in items(&spec["egress"]) {
            for to in items(&rule["to"])
                .filter(|to| to["namespaceSelector"].is_null() && to["podSelector"].is_object())
            {
                for port in items(&rule["ports"]) {
                    wrong.extend(unless(listens(&to["podSelector"], &port["port"]), || {
                        format!("{name}: nobody listens on {}", port["port"])
                    }));
                }
            }
        }
    }
    for pod in &pods {
        for port in pod.containers().flat_map(|container| items(&container["ports"])) {
            let reached = it
                .of_kind("NetworkPolicy")
                .filter(|policy| selects(&policy["spec"]["podSelector"], pod.labels))
                .flat_map(|policy| items(&policy["spec"]["ingress"]))
                .flat_map(|rule| items(&rule["ports"]))
                .any(|it| it["port"] == port["containerPort"]);
            wrong.extend(unless(reached, || {
                format!("{}: no policy lets anybody to {port}", pod.name)
            }));
        }
    }
    wrong
}
