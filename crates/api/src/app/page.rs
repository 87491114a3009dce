//! Pages of what is listed from memory, newest first: ids sort by their time of creation.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Up to `limit` items that are older than the cursor, newest first, and where the next page begins.
pub(super) fn page_of<T, I: Ord + Copy + fmt::Display>(
    mut items: Vec<T>,
    id: impl Fn(&T) -> I,
    cursor: Option<Cursor<I>>,
    limit: usize,
) -> (Vec<T>, Option<String>) {
    items.sort_unstable_by_key(|item| Reverse(id(item)));
    let start = cursor.map_or(0, |cursor| items.partition_point(|item| id(item) >= cursor.0));
    let mut page = items.split_off(start);
    let more = page.len() > limit;
    page.truncate(limit);
    let next = page
        .last()
        .filter(|_| more)
        .map(|last| Cursor(id(last)).to_string());
    (page, next)
}

/// What names the last item of a page. As text it is opaque to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor<I>(pub(super) I);

/// A text is not a cursor that was given out here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a cursor of an earlier page")]
pub(super) struct InvalidCursor;

impl<I: fmt::Display> fmt::Display for Cursor<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0.to_string()))
    }
}

impl<I: FromStr> FromStr for Cursor<I> {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor)?;
        let id = std::str::from_utf8(&bytes).map_err(|_| InvalidCursor)?;
        id.parse().map(Self).map_err(|_| InvalidCursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::endpoint;
    use cuitty_webhooks_domain::ids::EndpointId;
    use cuitty_webhooks_domain::names::EventType;

    fn ids(count: u64) -> Vec<EndpointId> {
        (0..count).map(|seed| endpoint(seed).id).collect()
    }

    fn page(items: &[EndpointId], cursor: Option<String>, limit: usize) -> (Vec<EndpointId>, Option<String>) {
        let cursor = cursor.map(|cursor| cursor.parse().unwrap());
        page_of(items.to_vec(), |&id| id, cursor, limit)
    }

    #[test]
    fn pages_cover_a_list_once_newest_first() {
        let items = ids(7);
        let mut expected = items.clone();
        expected.sort_unstable_by_key(|&id| Reverse(id));
        for limit in 1..=8 {
            let (mut seen, mut cursor) = (Vec::new(), None);
            loop {
                let (found, next) = page(&items, cursor, limit);
                assert!(found.len() <= limit);
                seen.extend(found);
                let Some(next) = next else { break };
                cursor = Some(next);
            }
            assert_eq!(seen, expected, "pages of {limit}");
        }
    }

    #[test]
    fn a_page_goes_on_after_an_item_that_is_gone() {
        let items = ids(3);
        let (first, next) = page(&items, None, 1);
        let left: Vec<_> = items.into_iter().filter(|id| *id != first[0]).collect();
        let (rest, end) = page(&left, next, 5);
        assert_eq!((rest.len(), end), (left.len(), None));
    }

    #[test]
    fn other_cursors_are_refused() {
        let cursor = Cursor(endpoint(1).id);
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for text in ["x", "ep_01h455vb4pex5vsknk084sn02q", "bm90IGFuIGlk", "é"] {
            assert_eq!(text.parse::<Cursor<EndpointId>>(), Err(InvalidCursor), "{text}");
        }
        for text in ["x", "!", "YSBi", "////"] {
            assert_eq!(text.parse::<Cursor<EventType>>(), Err(InvalidCursor), "{text}");
        }
    }
}
