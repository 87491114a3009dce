use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Items of a stream made at 1000, stored one nanosecond after the other.
fn id(sequence: u64) -> ItemId {
    ItemId {
        sequence,
        stored_at: 1000 + i128::from(sequence),
    }
}

/// The item of this sequence in a stream that was made anew.
fn another(sequence: u64) -> ItemId {
    ItemId {
        sequence,
        stored_at: 2000 + i128::from(sequence),
    }
}

/// All taken in order, these not done.
fn known(taken: impl IntoIterator<Item = u64>, open: &[u64]) -> Known {
    let mut known = Known::of_stream(1000);
    for sequence in taken {
        known.take(id(sequence), true);
        if !open.contains(&sequence) {
            known.done(id(sequence));
        }
    }
    known
}

#[test]
fn what_was_done_beyond_the_first_open_item_is_remembered() {
    let mut known = known(1..=100, &[7, 40]);
    assert_eq!(known.resume_at(), 7);
    let again: Vec<_> = (7..=101)
        .filter(|&sequence| known.take(id(sequence), true))
        .collect();
    assert_eq!(again, [7, 40, 101]);
}

#[test]
fn what_the_log_tells_opens_nothing_that_was_known_to_be_done_and_adds_the_rest() {
    let mut known = known(1..=10, &[4, 8]);
    let told: Vec<_> = [
        (4, true),
        (6, false),
        (8, false),
        (12, false),
        (13, false),
        (20, true),
        (25, false),
    ]
    .into_iter()
    .filter(|&(sequence, done)| known.told(id(sequence), done))
    .collect();
    assert_eq!(told, [(4, true), (20, true)]);
    let again: Vec<_> = (1..=26)
        .filter(|&sequence| known.take(id(sequence), true))
        .collect();
    assert_eq!(again, [8, 12, 13, 25, 26]);
    assert_eq!(Known::decode(&known.encode().unwrap()), Ok(known));
}

#[test]
fn items_of_other_partitions_lie_between_ours() {
    let mut known = known([3, 5, 9], &[5]);
    assert_eq!(known.resume_at(), 5);
    known.done(id(5));
    assert_eq!(known.resume_at(), 10);
}

#[test]
fn what_another_worker_left_is_open_until_it_is_done_or_acknowledged() {
    let mut known = known(1..=10, &[]);
    known.delivered(8, 20);
    assert_eq!(known.resume_at(), 11);
    assert!(known.take(id(15), false));
    known.done(id(15));
    assert!(!known.take(id(15), false));
    known.acknowledged(13);
    assert_eq!(known.resume_at(), 14);
    known.acknowledged(20);
    assert_eq!(known.resume_at(), 21);
}

#[test]
fn a_stream_made_anew_under_our_feet_is_told_by_its_first_item() {
    let mut before = known(1..=100, &[7]);
    before.delivered(0, 200);
    for first in [1, 7, 100, 150, 200] {
        let mut known = before.clone();
        assert!(known.take(another(first), false), "{first}");
        known.done(another(first));
        // What lies before the first one is not in this partition.
        for sequence in first..=250 {
            let is_done = sequence == first;
            assert_eq!(
                known.take(another(sequence), true),
                !is_done,
                "{sequence} after {first}"
            );
            known.done(another(sequence));
        }
        assert!(
            (first..=250).all(|sequence| !known.take(another(sequence), true)),
            "{first}"
        );
    }
}

#[test]
fn a_word_about_an_item_of_a_former_stream_is_not_taken_for_one_of_this() {
    let mut known = Known::of_stream(1500);
    known.take(another(7), true);
    known.done(id(7));
    assert!(known.take(another(7), true));
    known.done(another(7));
    assert!(!known.take(another(7), true));
}

#[test]
fn what_does_not_fit_is_stored_as_not_done() {
    let last = 2 * MAX_STORED as u64 + 101;
    let open: Vec<_> = (1..=last).step_by(2).collect();
    let mut known = Known::of_stream(1000);
    known.take(id(last), false);
    for sequence in (2..last).step_by(2) {
        known.done(id(sequence));
    }
    assert_eq!(known.open.len(), open.len());
    let stored = known.encode().unwrap();
    assert!(stored.len() < 512 * 1024, "{}", stored.len());
    let read = Known::decode(&stored).unwrap();
    assert_eq!(read.open.len(), MAX_STORED);
    assert_eq!(
        read.open.last_key_value(),
        Some((&(2 * MAX_STORED as u64 - 1), &last))
    );
}

