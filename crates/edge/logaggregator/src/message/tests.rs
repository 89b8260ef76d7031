use proptest::prelude::*;

use super::*;

const HEAD: &str = "<190>1 2026-05-01T10:00:00.123400Z host1 app-1 web.host1-5f2c ID2";

fn shown(raw: &[u8]) -> String {
    let mut out = Vec::new();
    Message::parse(raw).unwrap().write_json(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn h2_a_message_of_a_log_mux_is_taken_apart() {
    let message = Message::parse(format!(r#"{HEAD} [flynn seq="17"] a line"#).as_bytes()).unwrap();
    assert_eq!((message.host(), message.app(), message.process()), ("host1", "app-1", ("web", "host1-5f2c")));
    assert_eq!((message.seq, message.stream, message.micros), (17, Stream::Stderr, 1_777_629_600_123_400));
}

#[test]
fn messages_are_shown_as_the_api_says() {
    for (message, expected) in [
        (
            format!(r#"{HEAD} [flynn seq="17"] a "line""#).into_bytes(),
            r#"{"host_id":"host1","job_id":"host1-5f2c","msg":"a \"line\"","process_type":"web","source":"app","stream":"stderr","timestamp":"2026-05-01T10:00:00.1234Z"}"#,
        ),
        (
            br#"<13>1 2026-05-01T12:00:00+02:00 h a job1 X [x a="\"]\\"][flynn b="1" seq="2"]"#.to_vec(),
            r#"{"host_id":"h","job_id":"job1","source":"app","stream":"unknown","timestamp":"2026-05-01T10:00:00Z"}"#,
        ),
        (
            [br#"<190>1 2026-05-01T10:00:00Z h a j ID1 [flynn seq="2"] "#.as_slice(), b"\xff\x00 "].concat(),
            "{\"host_id\":\"h\",\"job_id\":\"j\",\"msg\":\"\u{fffd}\\u0000 \",\"source\":\"app\",\"stream\":\"stdout\",\"timestamp\":\"2026-05-01T10:00:00Z\"}",
        ),
    ] {
        assert_eq!(shown(&message), format!("{expected}\n"));
    }
}

#[test]
fn what_is_no_message_of_a_log_mux_is_rejected() {
    let time = "2026-05-01T10:00:00Z";
    for (raw, reason) in [
        (format!("{HEAD} - text"), "missing structured data"),
        (format!("{HEAD} [other seq=\"1\"] text"), "missing structured data"),
        (format!("{HEAD} [flynn seq=\"x\"] text"), "missing structured data"),
        (
            format!("{HEAD} [flynn seq=\"1\"]text"),
            "no message of RFC 5424: there is something behind its structured data",
        ),
        (format!("{HEAD} [flynn seq=\"1\""), "no message of RFC 5424: its structured data is cut off"),
        (format!("{HEAD} [flynn seq=\"1\\\"]"), "no message of RFC 5424: its structured data is cut off"),
        (format!("{HEAD} [flynn seq]"), "no message of RFC 5424: a parameter has no value"),
        (format!("{HEAD} [flynn=]"), "no message of RFC 5424: an element of its structured data does not end"),
        (format!("{HEAD} text"), "no message of RFC 5424: its structured data is missing"),
        (HEAD.to_owned(), "no message of RFC 5424: its header is cut off"),
        (format!("<190>2 {time} h a p m - t"), "no message of RFC 5424: its priority or version is missing"),
        (format!("<x>1 {time} h a p m - t"), "no message of RFC 5424: its priority or version is missing"),
        ("<190>1 yesterday h a p m - t".to_owned(), "no message of RFC 5424: its time is none"),
        (format!("<190>1 {time} h  p m - t"), "no message of RFC 5424: a field of its header is empty or not ASCII"),
        (String::new(), "no message of RFC 5424: its header is cut off"),
        ("x".repeat(11_001), "no message of RFC 5424: too long"),
    ] {
        assert_eq!(Message::parse(raw.as_bytes()).unwrap_err().to_string(), reason, "{raw}");
    }
}

proptest! {
    #[test]
    fn garbage_is_rejected_without_a_panic(
        sound in prop::bool::ANY,
        bytes in prop::collection::vec(prop::sample::select(b"[]\"\\= -flynseq1\xff\n".to_vec()), 0..60),
    ) {
        let raw = if sound { [HEAD.as_bytes(), b" ", &bytes].concat() } else { bytes };
        let _ = Message::parse(&raw);
    }
}
