//! The directory's state: endpoints by id, by project and by the event types they take.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cuitty_webhooks_domain::ids::EndpointId;
use cuitty_webhooks_domain::names::{EventType, EventTypePattern, ProjectId};

use super::Entry;

/// The pattern of an endpoint that takes every event type.
const ALL: &str = "*";

/// Every endpoint ever seen, and which of them take what.
#[derive(Default)]
pub(super) struct Index {
    endpoints: HashMap<EndpointId, Arc<Entry>>,
    /// Never shrinks: a project stays known after its endpoints are deleted.
    projects: HashMap<ProjectId, Project>,
}

/// The endpoints of a project that are not deleted. Ids sort by time of creation.
#[derive(Default)]
struct Project {
    endpoints: BTreeMap<EndpointId, Arc<Entry>>,
    /// By pattern as written, so that matching looks at as many buckets as the type has segments, and two more, however
    /// many endpoints there are. No bucket is empty.
    by_pattern: HashMap<Box<str>, BTreeMap<EndpointId, Arc<Entry>>>,
}

impl Index {
    /// Replaces what is known of the entry's endpoint; whether that is news.
    pub(super) fn apply(&mut self, entry: Entry) -> bool {
        let id = entry.endpoint.id;
        if let Some(previous) = self.endpoints.get(&id) {
            if previous.sequence >= entry.sequence {
                return false;
            }
            let previous = previous.clone();
            if let Some(project) = self.projects.get_mut(&previous.endpoint.project_id) {
                project.remove(&previous);
            }
        }
        let entry = Arc::new(entry);
        let project = self
            .projects
            .entry(entry.endpoint.project_id.clone())
            .or_default();
        if entry.endpoint.deleted_at.is_none() {
            project.insert(&entry);
        }
        self.endpoints.insert(id, entry);
        true
    }

    pub(super) fn get(&self, id: EndpointId) -> Option<Arc<Entry>> {
        self.endpoints.get(&id).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// The project's endpoints, newest first.
    pub(super) fn project(&self, project_id: &ProjectId) -> Option<Vec<Arc<Entry>>> {
        Some(
            self.projects
                .get(project_id)?
                .endpoints
                .values()
                .rev()
                .cloned()
                .collect(),
        )
    }

    /// The project's endpoints that take `event_type`, oldest first.
    pub(super) fn matching(&self, project_id: &ProjectId, event_type: &EventType) -> Option<Vec<Arc<Entry>>> {
        let project = self.projects.get(project_id)?;
        let mut buckets =
            patterns(event_type.as_str()).filter_map(|pattern| project.by_pattern.get(&*pattern));
        let Some(first) = buckets.next() else {
            return Some(Vec::new());
        };
        let mut found: Vec<_> = first.values().cloned().collect();
        let sorted = found.len();
        found.extend(buckets.flat_map(BTreeMap::values).cloned());
        if found.len() > sorted {
            // One endpoint may take the type by several of its patterns.
            found.sort_unstable_by_key(|entry| entry.endpoint.id);
            found.dedup_by_key(|entry| entry.endpoint.id);
        }
        Some(found)
    }
}

impl Project {
    fn insert(&mut self, entry: &Arc<Entry>) {
        self.endpoints.insert(entry.endpoint.id, entry.clone());
        for pattern in patterns_of(entry) {
            self.by_pattern
                .entry(pattern.into())
                .or_default()
                .insert(entry.endpoint.id, entry.clone());
        }
    }