#[test]
fn the_stored_form_stays_as_it_is() {
    let mut known = known(1..=20, &[3, 7, 8]);
    known.delivered(0, 25);
    let text =
        r#"{"stream":1000,"seen":25,"anchor":20,"anchor_stored_at":1020,"open":[[3,0],[4,0],[1,0],[13,4]]}"#;
    assert_eq!(known.encode().unwrap(), text);
    assert_eq!(Known::decode(text.as_bytes()).unwrap(), known);
    assert_eq!(Known::of_stream(1000).encode(), None);
    for bad in ["", "{}", &text.replace("[3,0]", "[3,18446744073709551615]")] {
        assert!(
            matches!(Known::decode(bad.as_bytes()), Err(CodecError::Invalid { .. })),
            "{bad}"
        );
    }
}

/// What happens to a partition.
#[derive(Debug, Clone)]
enum Step {
    /// The next item comes to us.
    Taken,
    /// The next items go to another worker, or get lost on their way.
    Elsewhere(u64),
    /// Of the items that are not done, this one is.
    Done(usize),
    /// Of the items that were delivered, this one comes to us once more.
    Again(usize),
    /// We attach anew.
    Attached,
    /// The consumer says where its floor is.
    Acknowledged,
    /// Another process reads what is stored.
    Handed,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Taken),
        1 => (1u64..4).prop_map(Step::Elsewhere),
        4 => any::<usize>().prop_map(Step::Done),
        1 => any::<usize>().prop_map(Step::Again),
        1 => Just(Step::Attached),
        1 => Just(Step::Acknowledged),
        1 => Just(Step::Handed),
    ];
    proptest::collection::vec(step, 0..80)
}

proptest! {
    /// Whatever happens, an item that is not done is neither skipped nor refused; and what we did ourselves comes again
    /// to nobody.
    #[test]
    fn nothing_that_is_not_done_is_taken_for_done(steps in steps()) {
        let mut known = Known::of_stream(1000);
        let (mut delivered, mut in_order) = (0, true);
        let (mut open, mut taken, mut done_by_us) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Taken => {
                    delivered += 1;
                    open.insert(delivered);
                    taken.insert(delivered);
                    prop_assert!(known.take(id(delivered), in_order));
                    in_order = true;
                }
                Step::Elsewhere(count) => {
                    open.extend(delivered + 1..=delivered + count);
                    delivered += count;
                    in_order = false;
                }
                Step::Done(index) if !open.is_empty() => {
                    let sequence = *open.iter().nth(index % open.len()).unwrap();
                    open.remove(&sequence);
                    if taken.contains(&sequence) {
                        known.done(id(sequence));
                        done_by_us.insert(sequence);
                    }
                }
                Step::Again(index) if delivered > 0 => {
                    let sequence = index as u64 % delivered + 1;
                    if open.contains(&sequence) || done_by_us.contains(&sequence) {
                        taken.insert(sequence);
                        prop_assert_eq!(known.take(id(sequence), false), open.contains(&sequence), "{}", sequence);
                    }
                }
                Step::Attached => {
                    known.delivered(open.first().map_or(delivered, |first| first - 1), delivered);
                    in_order = true;
                }
                Step::Acknowledged => known.acknowledged(open.first().map_or(delivered, |first| first - 1)),
                Step::Handed => {
                    if let Some(stored) = known.encode() {
                        prop_assert_eq!(&Known::decode(&stored).unwrap(), &known);
                    }
                }
                Step::Done(_) | Step::Again(_) => {}
            }
            prop_assert!(known.resume_at() <= open.first().copied().unwrap_or(delivered + 1));
            for &sequence in open.iter().filter(|&&sequence| sequence <= known.seen) {
                prop_assert!(known.is_open(sequence), "{}", sequence);
            }
        }
    }
}
