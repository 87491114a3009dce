//! deploy/README.md: its links lead somewhere, and the binary takes its commands.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use harness::workspace;

fn runbook() -> String {
    fs::read_to_string(workspace().join("deploy/README.md")).expect("read")
}

/// The name by which a heading is linked to.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let text = runbook();
    let headings: BTreeSet<_> = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect();
    let links: Vec<_> = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .collect();
    assert!(links.len() > 20);
    for link in links {
        if let Some(name) = link.strip_prefix('#') {
            assert!(headings.contains(name), "{link}");
        } else {
            let path = link.split('#').next().unwrap_or_default();
            assert!(workspace().join("deploy").join(path).exists(), "{link}");
        }
    }
}

/// The words of every command of ours in a fenced block, as far as a shell would hand them to it.
fn commands(text: &str) -> Vec<Vec<String>> {
    let blocks = text.split("```").skip(1).step_by(2);
    let lines = blocks
        .flat_map(str::lines)
        .map(|line| line.trim().trim_start_matches("$ "));
    lines
        .filter_map(|line| {
            let line = line
                .strip_prefix("cuitty-webhooks ")
                .or_else(|| Some(line.split_once("/usr/bin/cuitty-webhooks ")?.1))?;
            let words = line.split('#').next()?.split_whitespace();
            // A quoted value may hold spaces, which nothing here looks at.
            let mut quoted = false;
            let words = words.filter(|word| {
                let inside = quoted;
                quoted ^= word.matches('\'').count() % 2 == 1;
                !inside
            });
            Some(words.map(str::to_owned).collect())
        })
        .collect()
}

#[test]
fn the_binary_takes_every_command() {
    let commands = commands(&runbook());
    assert!(commands.len() >= 8, "{commands:?}");
    for words in commands {
        let ran = Command::new(harness::roles::binary())
            .args(&words)
            .arg("--help")
            .output()
            .expect("run the binary");
        assert!(
            ran.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }
}
