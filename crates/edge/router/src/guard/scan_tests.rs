use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Feeds a stream in pieces of `size` bytes, as a reader would: what passed, and the refusal.
fn run(stream: &[u8], size: usize) -> (Vec<u8>, Option<Refusal>, Scanner) {
    let (mut scanner, mut passed, mut held) = (Scanner::default(), Vec::new(), Vec::new());
    for piece in stream.chunks(size) {
        held.extend_from_slice(piece);
        let scanned = scanner.feed(&held);
        passed.extend(held.drain(..scanned.cleared));
        if scanned.refused.is_some() {
            return (passed, scanned.refused, scanner);
        }
    }
    (passed, None, scanner)
}

fn refused(stream: &str) -> bool {
    let outcomes = [1, 7, 4096].map(|size| run(stream.as_bytes(), size).1);
    assert!(outcomes.iter().all(|outcome| outcome.is_some() == outcomes[0].is_some()), "{outcomes:?} of {stream:?}");
    outcomes[0].is_some()
}

#[test]
fn sound_requests_pass_byte_by_byte_and_at_once() {
    for stream in [
        GET.to_owned(),
        GET.repeat(3),
        format!("\r\n\r\n{GET}\r\n{GET}"),
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab\r\nc{GET}"),
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde{GET}"),
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n{GET}"),
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\na\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n{GET}"
        ),
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\nZ:\r\n\r\n{GET}"),
        "GET / HTTP/1.0\r\n\r\n".to_owned(),
    ] {
        for size in [1, 2, 3, 10, 4096] {
            let (passed, refused, scanner) = run(stream.as_bytes(), size);
            assert_eq!((String::from_utf8(passed).unwrap(), refused), (stream.clone(), None), "in pieces of {size}");
            assert!(scanner.at_head(), "{stream}");
        }
    }
}

#[test]
fn requests_that_could_be_read_in_two_ways_are_refused() {
    for (fields, is_refused) in [
        ("Host: a\r\nContent-Length: 1\r\nContent-Length: 2", true),
        ("Host: a\r\nContent-Length: 1, 1", true),
        ("Host: a\r\nContent-Length: +1", true),
        ("Host: a\r\nContent-Length: -1", true),
        ("Host: a\r\nContent-Length: 0x1", true),
        ("Host: a\r\nContent-Length: 99999999999999999999999", true),
        ("Host: a\r\nContent-Length:", true),
        ("Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked", true),
        ("Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1", true),
        ("Host: a\r\nTransfer-Encoding: gzip", true),
        ("Host: a\r\nTransfer-Encoding: gzip, chunked", true),
        ("Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", true),
        ("Host: a\r\nTransfer-Encoding: \u{b}chunked", true),
        ("Host: a\r\nTransfer-Encoding : chunked", true),
        ("Host: a\r\n X: folded", true),
        ("Host: a\r\nX Y: z", true),
        ("Host: a\r\nX\u{1}: z", true),
        ("Host: a\r\nX: a\rb", true),
        ("Host: a\r\nX: a\0b", true),
        ("Host: a\r\nHost: b", true),
        ("X: y", true),
        ("Host: a\r\nX: y", false),
    ] {
        assert_eq!(refused(&format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n")), is_refused, "{fields:?}");
    }
    assert!(refused("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"));
    assert!(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
    assert!(refused("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n"));
    assert!(refused(&format!("{REFUSED_METHOD} / HTTP/1.1\r\nHost: a\r\n\r\n")));
}

#[test]
fn what_comes_before_a_refused_request_passes() {
    let stream = format!("{GET}BAD\r\n\r\n");
    for size in [1, 4096] {
        let (passed, refused, _) = run(stream.as_bytes(), size);
        assert_eq!((passed.as_slice(), refused.is_some()), (GET.as_bytes(), true));
    }
}

#[test]
fn heads_have_a_limit() {
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD));
    assert_eq!(run(long.as_bytes(), 64 * 1024).1, Some(Refusal::HeadTooLarge));
    assert_eq!(run(long.as_bytes(), long.len()).1, Some(Refusal::HeadTooLarge));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(MAX_FIELDS));
    assert_eq!(run(many.as_bytes(), 4096).1, Some(Refusal::HeadTooLarge));
    let fits = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD - 100));
    assert_eq!(run(fits.as_bytes(), 4096).1, None);
}

#[test]
fn behind_an_upgrade_everything_passes() {
    let stream = "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, UpGrade\r\nUpgrade: any\r\n\r\n\0\r\nnot HTTP";
    let (passed, refused, _) = run(stream.as_bytes(), 5);
    assert_eq!((passed.as_slice(), refused), (stream.as_bytes(), None));
}

#[test]
fn wrong_chunks_are_left_to_hyper() {
    for body in ["\n", "3\nabc\r\n", "3\r\nabcd\r\n", "3\r\r\nabc", "0\r\nX: y\n\n", "fffffffffffffffff\r\n"] {
        let stream = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}{GET}");
        let (passed, refused, scanner) = run(stream.as_bytes(), 3);
        assert_eq!((passed.len(), refused), (stream.len(), None));
        assert_eq!(scanner.state, State::Opaque, "{body:?}");
    }
}

proptest::proptest! {
    #[test]
    fn pieces_make_no_difference(
        parts in proptest::collection::vec(proptest::sample::select(vec![
            "GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\n", "Host: a\r\n", "Content-Length: 3\r\n", "\r\n", "abc", "\n", "\r",
            "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n", "0\r\n\r\n", "X: y\r\n", ":",
        ]), 0..20),
        size in 1..9_usize,
    ) {
        // Without its last line a head may be refused early or late.
        let stream = parts.concat() + "\r\n\r\n";
        let (whole, pieces) = (run(stream.as_bytes(), stream.len().max(1)), run(stream.as_bytes(), size));
        proptest::prop_assert_eq!(whole.1.is_some(), pieces.1.is_some());
        proptest::prop_assert_eq!(whole.0, pieces.0);
        proptest::prop_assert_eq!(whole.2.at_head(), pieces.2.at_head());
    }

    #[test]
    fn no_bytes_upset_the_scanner(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        run(&bytes, 11);
    }
}
