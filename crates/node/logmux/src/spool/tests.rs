use std::fs;

use super::*;

fn record(stream: u8, payload: &[u8]) -> Vec<u8> {
    [&spool::header(stream, payload.len() as u32, 5)[..], payload].concat()
}

fn write(dir: &Path, offset: u64, bytes: &[u8]) {
    fs::write(dir.join(spool::segment_name(offset)), bytes).unwrap();
}

fn read_all(reader: &mut SpoolReader, upto: u64) -> (Vec<(u64, Vec<u8>)>, u64) {
    let (mut found, mut dropped) = (Vec::new(), 0);
    loop {
        match reader.read(upto, |record| found.push((record.offset, record.payload.to_vec()))).unwrap() {
            Progress::Read => {}
            Progress::Gap { bytes } => dropped += bytes,
            Progress::End => return (found, dropped),
        }
    }
}

#[test]
fn records_are_read_over_segments_up_to_what_was_announced() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two, three) = (record(1, b"one"), record(2, b"two!"), record(3, b"three"));
    write(dir.path(), 0, &[&one[..], &two].concat());
    let second = (one.len() + two.len()) as u64;
    write(dir.path(), second, &three);
    let mut reader = SpoolReader::new(dir.path().to_owned(), 0);
    let first = read_all(&mut reader, second);
    assert_eq!(first, (vec![(0, b"one".to_vec()), (one.len() as u64, b"two!".to_vec())], 0));
    let end = second + three.len() as u64;
    assert_eq!(read_all(&mut reader, end), (vec![(second, b"three".to_vec())], 0));
    // A reader that begins in the middle.
    let mut reader = SpoolReader::new(dir.path().to_owned(), one.len() as u64);
    assert_eq!(read_all(&mut reader, end).0.len(), 2);
    // The open segment grew.
    write(dir.path(), second, &[&three[..], &one].concat());
    assert_eq!(read_all(&mut reader, end + one.len() as u64), (vec![(end, b"one".to_vec())], 0));
}

#[test]
fn what_is_gone_or_broken_is_counted_and_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let one = record(1, b"one");
    write(dir.path(), 1000, &[&one[..], b"garbage in a segment"].concat());
    write(dir.path(), 2000, &one);
    let end = 2000 + one.len() as u64;
    let (found, dropped) = read_all(&mut SpoolReader::new(dir.path().to_owned(), 0), end);
    assert_eq!(found.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [1000, 2000]);
    assert_eq!(dropped, 2000 - one.len() as u64);
    let gone = dir.path().join("gone");
    assert_eq!(read_all(&mut SpoolReader::new(gone, 0), 77), (vec![], 77));
}
