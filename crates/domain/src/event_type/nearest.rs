//! Which of the known names somebody may have meant.

use crate::names::EventType;

/// Most names that are suggested.
const SUGGESTIONS: usize = 3;

/// The names of `known` that are most like `name`, the most similar one first, at most three. A name that differs in more
/// than a third of its length is none of them.
pub fn nearest<'a>(name: &EventType, known: impl IntoIterator<Item = &'a EventType>) -> Vec<&'a EventType> {
    let wanted = name.as_str().as_bytes();
    let mut found: Vec<_> = known
        .into_iter()
        .filter_map(|candidate| {
            let text = candidate.as_str().as_bytes();
            let most = (wanted.len().max(text.len()) / 3).max(1);
            let distance = (wanted.len().abs_diff(text.len()) <= most).then(|| distance(wanted, text))?;
            (distance <= most).then_some((distance, candidate))
        })
        .collect();
    found.sort_unstable();
    found.truncate(SUGGESTIONS);
    found.into_iter().map(|(_, candidate)| candidate).collect()
}

/// How many bytes must be put in, taken out or replaced to make one text of the other; case does not matter.
fn distance(one: &[u8], other: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, a) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (index, b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(!a.eq_ignore_ascii_case(b));
            diagonal = row[index + 1];
            row[index + 1] = replaced.min(diagonal + 1).min(row[index] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(texts: &[&str]) -> Vec<EventType> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_suggested_is_like_the_name_and_the_most_similar_comes_first() {
        let known = names(&[
            "api_key.revoked",
            "budget.exceeded",
            "budget.threshold_reached",
            "routing_config.created",
            "routing_config.updated",
        ]);
        for (name, expected) in [
            ("budget.exceded", &["budget.exceeded"][..]),
            ("Budget.Exceeded", &["budget.exceeded"]),
            (
                "routing_config.create",
                &["routing_config.created", "routing_config.updated"],
            ),
            ("apikey.revoked", &["api_key.revoked"]),
            ("invoice.paid", &[]),
        ] {
            let found: Vec<_> = nearest(&name.parse().unwrap(), &known)
                .into_iter()
                .map(EventType::as_str)
                .collect();
            assert_eq!(found, expected, "{name}");
        }
        let many = names(&["a.b1", "a.b2", "a.b3", "a.b4"]);
        assert_eq!(nearest(&"a.b".parse().unwrap(), &many).len(), 3);
    }

    proptest! {
        #[test]
        fn distance_is_a_metric(a in "[a-c.]{0,12}", b in "[a-c.]{0,12}", c in "[a-c.]{0,12}") {
            let between = |x: &str, y: &str| distance(x.as_bytes(), y.as_bytes());
            prop_assert_eq!(between(&a, &b) == 0, a == b);
            prop_assert_eq!(between(&a, &b), between(&b, &a));
            prop_assert!(between(&a, &c) <= between(&a, &b) + between(&b, &c));
            prop_assert!(between(&a, &b) >= a.len().abs_diff(b.len()));
        }
    }
}
