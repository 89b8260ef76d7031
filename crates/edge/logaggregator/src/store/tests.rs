use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const MEMORY: usize = 64 << 20;

fn message(app: &str, host: &str, second: u32, seq: u64) -> Message {
    sized(app, host, second, seq, "x")
}

fn sized(app: &str, host: &str, second: u32, seq: u64, text: &str) -> Message {
    let (minute, second, hour) = (second / 60 % 60, second % 60, second / 3600);
    let raw =
        format!("<190>1 2026-05-01T{hour:02}:{minute:02}:{second:02}Z {host} {app} j ID1 [flynn seq=\"{seq}\"] {text}");
    Message::parse(raw.as_bytes()).unwrap()
}

/// All there is behind a place, and the place then.
fn rest(store: &Store, app: &str, mut place: Place) -> (Vec<u64>, Place) {
    let mut seqs = Vec::new();
    loop {
        let (batch, behind) = store.take(app, place, |_| true);
        seqs.extend(batch.iter().map(|message| message.seq));
        if batch.is_empty() && matches!(behind, Place::Live { .. }) && matches!(place, Place::Live { .. }) {
            return (seqs, behind);
        }
        place = behind;
    }
}

fn all(store: &Store, app: &str) -> Vec<u64> {
    rest(store, app, store.begin(app, None, |_| true)).0
}

#[test]
fn messages_are_ordered_by_time_and_known_ones_change_nothing() {
    let store = Store::new(MEMORY);
    store.insert(vec![message("a", "h", 2, 5), message("a", "h", 1, 9), message("a", "h", 2, 4)]);
    store.insert(vec![message("a", "h", 1, 9), message("a", "h", 3, 1), message("b", "h", 0, 7)]);
    assert_eq!(all(&store, "a"), [9, 4, 5, 1]);
    assert_eq!(all(&store, "b"), [7]);
    assert!(all(&store, "none").is_empty());
    // The same time and number on another host is another message.
    store.insert(vec![message("b", "other", 0, 7)]);
    assert_eq!(all(&store, "b"), [7, 7]);
}

#[test]
fn h3_cursors_are_the_latest_of_each_host() {
    let store = Store::new(MEMORY);
    store.insert(vec![
        message("a", "h", 2, 5),
        message("b", "h", 2, 6),
        message("a", "h", 1, 9),
        message("a", "i", 1, 1),
    ]);
    let cursors = serde_json::to_value(store.cursors()).unwrap();
    let expected = serde_json::json!({
        "h": {"time": "2026-05-01T00:00:02Z", "seq": 6},
        "i": {"time": "2026-05-01T00:00:01Z", "seq": 1},
    });
    assert_eq!(cursors, expected);
    store.clear();
    assert!(store.cursors().is_empty() && all(&store, "a").is_empty() && store.bytes() == 0);
}

#[test]
fn e6_only_the_newest_ten_thousand_are_kept() {
    let store = Store::new(MEMORY);
    for seq in 0..10_050 {
        store.insert(vec![message("a", "h", seq / 10, seq.into())]);
    }
    let expected: Vec<u64> = (50..10_050).collect();
    assert_eq!(all(&store, "a"), expected);
    // What is older than all of them stays away, also when it was never seen.
    store.insert(vec![message("a", "other", 0, 1)]);
    assert_eq!(all(&store, "a"), expected);
}

#[test]
fn a_reader_gets_each_message_once_whatever_arrives_meanwhile() {
    let store = Store::new(MEMORY);
    store.insert((0..1200).map(|seq| message("a", "h", 100 + seq, seq.into())).collect());
    let place = store.begin("a", Some(1000), |_| true);
    let (first, place) = store.take("a", place, |_| true);
    assert_eq!((first.len(), first[0].seq), (BATCH, 200));
    // In front of the reader, behind it, and among what it has read.
    store.insert(vec![message("a", "h", 5000, 5000), message("a", "h", 1, 5001), message("a", "h", 310, 5002)]);
    let (seqs, place) = rest(&store, "a", place);
    let expected: Vec<u64> = (200 + BATCH as u64..1200).chain([5000, 5001, 5002]).collect();
    assert_eq!(seqs, expected);
    store.insert(vec![message("a", "h", 6000, 6000)]);
    assert_eq!(rest(&store, "a", place).0, [6000]);
}

