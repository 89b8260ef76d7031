//! HTTP/2 clients that are up to no good, frame by frame.

use std::time::Duration;

use flynn_router::{Limits, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::backend::Backend;
use crate::rig::{Rig, eventually, members, resident_bytes, route, settings, within};
use crate::tls::{Authority, with_certificate};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Error codes (RFC 9113 section 7).
const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame as it goes over the wire.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("it is short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// An HPACK block of literals, none of which is remembered.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// An HPACK length with a prefix of seven bits (RFC 7541 section 5.1).
fn length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        block.push(u8::try_from(length).expect("below 127"));
        return;
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).expect("below 128") | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).expect("below 128"));
}

const REQUEST: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "https"), (":authority", "a.org"), (":path", "/")];

fn request(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&[&REQUEST, more].concat()))
}

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// How a stream or its connection has ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// With a response, of which the status was sent as an entry of the static table or a literal.
    Answered(u16),
    Reset(u32),
    GoneAway(u32),
    Closed,
}

struct Http2(TlsStream<TcpStream>);

impl Http2 {
    /// A connection on which the client has said its first words.
    async fn begin(rig: &Rig, authority: &Authority) -> Self {
        let stream = authority.connect(rig.https(), "a.org", &["h2"], rustls::ALL_VERSIONS).await;
        let mut this = Self(stream.expect("a handshake"));
        this.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        // Responses refer to nothing before them: SETTINGS_HEADER_TABLE_SIZE is 0.
        this.send(&frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0])).await;
        this
    }

    /// Sends as much as the router takes.
    async fn send(&mut self, bytes: &[u8]) {
        let _ = within(self.0.write_all(bytes)).await;
        let _ = within(self.0.flush()).await;
    }

    /// The next frame; `None` at the end.
    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        within(self.0.read_exact(&mut head)).await.ok()?;
        let size = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(size).expect("it is short")];
        within(self.0.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// How a stream ends, or how the connection does before that.
    async fn end_of(&mut self, stream: u32) -> End {
        let code = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes"));
        let mut status = 0;
        while let Some(frame) = self.next().await {
            match frame.kind {
                GOAWAY if code(&frame.payload[4..8]) != 0 => return End::GoneAway(code(&frame.payload[4..8])),
                RST_STREAM if frame.stream == stream && status == 0 => return End::Reset(code(&frame.payload)),
                HEADERS if frame.stream == stream => status = status_of(&frame.payload),
                _ => {}
            }
            if frame.stream == stream && frame.flags & END_STREAM != 0 && matches!(frame.kind, HEADERS | DATA) {
                return End::Answered(status);
            }
        }
        End::Closed
    }
}

/// The status at the begin of a block, as h2 encodes it.
fn status_of(block: &[u8]) -> u16 {
    match block {
        // A size of the table of which nothing is used.
        [0x20..=0x3f, rest @ ..] => status_of(rest),
        [index @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)],
        // A literal with the name of entry 8, Huffman-coded: digits 0 to 2 have five bits, 3 to 9 six.
        [0x48 | 0x08, size, coded @ ..] if size & 0x80 != 0 => {
            let bits: String = coded[..usize::from(size & 0x7f)].iter().map(|byte| format!("{byte:08b}")).collect();
            let (mut rest, mut status) = (bits.as_str(), 0);
            for _ in 0..3 {
                let five = u16::from_str_radix(&rest[..5], 2).expect("bits");
                let (digit, used) = match five {
                    0..=2 => (five, 5),
                    _ => (u16::from_str_radix(&rest[..6], 2).expect("bits") - 0b01_1001 + 3, 6),
                };
                (status, rest) = (status * 10 + digit, &rest[used..]);
            }
            status
        }
        other => panic!("{other:?} begins with no status"),
    }
}