    fn remove(&mut self, entry: &Entry) {
        self.endpoints.remove(&entry.endpoint.id);
        for pattern in patterns_of(entry) {
            if let Some(bucket) = self.by_pattern.get_mut(pattern) {
                bucket.remove(&entry.endpoint.id);
                if bucket.is_empty() {
                    self.by_pattern.remove(pattern);
                }
            }
        }
    }
}

/// The patterns of an endpoint; none means all.
fn patterns_of(entry: &Entry) -> impl Iterator<Item = &str> {
    let written = &entry.endpoint.settings.event_types;
    written
        .iter()
        .map(EventTypePattern::as_str)
        .chain(written.is_empty().then_some(ALL))
}

/// Every pattern that selects `event_type`: its name, `prefix.*` for each of its prefixes, and `*`.
fn patterns(event_type: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let prefixes = event_type
        .match_indices('.')
        .map(|(dot, _)| format!("{}.*", &event_type[..dot]).into());
    [event_type.into()]
        .into_iter()
        .chain(prefixes)
        .chain([ALL.into()])
}

#[cfg(test)]
mod tests {
    use cuitty_webhooks_domain::endpoint::Endpoint;
    use cuitty_webhooks_domain::fan_out::subscribes;
    use proptest::prelude::*;

    use super::*;
    use crate::directory::tests::endpoint;

    fn entry(number: u8, project: &str, patterns: &[String], deleted: bool, sequence: u64) -> Entry {
        let mut endpoint = endpoint(number, project, patterns);
        endpoint.deleted_at = deleted.then_some(endpoint.created_at);
        Entry {
            endpoint,
            sequence,
            partition: 0,
        }
    }

    fn ids(entries: &[Arc<Entry>]) -> Vec<EndpointId> {
        entries.iter().map(|entry| entry.endpoint.id).collect()
    }

    #[test]
    fn a_deleted_endpoint_is_gone_from_lists_but_known_by_id() {
        let mut index = Index::default();
        let project: ProjectId = "acme".parse().unwrap();
        let event_type: EventType = "budget.exceeded".parse().unwrap();
        assert!(index.project(&project).is_none() && index.matching(&project, &event_type).is_none());
        let first = entry(1, "acme", &[], false, 1);
        let id = first.endpoint.id;
        assert!(index.apply(first));
        assert_eq!(ids(&index.matching(&project, &event_type).unwrap()), [id]);
        assert!(index.apply(entry(1, "acme", &[], true, 2)));
        assert_eq!(index.project(&project).map(|entries| entries.len()), Some(0));
        assert_eq!(
            index.matching(&project, &event_type).map(|entries| entries.len()),
            Some(0)
        );
        assert_eq!(index.get(id).map(|entry| entry.sequence), Some(2));
        assert!(
            !index.apply(entry(1, "acme", &[], false, 1)),
            "what is older changes nothing"
        );
        assert_eq!(index.get(id).map(|entry| entry.sequence), Some(2));
    }

    #[test]
    fn lists_are_newest_first() {
        let mut index = Index::default();
        for number in [2, 3, 1] {
            index.apply(entry(number, "acme", &[], false, number.into()));
        }
        let listed = index.project(&"acme".parse().unwrap()).unwrap();
        assert_eq!(
            listed.iter().map(|entry| entry.sequence).collect::<Vec<_>>(),
            [3, 2, 1]
        );
    }

    fn patterns() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec("\\*|[ab](\\.[ab]){0,2}(\\.\\*)?", 0..4)
    }

    proptest! {
        #[test]
        fn matching_is_what_a_scan_with_the_rule_gives(
            changes in proptest::collection::vec((0u8..6, patterns(), any::<bool>()), 0..24),
            names in proptest::collection::vec("[ab](\\.[ab]){0,3}", 1..8),
        ) {
            let mut index = Index::default();
            let mut model: BTreeMap<EndpointId, Endpoint> = BTreeMap::new();
            let project: ProjectId = "acme".parse().unwrap();
            for (sequence, (number, patterns, deleted)) in (1..).zip(changes) {
                let entry = entry(number, "acme", &patterns, deleted, sequence);
                model.insert(entry.endpoint.id, entry.endpoint.clone());
                prop_assert!(index.apply(entry));
            }
            for name in names {
                let event_type: EventType = name.parse().unwrap();
                let expected: Vec<_> =
                    model.values().filter(|endpoint| subscribes(endpoint, &event_type)).map(|endpoint| endpoint.id).collect();
                let found = index.matching(&project, &event_type).unwrap_or_default();
                prop_assert_eq!(ids(&found), expected, "{}", name);
            }
        }
    }
}
