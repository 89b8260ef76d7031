//! Bodies, targets, streaming, and the connections they come on.

use flynn_router::Limits;
use flynn_types::router::Route;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::Backend;
use crate::rig::{Rig, eventually, members, resident_bytes, route, settings, within};

async fn rig_of(backend: &Backend) -> Rig {
    Rig::start(vec![route("example.com", "s")], vec![members("s", &[backend.address])]).await
}

#[tokio::test]
async fn c1_an_empty_body_stays_empty() {
    let backend = Backend::named("").await;
    assert_eq!(rig_of(&backend).await.get("example.com").await, "200 ");
}

#[tokio::test]
async fn c2_c3_c4_targets_arrive_byte_by_byte() {
    let backend = Backend::named("b").await;
    let rig = rig_of(&backend).await;
    let image = "/O08=/200x300/filters:no_upscale()/http://i.imgur.com/x.jpg?foo=bar";
    for target in [
        image,
        &format!("http://example.com{image}"),
        "/?first=this+is+a+field&second=was+it+clear+%28already%29%3F",
        "//foo/bar",
        "/a/../b/./c%2fd;x=y?z={}|",
    ] {
        assert_eq!(rig.get_path("example.com", target).await, "200 b", "{target}");
        assert_eq!(backend.last().target, target);
    }
}

#[tokio::test]
async fn c5_what_a_backend_has_sent_is_passed_on_at_once() {
    let backend = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        assert_eq!(backend.stream.read_u8().await.ok(), None, "the test ends by closing");
    })
    .await;
    let rig = rig_of(&backend).await;
    let mut client = rig.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    assert_eq!(client.head().await.status, 200);

    let backend = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").await;
        assert_eq!(backend.stream.read_u8().await.ok(), None, "the test ends by closing");
    })
    .await;
    rig.members(members("s", &[backend.address])).await;
    let mut client = rig.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    client.head().await;
    assert_eq!(client.bytes(4).await, b"1\r\nx");
}

#[tokio::test]
async fn c6_a_client_that_leaves_ends_the_backends_request() {
    let (left, mut leaves) = tokio::sync::mpsc::channel(2);
    let backend = Backend::scripted(move |mut backend| {
        let left = left.clone();
        async move {
            let head = backend.head_of_request().await;
            if head.contains("GET /streaming") {
                backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").await;
            }
            assert!(backend.is_closed().await);
            left.send(()).await.expect("the test waits");
        }
    })
    .await;
    let rig = rig_of(&backend).await;
    for path in ["/streaming", "/silent"] {
        let mut client = rig.client().await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: example.com\r\n\r\n")).await;
        if path == "/streaming" {
            client.head().await;
        } else {
            eventually(2, async || backend.connections()).await;
        }
        drop(client);
        within(leaves.recv()).await.expect("the backend notices");
    }
}

#[tokio::test]
async fn c7_a_connection_that_its_backend_closed_costs_no_request() {
    // Each connection answers once and is closed in the very moment of the second request.
    let backend = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        backend.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb").await;
        backend.head_of_request().await;
    })
    .await;
    let rig = rig_of(&backend).await;
    let mut client = rig.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("example.com", "/").await.text(), "b");
    }
}

#[tokio::test]
async fn c8_connections_are_used_again_unless_the_route_says_otherwise() {
    let backend = Backend::named("b").await;
    let rig = rig_of(&backend).await;
    let mut client = rig.client().await;
    let ask = async |client: &mut crate::client::Client| {
        assert_eq!(client.get("example.com", "/").await.text(), "b");
        (backend.connections(), backend.last().header("connection").to_owned())
    };
    assert_eq!(ask(&mut client).await, (1, String::new()));
    assert_eq!(ask(&mut client).await, (1, String::new()));
    rig.set(Route { disable_keep_alives: true, ..route("example.com", "s") }).await;
    assert_eq!(ask(&mut client).await, (2, "close".into()));
    assert_eq!(ask(&mut client).await, (3, "close".into()));
    rig.set(route("example.com", "s")).await;
    assert_eq!(ask(&mut client).await, (3, String::new()), "the first connection is still there");
}

#[tokio::test]
async fn c9_a_length_of_zero_stays_one() {
    let backend = Backend::named("b").await;
    let rig = rig_of(&backend).await;
    for method in ["POST", "PUT", "GET"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(rig.client().await.ask(request).await.text(), "b");
        let seen = backend.last();
        assert_eq!((seen.header("content-length"), seen.header("transfer-encoding")), ("0", ""), "{method}");
    }
}

