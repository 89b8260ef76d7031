//! `Range` (RFC 9110 section 14), as Go's file server reads it.

use std::ops::Range;

/// Most ranges that are answered one by one; with more, all is sent.
const MOST: usize = 64;

/// What is to be sent of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    /// One or more ranges that lie within the content.
    Parts(Vec<Range<u64>>),
    /// Nothing that is there, or nothing that is understood.
    Unsatisfiable,
}

/// Reads the header's value, for a content of `size` bytes.
pub(crate) fn wanted(value: &str, size: u64) -> Wanted {
    let Some(list) = value.strip_prefix("bytes=") else { return Wanted::Unsatisfiable };
    let (mut parts, mut beyond) = (Vec::new(), false);
    for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        match range(text, size) {
            Some(range) if range.is_empty() => beyond = true,
            Some(range) => parts.push(range),
            None => return Wanted::Unsatisfiable,
        }
    }
    let sum: u64 = parts.iter().map(|part| part.end - part.start).sum();
    match parts.len() {
        0 if beyond && size > 0 => Wanted::Unsatisfiable,
        // Who asks for more than there is, piece by piece, is better off with all of it.
        0 => Wanted::All,
        count if count > MOST || sum > size => Wanted::All,
        _ => Wanted::Parts(parts),
    }
}

/// `None` when it is no range; an empty one when it lies beyond the end.
fn range(text: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = text.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
        // More digits than fit are beyond every end.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        let length = number(last)?.min(size);
        return Some(size - length..size);
    }
    let first = number(first)?;
    let end = if last.is_empty() { size } else { number(last).filter(|last| *last >= first)?.saturating_add(1) };
    if first >= size { Some(size..size) } else { Some(first..end.min(size)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_gos_file_server_reads_them() {
        let one = |range: Range<u64>| Wanted::Parts(vec![range]);
        for (value, size, expected) in [
            ("bytes=0-99", 1000, one(0..100)),
            ("bytes=900-", 1000, one(900..1000)),
            ("bytes=900-5000", 1000, one(900..1000)),
            ("bytes=-100", 1000, one(900..1000)),
            ("bytes=-5000", 1000, one(0..1000)),
            ("bytes=0-0, -1", 1000, Wanted::Parts(vec![0..1, 999..1000])),
            ("bytes=0-0,5000-", 1000, one(0..1)),
            ("bytes=1000-", 1000, Wanted::Unsatisfiable),
            ("bytes=99999999999999999999-", 1000, Wanted::Unsatisfiable),
            ("bytes=5-99999999999999999999", 1000, one(5..1000)),
            ("bytes=5-4", 1000, Wanted::Unsatisfiable),
            ("bytes=a-b", 1000, Wanted::Unsatisfiable),
            ("bytes=5", 1000, Wanted::Unsatisfiable),
            ("bytes=+5-6", 1000, Wanted::Unsatisfiable),
            ("lines=0-1", 1000, Wanted::Unsatisfiable),
            ("bytes=0-999,0-999", 1000, Wanted::All),
            ("bytes=", 1000, Wanted::All),
            ("bytes=0-", 0, Wanted::All),
            ("bytes=-5", 0, Wanted::All),
            ("bytes=-0", 10, Wanted::Unsatisfiable),
        ] {
            assert_eq!(wanted(value, size), expected, "{value} of {size}");
        }
        let many = format!("bytes={}", vec!["0-0"; 65].join(","));
        assert_eq!(wanted(&many, 1000), Wanted::All);
    }
}