#[test]
fn a_follower_that_is_far_behind_loses_the_oldest() {
    let store = Store::new(MEMORY);
    let place = store.begin("a", Some(0), |_| true);
    store.insert((0..12_000).map(|seq| message("a", "h", seq, seq.into())).collect());
    assert_eq!(rest(&store, "a", place).0, (2000..12_000).collect::<Vec<u64>>());
}

#[test]
fn the_last_lines_that_match_are_found_among_others() {
    let store = Store::new(MEMORY);
    store.insert((0..3000).map(|seq| message("a", "h", seq, seq.into())).collect());
    let even = |message: &Message| message.seq.is_multiple_of(2);
    let place = store.begin("a", Some(3), even);
    let (batch, place) = store.take("a", place, even);
    assert_eq!(batch.iter().map(|message| message.seq).collect::<Vec<_>>(), [2994, 2996, 2998]);
    assert!(matches!(place, Place::Live { .. }));
    let none = |_: &Message| false;
    let (batch, place) = store.take("a", store.begin("a", Some(3), none), none);
    assert!(batch.is_empty() && matches!(place, Place::Live { .. }));
}

#[test]
fn when_memory_is_full_the_largest_channels_lose_their_oldest_messages() {
    let store = Store::new(1_000_000);
    store.insert((0..10).map(|seq| message("small", "h", seq, seq.into())).collect());
    let text = "x".repeat(1000);
    for seq in 0..3000 {
        let app = if seq % 3 == 0 { "large" } else { "larger" };
        store.insert(vec![sized(app, "h", seq, seq.into(), &text)]);
        assert!(store.bytes() <= 1_000_000, "{}", store.bytes());
    }
    assert_eq!(all(&store, "small").len(), 10);
    let (large, larger) = (all(&store, "large"), all(&store, "larger"));
    assert!(large.len() > 250 && larger.len() > 250, "{} {}", large.len(), larger.len());
    assert_eq!((large.last(), larger.last()), (Some(&2997), Some(&2999)));
    assert!(large.is_sorted() && larger.is_sorted());
}

#[test]
fn many_channels_take_no_more_memory_than_few() {
    let store = Store::new(100_000);
    for number in 0..2000 {
        store.insert(vec![message(&format!("app{number}"), "h", number, number.into())]);
        assert!(store.bytes() <= 100_000);
    }
    let (channels, arrivals) = store.channels();
    assert!((100..400).contains(&channels.len()), "{}", channels.len());
    assert_eq!(arrivals, 2000);
}

#[test]
fn hosts_that_were_silent_longest_are_forgotten_first() {
    let store = Store::new(MEMORY);
    store.insert((0..10_001).map(|seq| message("a", &format!("h{seq}"), seq, 1)).collect());
    let cursors = store.cursors();
    assert_eq!(cursors.len(), HOSTS);
    assert!(!cursors.contains_key("h0") && cursors.contains_key("h1") && cursors.contains_key("h10000"));
}

#[tokio::test]
async fn followers_are_told_also_in_channels_that_did_not_exist() {
    let store = Store::new(MEMORY);
    let mut changed = store.watch("a");
    store.insert(vec![message("b", "h", 1, 1)]);
    assert!(!changed.has_changed().unwrap());
    store.insert(vec![message("b", "h", 2, 1), message("a", "h", 1, 1)]);
    changed.changed().await.unwrap();
    drop(changed);
    store.clear();
    store.leave("a");
    assert!(store.channels().0.is_empty());
}

#[test]
fn memory_is_shared_by_cutting_the_largest() {
    for (sizes, target, expected) in [
        (&mut [][..], 10, usize::MAX),
        (&mut [1, 2, 3], 6, usize::MAX),
        (&mut [9, 1], 6, 5),
        (&mut [1, 9, 9, 2], 13, 5),
        (&mut [4, 4], 0, 0),
    ] {
        assert_eq!(level(sizes, target), expected, "{sizes:?} {target}");
    }
}

proptest! {
    #[test]
    fn in_whatever_order_messages_come_memory_holds_and_none_is_there_twice(
        seconds in prop::collection::vec(0_u32..5000, 0..200),
        memory in 2_000_usize..100_000,
    ) {
        let store = Store::new(memory);
        for (at, second) in seconds.iter().enumerate() {
            store.insert(vec![message("a", "h", *second, u64::from(*second))]);
            prop_assert!(store.bytes() <= memory, "after {at}");
        }
        let found = all(&store, "a");
        let known: BTreeSet<u64> = seconds.iter().map(|second| u64::from(*second)).collect();
        prop_assert!(found.iter().all(|seq| known.contains(seq)));
        prop_assert!(found.is_sorted() && found.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
