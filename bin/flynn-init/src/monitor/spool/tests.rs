use super::*;
use flynn_types::init::spool::{STDERR, STDOUT, parse_header, segment_offset};
use std::path::Path;

/// A segment as it is on disk: its start and its records.
type OnDisk = (u64, Vec<(u8, Vec<u8>)>);

fn read(dir: &Path) -> Vec<OnDisk> {
    let mut segments: Vec<_> = std::fs::read_dir(dir)
        .map(|entries| {
            entries
                .map(|entry| {
                    let entry = entry.unwrap();
                    let start = segment_offset(entry.file_name().to_str().unwrap()).unwrap();
                    (start, records(&std::fs::read(entry.path()).unwrap()))
                })
                .collect()
        })
        .unwrap_or_default();
    segments.sort();
    segments
}

fn records(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut records = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() {
        let (stream, len, micros) = parse_header(header).unwrap();
        assert_eq!(micros, 7);
        records.push((stream, rest[..len].to_vec()));
        bytes = &rest[len..];
    }
    records
}

fn append(spool: &mut Spool, stream: u8, payload: &[u8]) {
    let mut record = Record::new();
    record.set(payload);
    spool.append(&mut record, stream, 7);
}

fn starts(dir: &Path) -> Vec<u64> {
    read(dir).into_iter().map(|(start, _)| start).collect()
}

#[test]
fn records_keep_their_order_and_stream() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::new(dir.path().join("spool"), 0);
    append(&mut spool, STDOUT, b"one");
    append(&mut spool, STDERR, b"two\n");
    spool.close();
    let expected = vec![(STDOUT, b"one".to_vec()), (STDERR, b"two\n".to_vec())];
    assert_eq!(read(&dir.path().join("spool")), [(0, expected)]);
    assert_eq!(spool.progress(), SpoolProgress { written: 33, closed: true });
}

#[test]
fn beyond_the_limit_the_oldest_segments_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::new(dir.path().to_owned(), 4 * MIN_SEGMENT_LEN);
    let payload = vec![b'x'; MAX_PAYLOAD];
    for _ in 0..10 {
        append(&mut spool, STDOUT, &payload);
    }
    let record = (HEADER_LEN + MAX_PAYLOAD) as u64;
    assert_eq!(spool.progress().written, 10 * record);
    assert_eq!(starts(dir.path()), [7 * record, 8 * record, 9 * record]);
}

#[test]
fn acknowledged_segments_go_but_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::new(dir.path().to_owned(), 8 * MIN_SEGMENT_LEN);
    let payload = vec![b'x'; MAX_PAYLOAD];
    for _ in 0..4 {
        append(&mut spool, STDOUT, &payload);
    }
    let all = starts(dir.path());
    spool.ack(all[1]);
    assert_eq!(starts(dir.path()), all[1..]);
    spool.ack(spool.progress().written - 1);
    assert_eq!(starts(dir.path()), all[all.len() - 1..]);
    append(&mut spool, STDOUT, b"more");
    let end = spool.progress().written;
    append(&mut spool, STDOUT, b"last");
    spool.ack(end);
    assert_eq!(read(dir.path()).last().unwrap().1.last().unwrap().1, b"last");
    spool.close();
    spool.ack(spool.progress().written);
    assert_eq!(starts(dir.path()), [0; 0]);
}

#[test]
fn output_that_follows_an_acknowledged_segment_begins_at_its_offset() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::new(dir.path().to_owned(), 0);
    append(&mut spool, STDOUT, &vec![b'x'; MAX_PAYLOAD]);
    let end = spool.progress().written;
    spool.ack(end);
    assert_eq!(starts(dir.path()), [0; 0]);
    append(&mut spool, STDOUT, b"next");
    assert_eq!(read(dir.path()), [(end, vec![(STDOUT, b"next".to_vec())])]);
}

/// Calls `during` while the spool's disk takes nothing: a file stands in its directory's place.
fn while_full(spool: &mut Spool, place: &Path, during: impl FnOnce(&mut Spool)) {
    let aside = place.with_extension("aside");
    std::fs::rename(place, &aside).unwrap();
    std::fs::write(place, "").unwrap();
    spool.file = None;
    during(spool);
    std::fs::remove_file(place).unwrap();
    std::fs::rename(&aside, place).unwrap();
}

#[test]
fn what_cannot_be_written_waits_for_space() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("spool");
    let mut spool = Spool::new(place.clone(), 0);
    append(&mut spool, STDOUT, b"before");
    let written = spool.progress();
    while_full(&mut spool, &place, |spool| {
        append(spool, STDOUT, b"during");
        assert!(spool.is_behind());
        assert_eq!(spool.progress(), written, "what is not on disk is not announced");
    });
    append(&mut spool, STDOUT, b"after");
    assert!(!spool.is_behind());
    let after = vec![(STDOUT, b"during".to_vec()), (STDOUT, b"after".to_vec())];
    assert_eq!(read(&place), [(0, vec![(STDOUT, b"before".to_vec())]), (19, after)]);
}

#[test]
fn what_waits_too_long_leaves_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("spool");
    let mut spool = Spool::new(place.clone(), 0);
    append(&mut spool, STDOUT, b"before");
    let payload = vec![b'x'; MAX_PAYLOAD];
    let records = PENDING_LIMIT / MAX_PAYLOAD + 4;
    while_full(&mut spool, &place, |spool| (0..records).for_each(|_| append(spool, STDOUT, &payload)));
    append(&mut spool, STDOUT, b"after");
    let found = read(&place);
    let second = found.get(1).expect("there is a segment behind the gap");
    assert!(second.0 > 19 && (second.0 - 19).is_multiple_of((HEADER_LEN + MAX_PAYLOAD) as u64), "{}", second.0);
    assert!(found.last().unwrap().1.ends_with(&[(STDOUT, b"after".to_vec())]));
    // At the end nothing is waited for.
    while_full(&mut spool, &place, |spool| {
        append(spool, STDOUT, b"lost");
        spool.close();
        assert!(spool.progress().closed && !spool.is_behind());
    });
}
