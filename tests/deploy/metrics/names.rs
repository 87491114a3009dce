//! Names of metrics, wherever they stand.

use std::collections::{BTreeMap, BTreeSet};

/// What is said of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) kind: String,
    pub(super) help: String,
    /// Labels of its series, but for the bounds of buckets.
    pub(super) labels: BTreeSet<String>,
}

/// The metrics of an exposition.
pub(super) fn families(text: &str) -> BTreeMap<String, Described> {
    let mut families: BTreeMap<String, Described> = BTreeMap::new();
    let mut helps = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a text");
            helps.insert(name.to_owned(), help.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            let described = Described {
                kind: kind.to_owned(),
                help: helps
                    .get(name)
                    .unwrap_or_else(|| panic!("{name} is not described"))
                    .clone(),
                labels: BTreeSet::new(),
            };
            families.insert(name.to_owned(), described);
        } else if let Some((series, _)) = line.rsplit_once(' ') {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let family = if families.contains_key(name) {
                name
            } else {
                histogram_of(name).expect("a series of a histogram")
            };
            let of = families.get_mut(family).expect("its type stands before it");
            let names = labels.split("\",").filter_map(|label| label.split_once("=\""));
            of.labels
                .extend(names.map(|(name, _)| name.to_owned()).filter(|name| name != "le"));
        }
    }
    families
}

/// The metrics of the tables of a Markdown document.
pub(super) fn documented(text: &str) -> BTreeMap<String, Described> {
    let mut metrics = BTreeMap::new();
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, help] = cells[..] else {
            panic!("four cells: {row}");
        };
        let quoted = |text: &str| text.trim_matches('`').to_owned();
        let labels = labels.split(", ").filter(|label| !label.is_empty());
        let described = Described {
            kind: kind.to_owned(),
            help: help.to_owned(),
            labels: labels.map(quoted).collect(),
        };
        assert!(
            metrics.insert(quoted(name), described).is_none(),
            "{name} stands there twice"
        );
    }
    metrics
}

/// The histogram that a series may belong to.
pub(super) fn histogram_of(name: &str) -> Option<&str> {
    ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
}

/// The metrics that an expression, or any text, names.
pub(super) fn names_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("webhooks_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}