async fn rig_with(limits: Limits) -> (Authority, Backend, Rig) {
    let (authority, backend) = (Authority::new(), Backend::named("b").await);
    let routes = vec![with_certificate(route("a.org", "s"), &authority.issue(&["a.org"]))];
    let services = vec![members("s", &[backend.address])];
    let rig = Rig::with(Settings { limits, ..settings() }, routes, services).await;
    (authority, backend, rig)
}

#[tokio::test]
async fn floods_of_frames_end_their_connection() {
    let (authority, backend, rig) = rig_with(Limits::default()).await;
    let unfinished = frame(HEADERS, END_HEADERS, 1, &block(&REQUEST));
    let begun = frame(HEADERS, END_STREAM, 1, &[]);
    let (before, mut floods) = (resident_bytes(), 0.0);
    for (name, first, each, ours) in [
        ("pings", vec![], frame(PING, 0, 0, &[0; 8]), true),
        ("settings", vec![], frame(SETTINGS, 0, 0, &[]), true),
        ("priorities", vec![], frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1]), true),
        ("unknown frames", vec![], frame(99, 0, 0, &[]), true),
        ("windows", vec![], frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), true),
        ("empty data", unfinished, frame(DATA, 0, 1, &[]), false),
        ("continuations", begun.clone(), frame(CONTINUATION, 0, 1, &[]), false),
        ("long continuations", begun, frame(CONTINUATION, 0, 1, &block(&[("x", &"y".repeat(10_000))])), false),
    ] {
        let mut client = Http2::begin(&rig, &authority).await;
        client.send(&first).await;
        client.send(&each.repeat(20_000.min((4 << 20) / each.len()))).await;
        let end = client.end_of(u32::MAX).await;
        assert_eq!(end, End::GoneAway(ENHANCE_YOUR_CALM), "{name}");
        floods += f64::from(u8::from(ours));
        assert_eq!(rig.metric("flynn_router_clients_ended_total{reason=\"flood\"} "), Some(floods), "{name}");
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more than before");
    assert_eq!(authority.get(rig.https(), "a.org").await, Ok("200 b".into()));
    assert!(backend.connections() < 20, "{}", backend.connections());
}

#[tokio::test]
async fn rapid_resets_end_their_connection_and_few_reach_a_backend() {
    let (authority, backend, rig) = rig_with(Limits::default()).await;
    let mut client = Http2::begin(&rig, &authority).await;
    for stream in 0..10_000 {
        let id = 2 * stream + 1;
        client.send(&[request(id, &[]), frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())].concat()).await;
    }
    assert_eq!(client.end_of(u32::MAX).await, End::GoneAway(ENHANCE_YOUR_CALM));
    assert!(backend.connections() <= 1100, "{}", backend.connections());
    let in_flight = "flynn_router_requests_in_flight{route=\"a.org/\",service=\"s\"} ";
    eventually(Some(0.0), async || rig.metric(in_flight)).await;
}

