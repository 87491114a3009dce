//! Who may use whom among our crates. `deny.toml` says it to cargo-deny; this says it to `cargo test`, with the graph that
//! cargo itself resolves, so that neither can be loosened alone.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

const PREFIX: &str = "cuitty-webhooks-";

/// Normal and build dependencies among our crates, and nothing else.
const EDGES: [(&str, &[&str]); 10] = [
    ("proto", &[]),
    ("domain", &[]),
    ("log", &["domain", "proto"]),
    ("history", &["domain"]),
    ("dispatcher", &["domain", "log"]),
    ("projector", &["domain", "history", "log"]),
    ("api", &["domain", "history", "log", "proto"]),
    ("client", &["domain", "proto"]),
    (
        "server",
        &[
            "api",
            "client",
            "dispatcher",
            "domain",
            "history",
            "log",
            "projector",
            "proto",
        ],
    ),
    (
        "tests",
        &["client", "domain", "history", "log", "proto", "server"],
    ),
];

/// Crates that only these of ours may use.
const RESERVED: [(&str, &[&str]); 2] = [
    ("async-nats", &["client", "log", "tests"]),
    ("sqlx", &["history", "tests"]),
];

#[test]
fn only_the_allowed_edges_exist() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"]
            .as_str()
            .unwrap()
            .strip_prefix(PREFIX)
            .expect("our crates share a prefix");
        let dependencies = package["dependencies"].as_array().unwrap();
        let names = dependencies
            .iter()
            .map(|dependency| dependency["name"].as_str().unwrap().to_owned());
        used.insert(name.to_owned(), names.collect());
    }
    assert_eq!(
        used.len(),
        EDGES.len(),
        "a crate is missing from the table: {:?}",
        used.keys()
    );
    for (name, allowed) in EDGES {
        let ours = used[name]
            .iter()
            .filter_map(|dependency| dependency.strip_prefix(PREFIX));
        let extra: Vec<_> = ours.filter(|dependency| !allowed.contains(dependency)).collect();
        assert!(extra.is_empty(), "{name} must not use {extra:?}");
    }
    for (reserved, allowed) in RESERVED {
        let users = used
            .iter()
            .filter(|(_, dependencies)| dependencies.contains(reserved));
        let extra: Vec<_> = users
            .map(|(name, _)| name)
            .filter(|name| !allowed.contains(&name.as_str()))
            .collect();
        assert!(extra.is_empty(), "{reserved} must not be used by {extra:?}");
    }
}
