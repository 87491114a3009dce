//! What the schemas do not say, by our own rules: each gives what breaks it.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::install::{Installation, Pod, is_ours};
use super::network;
use crate::yaml::{items, text, texts};

/// What a process takes to end after it has drained or was cut off.
const ENDING: Duration = Duration::from_secs(3);
/// Where everything stands.
const NAMESPACE: &str = "cuitty-webhooks";

/// A rule: its name, and what is wrong by it.
pub(super) type Rule = (&'static str, fn(&Installation) -> Vec<String>);

const RULES: [Rule; 18] = [
    ("namespace", namespace),
    ("image", image),
    ("arguments", arguments),
    ("resources", resources),
    ("probes", probes),
    ("security", security),
    ("account", account),
    ("ports", ports),
    ("grace", grace),
    ("references", references),
    ("selectors", selectors),
    ("disruption", disruption),
    ("spread", spread),
    ("scaling", scaling),
    ("denied", network::denied),
    ("names", network::names),
    ("egress", network::egress),
    ("network ports", network::ports),
];

/// What is wrong by any rule, a line each, the rule's name first.
pub(super) fn problems(installation: &Installation) -> Vec<String> {
    let found = RULES.iter().flat_map(|(name, rule)| {
        let problems = rule(installation).into_iter();
        problems.map(move |problem| format!("{name}: {problem}"))
    });
    found.collect()
}

/// `what` unless it is so.
pub(super) fn unless(met: bool, what: impl FnOnce() -> String) -> Option<String> {
    (!met).then(what)
}

fn each_container(it: &Installation, check: impl Fn(&Pod<'_>, &Value) -> Vec<String>) -> Vec<String> {
    let pods = it.pods();
    let found = pods.iter().flat_map(|pod| {
        pod.containers()
            .flat_map(|container| check(pod, container))
            .map(|problem| format!("{}: {problem}", pod.name))
            .collect::<Vec<_>>()
    });
    found.collect()
}

fn namespace(it: &Installation) -> Vec<String> {
    let stray = it
        .objects
        .iter()
        .filter(|object| object["kind"] != "Namespace" && object["metadata"]["namespace"] != NAMESPACE);
    let mut wrong: Vec<_> = stray
        .map(|object| text(&object["metadata"]["name"]).to_owned())
        .collect();
    let level = it
        .find("Namespace", NAMESPACE)
        .map(|namespace| &namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]);
    wrong.extend(unless(level == Some(&json!("restricted")), || {
        "does not enforce `restricted`".into()
    }));
    wrong
}

fn image(it: &Installation) -> Vec<String> {
    each_container(it, |_, container| {
        let image = text(&container["image"]);
        let tag = image
            .rsplit('/')
            .next()
            .and_then(|name| name.split_once(':'))
            .map(|(_, tag)| tag);
        let fixed = tag.is_some_and(|tag| !tag.is_empty() && tag != "latest");
        Vec::from_iter(unless(fixed, || format!("{image} names no version")))
    })
}

/// The binary takes the arguments, and the file that they name is mounted.
fn arguments(it: &Installation) -> Vec<String> {
    each_container(it, |_, container| {
        let arguments = texts(&container["args"]);
        if !is_ours(container) {
            return Vec::new();
        }
        let help = Command::new(harness::roles::binary())
            .args(&arguments)
            .arg("--help")
            .output()
            .expect("run the binary");
        let file = arguments
            .iter()
            .skip_while(|argument| **argument != "--config")
            .nth(1)
            .copied();
        let mounted = items(&container["volumeMounts"]).any(|mount| mount["mountPath"].as_str() == file);
        let refused = unless(help.status.success(), || {
            format!("the binary does not take {arguments:?}")
        });
        refused
            .into_iter()
            .chain(unless(mounted, || format!("nothing is mounted on {file:?}")))
            .collect()
    })
}

fn resources(it: &Installation) -> Vec<String> {
    each_container(it, |_, container| {
        let wanted = ["requests", "limits"]
            .into_iter()
            .flat_map(|kind| ["cpu", "memory"].map(|what| (kind, what)));
        wanted
            .filter(|(kind, what)| container["resources"][kind][what].is_null())
            .map(|(kind, what)| format!("no {kind} of {what}"))
            .collect()
    })
}

fn probes(it: &Installation) -> Vec<String> {
    each_container(it, |pod, container| {
        let wanted = [
            ("startupProbe", "/livez"),
            ("livenessProbe", "/livez"),
            ("readinessProbe", "/readyz"),
        ];
        let wrong = wanted
            .into_iter()
            .filter(|_| pod.stays())
            .filter_map(|(kind, path)| {
                let asked = &container[kind]["httpGet"];
                let port = items(&container["ports"]).any(|port| port["name"] == asked["port"]);
                let right = if is_ours(container) {
                    asked["path"] == path && asked["port"] == "admin" && port
                } else {
                    asked["path"].is_string() && port || container[kind]["exec"].is_object()
                };
                unless(right, || {
                    format!("{kind} does not ask {path} of a port that is there")
                })
            });
        wrong.collect()
    })
}

fn security(it: &Installation) -> Vec<String> {
    let mut wrong = each_container(it, |_, container| {
        let context = &container["securityContext"];
        let wanted = [
            ("allowPrivilegeEscalation", json!(false)),
            ("readOnlyRootFilesystem", json!(true)),
            ("runAsNonRoot", json!(true)),
            ("capabilities", json!({"drop": ["ALL"]})),
            ("seccompProfile", json!({"type": "RuntimeDefault"})),
        ];
        wanted
            .into_iter()
            .filter(|(key, value)| context[key] != *value)
            .map(|(key, value)| format!("{key} is not {value}"))
            .collect()
    });
    for pod in it.pods() {
        let context = &pod.spec["securityContext"];
        let user = context["runAsUser"].as_u64().unwrap_or(0);
        wrong.extend(unless(user > 0 && context["runAsNonRoot"] == true, || {
            format!("{} runs as root", pod.name)
        }));
        for key in ["hostNetwork", "hostPID", "hostIPC"] {
            wrong.extend(unless(pod.spec[key].is_null(), || format!("{}: {key}", pod.name)));
        }
        wrong.extend(
            items(&pod.spec["volumes"])
                .filter(|volume| volume["hostPath"].is_object())
                .map(|_| format!("{}: hostPath", pod.name)),
        );
    }
    wrong
}

fn account(it: &Installation) -> Vec<String> {
    let tokens = it.pods().into_iter().filter_map(|pod| {
        let name = text(&pod.spec["serviceAccountName"]);
        let found = it
            .find("ServiceAccount", name)
            .is_some_and(|account| account["automountServiceAccountToken"] == false);
        unless(found && pod.spec["automountServiceAccountToken"] == false, || {
            format!("{} has a token or no account", pod.name)
        })
    });
    tokens.collect()
}

/// The ports of our containers are those that the configuration listens on, and Services lead to ports that are there.
fn ports(it: &Installation) -> Vec<String> {
    let listen = it.config().listen;
    let mut wrong = each_container(it, |pod, container| {
        if !is_ours(container) || !pod.stays() {
            return Vec::new();
        }
        let mut wanted = vec![("admin", listen.admin)];
        if container["name"] == "api" {
            wanted.push(("api", listen.api));
        }
        let port = |name: &str| {
            items(&container["ports"])
                .find(|port| port["name"] == name)
                .map(|port| port["containerPort"].clone())
        };
        wanted
            .into_iter()
            .filter(|(name, address)| port(name) != Some(address.port().into()) || address.ip().is_loopback())
            .map(|(name, address)| format!("port {name} is not that of {address}, or nobody can reach it"))
            .collect()
    });
    for service in it.of_kind("Service") {
        let pods = it.pods();
        let selected: Vec<_> = pods
            .iter()
            .filter(|pod| network::selects(&json!({"matchLabels": service["spec"]["selector"]}), pod.labels))
            .collect();
        let name = text(&service["metadata"]["name"]);
        wrong.extend(unless(!selected.is_empty(), || {
            format!("Service {name} selects nothing")
        }));
        for port in items(&service["spec"]["ports"]) {
            let there = selected.iter().all(|pod| {
                pod.containers()
                    .flat_map(|container| items(&container["ports"]))
                    .any(|it| it["name"] == port["targetPort"] && it["containerPort"] == port["port"])
            });
            wrong.extend(unless(there, || format!("Service {name}: no such port: {port}")));
        }
    }
    wrong
}

/// Nobody is killed while it drains.
fn grace(it: &Installation) -> Vec<String> {
    let config = it.config().shutdown;
    let needed = config.delay + config.timeout + ENDING;
    let short = it
        .pods()
        .into_iter()
        .filter(|pod| pod.is_ours() && pod.stays())
        .filter_map(|pod| {
            let grace = pod.spec["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
            unless(Duration::from_secs(grace) > needed, || {
                format!("{}: {grace} s, and draining takes {needed:?}", pod.name)
            })
        });
    let unready = unless(config.delay >= Duration::from_secs(5), || {
        "shutdown.delay is too short for endpoints to be removed".into()
    });
    short.chain(unready).collect()
}

/// What is named of `ConfigMap`s and `Secret`s is there.
fn references(it: &Installation) -> Vec<String> {
    let mut wrong = Vec::new();
    for pod in it.pods() {
        for volume in items(&pod.spec["volumes"]) {
            let parts = items(&volume["projected"]["sources"]).chain([volume]);
            let named = parts.filter(|part| part["configMap"].is_object() || part["secret"].is_object());
            wrong.extend(
                named
                    .filter(|part| it.source(part).is_none())
                    .map(|part| format!("{}: there is no {part}", pod.name)),
            );
        }
        for container in pod.containers() {
            let volumes: BTreeSet<_> = items(&pod.spec["volumes"])
                .chain(items(&pod.workload["spec"]["volumeClaimTemplates"]).map(|claim| &claim["metadata"]))
                .map(|volume| text(&volume["name"]))
                .collect();
            wrong.extend(
                items(&container["volumeMounts"])
                    .filter(|mount| !volumes.contains(text(&mount["name"])))
                    .map(|mount| format!("{}: {mount} is of no volume", pod.name)),
            );
            let whole = items(&container["envFrom"]).map(|from| (&from["secretRef"]["name"], None));
            let keys = items(&container["env"])
                .map(|variable| &variable["valueFrom"]["secretKeyRef"])
                .filter(|key| key.is_object());
            for (name, key) in whole.chain(keys.map(|key| (&key["name"], Some(text(&key["key"]))))) {
                let there = it
                    .secrets
                    .get(text(name))
                    .is_some_and(|keys| key.is_none_or(|key| keys.contains_key(key)));
                wrong.extend(unless(there, || {
                    format!("{}: there is no Secret {name} with {key:?}", pod.name)
                }));
            }
        }
    }
    wrong
}

/// Workloads, budgets and policies select pods that exist, and workloads their own.
fn selectors(it: &Installation) -> Vec<String> {
    let pods = it.pods();
    let own = pods.iter().filter(|pod| pod.stays()).filter_map(|pod| {
        unless(
            network::selects(&pod.workload["spec"]["selector"], pod.labels),
            || format!("{} does not select its own pods", pod.name),
        )
    });
    let mut wrong: Vec<_> = own.collect();
    for (kind, key) in [
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
    ] {
        for object in it.of_kind(kind) {
            let met = pods
                .iter()
                .any(|pod| network::selects(&object["spec"][key], pod.labels));
            wrong.extend(unless(met, || {
                format!("{kind} {} selects nothing", object["metadata"]["name"])
            }));
        }
    }
    wrong
}

/// Whatever stays has a budget that lets one pod go at a time, so that a node can be drained.
fn disruption(it: &Installation) -> Vec<String> {
    let kept = it
        .pods()
        .into_iter()
        .filter(|pod| pod.stays() && pod.name != "StatefulSet postgres")
        .filter_map(|pod| {
            let budgets: Vec<_> = it
                .of_kind("PodDisruptionBudget")
                .filter(|budget| network::selects(&budget["spec"]["selector"], pod.labels))
                .collect();
            let right = matches!(budgets[..], [budget] if budget["spec"]["maxUnavailable"] == 1);
            unless(right, || format!("{} has no budget, or several", pod.name))
        });
    kept.collect()
}

/// The pods of a role are not all on one machine, and three nats-servers never two.
fn spread(it: &Installation) -> Vec<String> {
    let mut wrong = Vec::new();
    for pod in it.pods().iter().filter(|pod| pod.stays()) {
        let over = items(&pod.spec["topologySpreadConstraints"])
            .filter(|it| network::selects(&it["labelSelector"], pod.labels))
            .any(|it| it["topologyKey"] == "kubernetes.io/hostname");
        wrong.extend(unless(!pod.is_ours() || over, || {
            format!("{} may all be on one machine", pod.name)
        }));
        let terms =
            &pod.spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        let apart = items(terms).any(|term| {
            term["topologyKey"] == "kubernetes.io/hostname"
                && network::selects(&term["labelSelector"], pod.labels)
        });
        let several = pod.workload["spec"]["replicas"].as_u64() > Some(1);
        wrong.extend(unless(pod.is_ours() || !several || apart, || {
            format!("{}: two may be on one machine", pod.name)
        }));
    }
    wrong
}

/// What scales names a workload that is there, and no more of it than there is work for. KEDA's objects have no schema here.
fn scaling(it: &Installation) -> Vec<String> {
    let mut wrong = Vec::new();
    let partitions = it.config().log.partitions;
    for scaler in it
        .of_kind("ScaledObject")
        .chain(it.of_kind("HorizontalPodAutoscaler"))
    {
        let spec = &scaler["spec"];
        let target = &spec["scaleTargetRef"];
        wrong.extend(unless(
            it.find(text(&target["kind"]), text(&target["name"])).is_some(),
            || format!("there is no {target}"),
        ));
        let (least, most) = if scaler["kind"] == "ScaledObject" {
            ("minReplicaCount", "maxReplicaCount")
        } else {
            ("minReplicas", "maxReplicas")
        };
        wrong.extend(unless(
            spec[most] == partitions && spec[least].as_u64() >= Some(2),
            || format!("{} to {} for {partitions} partitions", spec[least], spec[most]),
        ));
        if scaler["kind"] == "ScaledObject" {
            wrong.extend(scaled_object(it, spec));
        }
    }
    wrong
}

/// The triggers of KEDA's nats-jetstream scaler: one for the consumer of each partition, summed.
fn scaled_object(it: &Installation, spec: &Value) -> Vec<String> {
    const KEYS: [&str; 8] = [
        "scaleTargetRef",
        "pollingInterval",
        "cooldownPeriod",
        "minReplicaCount",
        "maxReplicaCount",
        "fallback",
        "advanced",
        "triggers",
    ];
    const METADATA: [&str; 7] = [
        "natsServerMonitoringEndpoint",
        "account",
        "stream",
        "consumer",
        "lagThreshold",
        "activationLagThreshold",
        "useHttps",
    ];
    let keys = |value: &Value| {
        value
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, _)| key.clone())
            .collect::<Vec<_>>()
    };
    let mut wrong: Vec<_> = keys(spec)
        .into_iter()
        .filter(|key| !KEYS.contains(&key.as_str()))
        .map(|key| format!("there is no {key}"))
        .collect();
    let account = it
        .of_kind("ConfigMap")
        .find_map(|map| map["data"]["accounts.conf"].as_str())
        .unwrap_or_default();
    let (mut consumers, mut names) = (BTreeSet::new(), Vec::new());
    for trigger in items(&spec["triggers"]) {
        let metadata = &trigger["metadata"];
        wrong.extend(
            keys(metadata)
                .into_iter()
                .filter(|key| !METADATA.contains(&key.as_str()))
                .map(|key| format!("triggers have no {key}")),
        );
        let numbers = ["lagThreshold"]
            .iter()
            .all(|key| text(&metadata[key]).parse::<u32>().is_ok());
        let host = text(&metadata["natsServerMonitoringEndpoint"]);
        let right = trigger["type"] == "nats-jetstream"
            && metadata["stream"] == "WEBHOOKS"
            && numbers
            && host == "nats.cuitty-webhooks.svc.cluster.local:8222"
            && account.lines().any(|line| {
                line.trim_start()
                    .starts_with(&format!("{} {{", text(&metadata["account"])))
            });
        wrong.extend(unless(right, || format!("not a trigger: {trigger}")));
        consumers.insert(text(&metadata["consumer"]).to_owned());
        names.push(text(&trigger["name"]));
    }
    wrong.extend(unless(consumers == it.consumers(), || {
        format!("consumers: {consumers:?}")
    }));
    let modifiers = &spec["advanced"]["scalingModifiers"];
    let sum = modifiers["formula"] == names.join(" + ")
        && modifiers["metricType"] == "AverageValue"
        && text(&modifiers["target"]).parse::<u32>().is_ok();
    wrong.extend(unless(sum, || {
        format!("not the sum of the triggers: {modifiers}")
    }));
    wrong
}