#[tokio::test]
async fn requests_that_are_called_off_now_and_then_are_no_flood() {
    let (authority, _backend, rig) = rig_with(Limits::default()).await;
    let mut client = Http2::begin(&rig, &authority).await;
    for stream in 0..800 {
        let id = 4 * stream + 1;
        client.send(&[request(id, &[]), request(id + 2, &[])].concat()).await;
        client.send(&frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())).await;
        assert_eq!(client.end_of(id + 2).await, End::Answered(200));
    }
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let (authority, backend, rig) = rig_with(Limits::default()).await;
    let mut client = Http2::begin(&rig, &authority).await;
    let names: Vec<String> = (0..101).map(|n| format!("x-{n}")).collect();
    let fields: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "y")).collect();
    client.send(&request(1, &fields)).await;
    assert_eq!(client.end_of(1).await, End::Answered(431), "too many fields");
    client.send(&request(3, &vec![("cookie", "a=b"); 101])).await;
    assert_eq!(client.end_of(3).await, End::Answered(200), "cookies are one field");
    // 140 KB in frames of at most 16 KiB.
    let large = "y".repeat(14_000);
    let first = frame(HEADERS, END_STREAM, 5, &block(&[&REQUEST[..], &[("x-0", &large)]].concat()));
    client.send(&first).await;
    for name in &names[1..10] {
        let flags = if name == "x-9" { END_HEADERS } else { 0 };
        client.send(&frame(CONTINUATION, flags, 5, &block(&[(name, &large)]))).await;
    }
    assert_eq!(client.end_of(5).await, End::Answered(431), "too many bytes");
    assert_eq!(backend.seen().len(), 1);

    // 4 KB that are remembered once and named 16,000 times: 64 MB for 20 KB.
    let mut bomb = block(&REQUEST);
    bomb.extend_from_slice(&[0x40, 1, b'x']);
    length(&mut bomb, 4000);
    bomb.extend_from_slice("y".repeat(4000).as_bytes());
    let before = resident_bytes();
    client.send(&frame(HEADERS, END_STREAM, 7, &bomb)).await;
    client.send(&frame(CONTINUATION, END_HEADERS, 7, &[0xbe; 16_000])).await;
    let end = client.end_of(7).await;
    assert!(matches!(end, End::Answered(431) | End::GoneAway(ENHANCE_YOUR_CALM)), "{end:?}");
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more than before");
}

#[tokio::test]
async fn nothing_is_smuggled_from_http2_to_http1() {
    let (authority, backend, rig) = rig_with(Limits::default()).await;
    let with = |fields: &[(&str, &str)]| request(1, fields);
    let instead = |name: &str, value: &str| {
        let fields: Vec<_> = REQUEST.iter().map(|(n, v)| (*n, if *n == name { value } else { *v })).collect();
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields))
    };
    let post = |fields: &[(&str, &str)], body: &str| {
        let fields = [&[(":method", "POST")], &REQUEST[1..], fields].concat();
        let head = frame(HEADERS, END_HEADERS, 1, &block(&fields));
        [head, frame(DATA, END_STREAM, 1, body.as_bytes())].concat()
    };
    let reset = |code| vec![End::Reset(code), End::GoneAway(code)];
    for (name, bytes, ends) in [
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")]), reset(PROTOCOL_ERROR)),
        ("connection", with(&[("connection", "close")]), reset(PROTOCOL_ERROR)),
        ("upgrade", with(&[("upgrade", "h2c")]), reset(PROTOCOL_ERROR)),
        ("te", with(&[("te", "gzip")]), reset(PROTOCOL_ERROR)),
        ("newline in a value", with(&[("x", "a\r\nhost: b")]), reset(PROTOCOL_ERROR)),
        ("line feed in a value", with(&[("x", "a\nb")]), reset(PROTOCOL_ERROR)),
        ("nul in a value", with(&[("x", "a\0b")]), reset(PROTOCOL_ERROR)),
        ("newline in a name", with(&[("x\r\ny", "a")]), reset(PROTOCOL_ERROR)),
        ("colon in a name", with(&[("host: b\r\nx", "a")]), reset(PROTOCOL_ERROR)),
        ("capital in a name", with(&[("Host", "a.org")]), reset(PROTOCOL_ERROR)),
        ("space in the path", instead(":path", "/ HTTP/1.1\r\nhost: b"), reset(PROTOCOL_ERROR)),
        ("only a space in the path", instead(":path", "/a b"), reset(PROTOCOL_ERROR)),
        ("no path", instead(":path", ""), reset(PROTOCOL_ERROR)),
        ("space in the method", instead(":method", "GET / HTTP/1.1\r\nx: GET"), reset(PROTOCOL_ERROR)),
        ("newline in the authority", instead(":authority", "a.org\r\nx: y"), reset(PROTOCOL_ERROR)),
        ("another host", with(&[("host", "b.org")]), vec![End::Answered(400)]),
        ("two hosts", with(&[("host", "a.org"), ("host", "a.org")]), vec![End::Answered(400)]),
        ("body longer than told", post(&[("content-length", "3")], "abcGET / HTTP/1.1"), reset(PROTOCOL_ERROR)),
        ("body shorter than told", post(&[("content-length", "9")], "abc"), reset(PROTOCOL_ERROR)),
        ("two lengths", post(&[("content-length", "3"), ("content-length", "4")], "abc"), reset(PROTOCOL_ERROR)),
        ("no number", post(&[("content-length", "3,3")], "abc"), reset(PROTOCOL_ERROR)),
        ("a pseudo-field behind", with(&[(":path", "/b")]), reset(PROTOCOL_ERROR)),
    ] {
        let mut client = Http2::begin(&rig, &authority).await;
        client.send(&bytes).await;
        let end = client.end_of(1).await;
        assert!(ends.contains(&end), "{name}: {end:?}");
    }
    assert!(backend.seen().is_empty(), "{:?}", backend.seen());
}

