use proptest::prelude::*;

use super::*;

fn split(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let (mut partial, mut lines, mut offset) = (Partial::default(), Vec::new(), 0);
    for piece in pieces {
        partial.feed(offset, 0, piece, |line| lines.push(line.to_vec()));
        offset += piece.len() as u64 + 13;
    }
    partial.end(|line| lines.push(line.to_vec()));
    lines
}

#[test]
fn lines_end_at_newlines_and_at_their_greatest_length() {
    let full = vec![b'x'; LINE_LEN];
    let lengths = |pieces: &[&[u8]]| split(pieces).iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(split(&[b"a\nb", b"c\n", b"\n", b"d"]), [&b"a"[..], b"bc", b"", b"d"]);
    assert_eq!(lengths(&[&full, b"\n"]), [LINE_LEN], "no empty line behind a full one");
    assert_eq!(lengths(&[&[&full[..], b"\ny\n"].concat()]), [LINE_LEN, 1]);
    assert_eq!(lengths(&[&full, b"y\n"]), [LINE_LEN, 1]);
    assert_eq!(lengths(&[&vec![b'x'; 25_000]]), [10_000, 10_000, 5_000]);
    assert_eq!(split(&[b"\0\xff\n\r\n"]), [&b"\0\xff"[..], b"\r"]);
}

proptest! {
    /// Wherever the output is cut, and wherever it is taken up again from the origin, the lines are the same.
    #[test]
    fn cuts_do_not_matter(
        pieces in prop::collection::vec(prop::collection::vec(prop_oneof![4 => Just(b'a'), 1 => Just(b'\n')], 0..3000), 0..12),
        stop in any::<prop::sample::Index>(),
        carry: bool,
    ) {
        let whole = split(&[&pieces.concat()[..]]);
        let parts: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(&split(&parts), &whole);

        let stop = stop.index(pieces.len() + 1);
        let mut lines = Vec::new();
        let mut partial = Partial::default();
        for (index, piece) in pieces[..stop].iter().enumerate() {
            partial.feed(index as u64, 0, piece, |line| lines.push(line.to_vec()));
        }
        if carry {
            partial.carry(stop as u64);
        }
        let (kept, mut from, mut skip) = partial.origin();
        if partial.is_empty() {
            (from, skip) = (stop as u64, 0);
        }
        let mut resumed = Partial::restored(if partial.is_empty() { Vec::new() } else { kept.to_vec() }, from, skip);
        for (index, piece) in pieces.iter().enumerate().skip(from as usize) {
            let start = if index as u64 == from { skip } else { 0 };
            resumed.feed(index as u64, start, piece, |line| lines.push(line.to_vec()));
        }
        resumed.end(|line| lines.push(line.to_vec()));
        prop_assert_eq!(lines, whole);
    }
}
