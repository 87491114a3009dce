//! The Kubernetes overlays: every object satisfies its schema and our own rules, and the binary takes what stands in them.

mod broken;
mod install;
mod network;
mod rules;

use std::path::PathBuf;
use std::process::Command;

use tempfile::NamedTempFile;

pub(crate) use self::install::{DATABASE, Installation, is_ours, moved};
use crate::yaml;

const OVERLAYS: [&str; 3] = ["dev", "prod", "prod-hpa"];

fn k8s() -> PathBuf {
    harness::workspace().join("deploy/k8s")
}

/// An overlay as `kubectl kustomize` makes it.
fn rendered(overlay: &str) -> NamedTempFile {
    let made = Command::new("kubectl")
        .args(["kustomize", "--"])
        .arg(k8s().join("overlays").join(overlay))
        .output()
        .expect("run kubectl: `make deploy-check` installs it");
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{overlay}: {said}");
    let file = tempfile::Builder::new()
        .suffix(".yaml")
        .tempfile()
        .expect("a file");
    std::fs::write(file.path(), made.stdout).expect("write");
    file
}

/// An overlay's objects with the Secrets that it needs.
pub(crate) async fn installation(overlay: &str) -> Installation {
    Installation::new(yaml::documents(rendered(overlay).path()).await, overlay).await
}

#[tokio::test]
async fn every_object_satisfies_the_schemas_of_kubernetes() {
    for overlay in OVERLAYS {
        let objects = yaml::objects(rendered(overlay).path()).await;
        assert!(objects.len() > 20, "{overlay}");
    }
    for script in [install::secrets("dev"), install::secrets("prod")] {
        assert_eq!(yaml::objects(script.path()).await.len(), 4);
    }
}

#[tokio::test]
async fn an_object_that_the_schemas_do_not_know_is_refused() {
    let file = rendered("dev");
    let text = std::fs::read_to_string(file.path()).expect("read");
    for (from, to) in [
        ("maxUnavailable: 1", "maxUnavailble: 1"),
        ("periodSeconds: 1\n", "periodSeconds: often\n"),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(file.path(), text.replacen(from, to, 1)).expect("write");
        assert!(!yaml::is_valid(file.path()), "{to}");
    }
}

#[tokio::test]
async fn every_overlay_satisfies_our_rules() {
    for overlay in OVERLAYS {
        let installation = installation(overlay).await;
        assert_eq!(rules::problems(&installation), [""; 0], "{overlay}");
    }
}

#[tokio::test]
async fn the_binary_takes_every_configuration_with_the_files_and_the_environment_of_its_pod() {
    for overlay in OVERLAYS {
        let installation = installation(overlay).await;
        let checked = installation.config_checks();
        let roles: Vec<_> = checked.iter().map(|(role, _)| role.as_str()).collect();
        assert_eq!(
            roles,
            ["api", "dispatcher", "ingest", "projector", "topology"],
            "{overlay}"
        );
        for (role, said) in &checked {
            let said = said
                .as_ref()
                .unwrap_or_else(|said| panic!("{overlay}: {role}: {said}"));
            assert!(
                said.ends_with("the configuration is valid"),
                "{overlay}: {role}: {said}"
            );
            // A single nats-server without TLS is warned of, and is what the small cluster is. The Job has no role, and so is
            // asked about all of them.
            let warns = said.contains("warning: ");
            assert!(
                role == "topology" || warns == (overlay == "dev"),
                "{overlay}: {role}: {said}"
            );
        }
    }
}

#[tokio::test]
async fn nats_server_takes_its_configuration() {
    for overlay in OVERLAYS {
        let installation = installation(overlay).await;
        assert_eq!(installation.nats_check(), Ok(()), "{overlay}");
    }
}

#[tokio::test]
async fn each_rule_refuses_a_copy_that_breaks_it() {
    let prod = installation("prod").await;
    let hpa = installation("prod-hpa").await;
    for (rule, break_it) in broken::copies() {
        let mut refused = false;
        for whole in [&prod, &hpa] {
            let mut copy = whole.clone();
            break_it(&mut copy.objects);
            if copy.objects == whole.objects {
                continue;
            }
            let problems = rules::problems(&copy);
            assert!(
                problems
                    .iter()
                    .any(|problem| problem.starts_with(&format!("{rule}: "))),
                "{rule}: {problems:?}"
            );
            refused = true;
        }
        assert!(refused, "{rule}: nothing was broken");
    }
}

#[tokio::test]
async fn a_configuration_that_does_not_fit_the_binary_is_refused() {
    let whole = installation("prod").await;
    for (expected, break_it) in broken::configurations() {
        let mut copy = whole.clone();
        break_it(&mut copy.objects);
        let refusals: Vec<_> = copy
            .config_checks()
            .into_iter()
            .filter_map(|(_, said)| said.err())
            .collect();
        assert!(
            refusals.iter().any(|refusal| refusal.contains(expected)),
            "{expected}: {refusals:?}"
        );
    }
}
