//! Which dispatcher should hold which partition: the one whose hash with the partition is the highest.
//!
//! Everybody who knows the same members comes to the same answer, and a member that comes or goes moves only the
//! partitions that it gets or had.

use sha2::{Digest, Sha256};

/// The member that should hold `partition`; `None` without members. Their order does not matter.
pub(super) fn owner<'a>(members: impl IntoIterator<Item = &'a str>, partition: u16) -> Option<&'a str> {
    members.into_iter().max_by_key(|member| {
        Sha256::new()
            .chain_update(member.as_bytes())
            .chain_update(partition.to_be_bytes())
            .finalize()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn owners(members: &BTreeSet<String>, partitions: u16) -> Vec<&str> {
        (0..partitions)
            .filter_map(|partition| owner(members.iter().map(String::as_str), partition))
            .collect()
    }

    fn members(count: std::ops::Range<usize>) -> impl Strategy<Value = BTreeSet<String>> {
        proptest::collection::btree_set("[a-z0-9-]{1,12}", count)
    }

    #[test]
    fn nobody_owns_without_members() {
        assert_eq!(owner([], 3), None);
    }

    #[test]
    fn answers_never_change() {
        let members = ["dispatcher-1", "dispatcher-2", "dispatcher-3"];
        let owners: Vec<_> = (0..8)
            .map(|partition| owner(members, partition).unwrap())
            .collect();
        let expected: Vec<_> = [1, 1, 3, 1, 2, 1, 1, 3].map(|number| members[number - 1]).into();
        assert_eq!(owners, expected);
    }

    proptest! {
        #[test]
        fn one_who_comes_takes_and_one_who_goes_gives(
            members in members(1..8),
            newcomer in "[A-Z]{1,12}",
            partitions in 1u16..=64,
        ) {
            let mut more = members.clone();
            more.insert(newcomer.clone());
            for (before, after) in owners(&members, partitions).into_iter().zip(owners(&more, partitions)) {
                prop_assert!(after == before || after == newcomer);
            }
        }

        #[test]
        fn shares_are_alike(members in members(5..6)) {
            let mut shares: BTreeMap<&str, u32> = BTreeMap::new();
            for owner in owners(&members, 1000) {
                *shares.entry(owner).or_default() += 1;
            }
            // 200 each, six standard deviations (12.6) either way.
            prop_assert!(members.iter().all(|member| (124..=276).contains(&shares[member.as_str()])), "{:?}", shares);
        }
    }
}
