//! Pages of event types.

use std::sync::Arc;

use cuitty_webhooks_log::EventTypeEntry;

use crate::app::page::Cursor;

/// What the schemas and examples of a page may take together, in bytes (1 MiB): gRPC clients take messages of 4 MiB.
const PAGE_BYTES: usize = 1024 * 1024;

/// The first of `entries`, at most `limit` and no more than a message holds, but one at least; and where the next page
/// begins.
pub(super) fn page_of(
    mut entries: Vec<Arc<EventTypeEntry>>,
    limit: usize,
) -> (Vec<Arc<EventTypeEntry>>, Option<String>) {
    let mut bytes = 0;
    let fitting = entries
        .iter()
        .take_while(|entry| {
            bytes += size(entry);
            bytes <= PAGE_BYTES
        })
        .count();
    let taken = fitting.max(1).min(limit);
    let more = entries.len() > taken;
    entries.truncate(taken);
    let last = entries.last().filter(|_| more);
    let next = last.map(|last| Cursor(last.definition.name.clone()).to_string());
    (entries, next)
}

fn size(entry: &EventTypeEntry) -> usize {
    let settings = &entry.definition.settings;
    let len = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    settings.description.len() + len(&settings.schema) + len(&settings.example)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use cuitty_webhooks_domain::event_type::{EventTypeDraft, create};
    use cuitty_webhooks_domain::names::EventType;

    use super::*;

    fn entry(number: usize, example_bytes: usize) -> Arc<EventTypeEntry> {
        let draft = EventTypeDraft {
            example: format!("\"{}\"", "x".repeat(example_bytes - 2)),
            ..EventTypeDraft::default()
        };
        let (project_id, name) = ("acme".parse().unwrap(), format!("t.{number:03}").parse().unwrap());
        let settings = draft.validate().unwrap();
        let created = create(None, project_id, name, settings, DateTime::UNIX_EPOCH);
        EventTypeEntry {
            definition: created.unwrap().1,
            enforced: None,
            sequence: 1,
        }
        .into()
    }

    fn page(example_bytes: usize, count: usize, limit: usize) -> (usize, Option<String>) {
        let entries = (0..count).map(|number| entry(number, example_bytes)).collect();
        let (page, next) = page_of(entries, limit);
        let cursor = next.map(|text| text.parse::<Cursor<EventType>>().unwrap().0.to_string());
        (page.len(), cursor)
    }

    #[test]
    fn pages_are_bounded_by_number_and_by_size() {
        assert_eq!(page(2, 0, 5), (0, None));
        assert_eq!(page(2, 5, 5), (5, None));
        assert_eq!(page(2, 6, 5), (5, Some("t.004".into())));
        assert_eq!(page(64 * 1024, 17, 200), (16, Some("t.015".into())));
        assert_eq!(page(64 * 1024, 16, 200), (16, None));
    }
}