#[tokio::test]
async fn c10_a_response_that_breaks_off_looks_broken() {
    for (framing, part) in [("Transfer-Encoding: chunked", "3\r\nabc\r\n"), ("Content-Length: 100", "abc")] {
        let backend = Backend::scripted(move |mut backend| async move {
            backend.head_of_request().await;
            backend.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{part}")).await;
        })
        .await;
        let answer = rig_of(&backend).await.client().await.get("example.com", "/").await;
        assert_eq!((answer.status, answer.is_complete), (200, false), "{framing}");
        assert_eq!(answer.text(), "abc");
    }
}

#[tokio::test]
async fn c11_trailers_pass_both_ways() {
    let backend = Backend::named("b").await;
    let rig = rig_of(&backend).await;
    let request = "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                   3\r\nabc\r\n0\r\nX-Sum: 42\r\n\r\n";
    assert_eq!(rig.client().await.ask(request).await.text(), "b");
    let seen = backend.last();
    assert_eq!(seen.body.as_ref(), b"abc");
    assert_eq!(seen.trailers.expect("trailers")["x-sum"], "42");

    let backend = Backend::scripted(async |mut backend| {
        let head = backend.head_of_request().await;
        assert!(head.to_lowercase().contains("te: trailers"), "{head}");
        let fields = "Transfer-Encoding: chunked\r\nTrailer: X-Sum";
        backend.send(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 42\r\n\r\n")).await;
    })
    .await;
    rig.members(members("s", &[backend.address])).await;
    let request = "GET / HTTP/1.1\r\nHost: example.com\r\nTE: trailers\r\nConnection: TE\r\n\r\n";
    let answer = rig.client().await.ask(request).await;
    assert_eq!((answer.text().as_str(), answer.is_complete), ("abc", true));
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "42".to_owned())]);
}

#[tokio::test]
async fn c12_bodies_pass_in_constant_memory() {
    const SIZE: usize = 1 << 28;
    let backend = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        let mut left = SIZE - backend.read_already();
        let mut space = vec![0; 1 << 16];
        while left > 0 {
            left -= backend.stream.read(&mut space).await.expect("the upload comes");
        }
        backend.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n")).await;
        for _ in 0..SIZE / space.len() {
            backend.stream.write_all(&space).await.expect("the download is read");
        }
    })
    .await;
    let rig = rig_of(&backend).await;
    let before = resident_bytes();
    let mut client = rig.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: {SIZE}\r\n\r\n")).await;
    let piece = vec![1; 1 << 16];
    for _ in 0..SIZE / piece.len() {
        client.send(&piece).await;
    }
    assert_eq!(client.head().await.status, 200);
    let (mut left, mut space) = (SIZE - client.read_already(), vec![0; 1 << 16]);
    while left > 0 {
        let read = within(client.stream.read(&mut space)).await.expect("the download comes");
        assert!(read > 0);
        left -= read;
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more than before");
}

#[tokio::test]
async fn c13_old_clients_get_no_chunks() {
    let backend = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
        backend.is_closed().await;
    })
    .await;
    let rig = rig_of(&backend).await;
    let mut client = rig.client().await;
    let answer = client.ask("GET / HTTP/1.0\r\nHost: example.com\r\n\r\n").await;
    assert_eq!((answer.text().as_str(), answer.header("transfer-encoding")), ("abc", None));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn c16_a_silent_backend_is_waited_for_only_so_long() {
    let backend = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        backend.is_closed().await;
    })
    .await;
    let limits = Limits { response_head: std::time::Duration::from_millis(200), ..Limits::default() };
    let settings = flynn_router::Settings { limits, ..settings() };
    let services = vec![members("s", &[backend.address])];
    let rig = Rig::with(settings, vec![route("example.com", "s")], services).await;
    assert_eq!(rig.get("example.com").await, "503 Service Unavailable\n");
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_client_that_expects_is_told_to_continue_and_the_backend_sees_it() {
    let backend = Backend::named("b").await;
    let rig = rig_of(&backend).await;
    let mut client = rig.client().await;
    let head = "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    client.send(head).await;
    let interim = client.bytes(25).await;
    assert_eq!(String::from_utf8_lossy(&interim), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.ask("abc").await.text(), "b");
    let seen = backend.last();
    assert_eq!((seen.body.as_ref(), seen.header("expect")), (&b"abc"[..], "100-continue"));
}

#[tokio::test]
async fn a_get_with_a_body_of_unknown_length_keeps_it() {
    let backend = Backend::named("b").await;
    let rig = rig_of(&backend).await;
    let request = "GET / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(rig.client().await.ask(request).await.text(), "b");
    assert_eq!(backend.last().body.as_ref(), b"abc");
}

#[tokio::test]
async fn a_head_response_keeps_its_length() {
    let backend = Backend::named("four").await;
    let rig = rig_of(&backend).await;
    let mut client = rig.client().await;
    let answer = client.ask("HEAD / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    assert_eq!(answer.header("content-length"), Some("4"));
    assert_eq!(client.get("example.com", "/").await.text(), "four");
}
