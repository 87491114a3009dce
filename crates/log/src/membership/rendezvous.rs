//! Which dispatcher should hold which partition, by rendezvous hashing with equal shares.
//!
//! Every pair of a partition and a member has a hash. Pairs are made by falling hash, as long as the partition has no owner
//! and the member has not got its share: so many that nobody has two more than another. Everybody who knows the same members
//! comes to the same answer, and when a member comes or goes, most of what it does not get or had stays where it is.
//!
//! While members of two versions run that come to other answers, some partitions are nobody's. So the answers never change.

use std::cmp::Reverse;

use sha2::{Digest, Sha256};

/// For each of the partitions from 0 on, the member that should hold it; none without members. Their order does not matter.
pub(super) fn owners<'a>(members: impl IntoIterator<Item = &'a str>, partitions: u16) -> Vec<&'a str> {
    let members: Vec<&str> = members.into_iter().collect();
    if members.is_empty() {
        return Vec::new();
    }
    let mut pairs: Vec<_> = (0..partitions)
        .flat_map(|partition| (0..members.len()).map(move |member| (partition, member)))
        .collect();
    pairs.sort_by_cached_key(|&(partition, member)| Reverse(hash(members[member], partition)));

    let share = usize::from(partitions) / members.len();
    // So many members have one more.
    let mut extra = usize::from(partitions) % members.len();
    let mut counts = vec![0; members.len()];
    let mut owners = vec![None; partitions.into()];
    for (partition, member) in pairs {
        let owner = &mut owners[usize::from(partition)];
        let count = &mut counts[member];
        if owner.is_some() || *count > share || (*count == share && extra == 0) {
            continue;
        }
        if *count == share {
            extra -= 1;
        }
        *count += 1;
        *owner = Some(members[member]);
    }
    owners.into_iter().flatten().collect()
}

fn hash(member: &str, partition: u16) -> impl Ord + use<> {
    Sha256::new()
        .chain_update(member.as_bytes())
        .chain_update(partition.to_be_bytes())
        .finalize()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn owners_of(members: &BTreeSet<String>, partitions: u16) -> Vec<&str> {
        owners(members.iter().map(String::as_str), partitions)
    }

    fn members(count: std::ops::Range<usize>) -> impl Strategy<Value = BTreeSet<String>> {
        proptest::collection::btree_set("[a-z0-9-]{1,12}", count)
    }

    #[test]
    fn nobody_owns_without_members() {
        assert!(owners([], 3).is_empty());
    }

    #[test]
    fn answers_never_change() {
        let members = ["dispatcher-1", "dispatcher-2", "dispatcher-3"];
        let expected: Vec<_> = [1, 2, 3, 1, 2, 1, 3, 3].map(|number| members[number - 1]).into();
        assert_eq!(owners(members, 8), expected);
    }

    #[test]
    fn a_member_that_comes_moves_little_more_than_what_it_gets() {
        let (mut moved, mut got) = (0, 0);
        for count in 1..16 {
            let names: Vec<_> = (0..=count).map(|index| format!("dispatcher-{index}")).collect();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let (before, after) = (owners(names[..count].to_vec(), 64), owners(names.clone(), 64));
            moved += before
                .iter()
                .zip(&after)
                .filter(|(before, after)| before != after)
                .count();
            got += after.iter().filter(|owner| **owner == names[count]).count();
        }
        assert!(2 * moved < 3 * got, "{moved} partitions move for {got}");
    }

    proptest! {
        #[test]
        fn every_partition_has_an_owner_and_nobody_has_two_more_than_another(
            members in members(1..40),
            partitions in 1u16..=256,
        ) {
            let owners = owners_of(&members, partitions);
            prop_assert_eq!(owners.len(), usize::from(partitions));
            let count = |member: &String| owners.iter().filter(|owner| *owner == member).count();
            let counts: Vec<_> = members.iter().map(count).collect();
            let (least, most) = (counts.iter().min(), counts.iter().max());
            prop_assert!(most.unwrap() - least.unwrap() <= 1, "{:?}", counts);
        }

        #[test]
        fn the_order_of_members_does_not_matter(members in members(1..8), partitions in 1u16..=64) {
            let backwards = owners(members.iter().rev().map(String::as_str), partitions);
            prop_assert_eq!(owners_of(&members, partitions), backwards);
        }
    }
}