#[tokio::test]
async fn d6_d7_http2_opens_no_tunnels() {
    let (authority, backend, rig) = rig_with(Limits::default()).await;
    let plain = [(":method", "CONNECT"), (":authority", "a.org")];
    let extended = [&[(":method", "CONNECT"), (":protocol", "websocket")], &REQUEST[1..]].concat();
    for (name, fields) in [("CONNECT", plain.to_vec()), ("extended CONNECT", extended)] {
        let mut client = Http2::begin(&rig, &authority).await;
        let first = client.next().await.expect("settings");
        let offers = first.payload.chunks_exact(6).any(|setting| setting[..2] == [0, 8]);
        assert!(first.kind == SETTINGS && !offers, "ENABLE_CONNECT_PROTOCOL is not offered: {first:?}");
        client.send(&frame(HEADERS, END_HEADERS, 1, &block(&fields))).await;
        let end = client.end_of(1).await;
        assert!(matches!(end, End::Answered(405) | End::Reset(PROTOCOL_ERROR)), "{name}: {end:?}");
    }
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn who_is_slow_to_ask_is_let_go() {
    let limits = Limits { request_head: Duration::from_millis(200), ..Limits::default() };
    let (authority, _backend, rig) = rig_with(limits).await;
    let silent = authority.connect(rig.https(), "a.org", &["h2"], rustls::ALL_VERSIONS).await.expect("a handshake");
    let polite = Http2::begin(&rig, &authority).await;
    let mut half = Http2::begin(&rig, &authority).await;
    half.send(&frame(HEADERS, END_STREAM, 1, &block(&REQUEST))).await;
    for mut client in [Http2(silent), polite, half] {
        while client.next().await.is_some() {}
    }
    assert_eq!(rig.metric("flynn_router_clients_ended_total{reason=\"slow_head\"} "), Some(3.0));
}

/// A backend whose response never ends by itself.
async fn endless() -> Backend {
    Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        backend.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
        while backend.stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
    })
    .await
}

#[tokio::test]
async fn a_stream_that_is_not_read_lets_its_backend_go_and_others_go_on() {
    let limits = Limits { response_pause: Duration::from_millis(400), ..Limits::default() };
    let (authority, _backend, rig) = rig_with(limits).await;
    let endless = endless().await;
    rig.set(route("a.org/endless/", "t")).await;
    rig.members(members("t", &[endless.address])).await;
    let mut client = Http2::begin(&rig, &authority).await;
    let to_endless = [&REQUEST[..3], &[(":path", "/endless/")]].concat();
    client.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&to_endless))).await;
    let in_flight = "flynn_router_requests_in_flight{route=\"a.org/endless/\",service=\"t\"} ";
    eventually(Some(1.0), async || rig.metric(in_flight)).await;
    let slow = "flynn_router_clients_ended_total{reason=\"slow_response\"} ";
    eventually(Some(1.0), async || rig.metric(slow)).await;
    // All streams of the connection are stalled: it ends.
    while client.next().await.is_some() {}
    eventually(Some(0.0), async || rig.metric(in_flight)).await;
}
