//! Requests that two programs could read in two ways: each is refused, or means the same to the backend.

use crate::backend::Backend;
use crate::rig::{Rig, members, route};

async fn rig() -> (Backend, Rig) {
    let backend = Backend::named("b").await;
    let routes = vec![route("example.com", "s"), route("other.com", "none")];
    let rig = Rig::start(routes, vec![members("s", &[backend.address])]).await;
    (backend, rig)
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: example.com\r\n\r\n";

#[tokio::test]
async fn heads_that_could_be_read_in_two_ways_are_refused() {
    let (backend, rig) = rig().await;
    for lines in [
        // CL.CL
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: 0\r\nContent-Length: 44",
        "Content-Length: 5, 5",
        "Content-Length: 5,6",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length: ",
        "Content-Length: 99999999999999999999999",
        "Content-Length : 5",
        "Content-Length\t: 5",
        // CL.TE and TE.CL
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "content-length: 5\r\ntransfer-encoding: CHUNKED",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        // TE.TE
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: ",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding\x0b: chunked",
        " Transfer-Encoding: chunked",
        "\tTransfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "X: y\r\n\tfolded",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: chunked\r",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\0",
        "X\0: y",
        "X Y: z",
        ": nameless",
        "nothing",
        "(x): y",
        // Host
        "Host: example.com",
        "Host: other.com",
        "host: other.com",
        "Host : other.com",
    ] {
        let mut client = rig.client().await;
        let answer =
            client.ask(format!("POST / HTTP/1.1\r\nHost: example.com\r\n{lines}\r\n\r\n0\r\n\r\n{SMUGGLED}")).await;
        assert_eq!(answer.status, 400, "{lines:?}");
        assert_eq!(answer.header("connection"), Some("close"), "{lines:?}");
        assert!(client.is_closed().await, "nothing behind {lines:?} is looked at");
    }
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn request_lines_that_could_be_read_in_two_ways_are_refused() {
    let (backend, rig) = rig().await;
    for line in [
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 x",
        "GET / a HTTP/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / HTTP/0.9",
        "GET /\tHTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET / http/1.1",
        "GET /",
        "G(T / HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET / HTTP/1.1\rX: y",
        "FLYNN-REFUSED / HTTP/1.1",
    ] {
        let mut client = rig.client().await;
        let answer = client.ask(format!("{line}\r\nHost: example.com\r\n\r\n")).await;
        assert_eq!(answer.status, 400, "{line:?}");
        assert!(client.is_closed().await, "{line:?}");
    }
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn chunks_that_could_be_read_in_two_ways_end_the_connection() {
    let (backend, rig) = rig().await;
    for body in [
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3 \nabc\r\n0\r\n\r\n",
        "3;x\nabc\r\n0\r\n\r\n",
        "3;x\rabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "\r\n3\r\nabc\r\n0\r\n\r\n",
        "x\r\nabc\r\n0\r\n\r\n",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    ] {
        let mut client = rig.client().await;
        let head = "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}{body}{SMUGGLED}")).await;
        let answers = String::from_utf8_lossy(&client.rest().await).into_owned();
        assert!(answers.matches("HTTP/1.1").count() <= 1, "{body:?}: {answers}");
        assert!(!answers.contains("200 OK"), "{body:?}: {answers}");
    }
    assert!(backend.seen().iter().all(|seen| seen.target != "/smuggled"), "{:?}", backend.seen());
}

#[tokio::test]
async fn what_is_unusual_and_sound_means_the_same_to_the_backend() {
    let (backend, rig) = rig().await;
    let chunks = "3;ext=\"a;b\"\r\nabc\r\n0003\r\nabc\r\n0\r\n\r\n";
    for (name, request, length) in [
        (
            "two equal lengths",
            "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            3,
        ),
        ("lines that end in LF", "POST / HTTP/1.1\nHost: example.com\nContent-Length: 3\n\nabc", 3),
        ("empty lines before", "\r\n\r\nPOST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 3\r\n\r\nabc", 3),
        ("blanks around values", "POST / HTTP/1.1\r\nHost:\t example.com \r\nContent-Length:3\t \r\n\r\nabc", 3),
        (
            "extensions of chunks",
            &format!("POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: Chunked\r\n\r\n{chunks}"),
            6,
        ),
        ("a body of GET", "GET / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 44\r\n\r\n", 44),
    ] {
        let mut client = rig.client().await;
        let before = backend.seen().len();
        let answer =
            client.ask(if length == 44 { format!("{request}{}", &SMUGGLED[..44]) } else { request.to_owned() }).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "b"), "{name}");
        assert_eq!(backend.last().body.len(), length, "{name}");
        assert_eq!(backend.seen().len(), before + 1, "{name}");
        assert_eq!(client.get("example.com", "/next").await.text(), "b", "{name}: the next request is the next");
        assert_eq!(backend.last().target, "/next");
    }
}

#[tokio::test]
async fn the_targets_host_is_the_one_that_counts() {
    let (backend, rig) = rig().await;
    let mut client = rig.client().await;
    let ask = async |client: &mut crate::client::Client, target: &str, host: &str| {
        client.ask(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.status
    };
    assert_eq!(ask(&mut client, "http://example.com/x", "other.com").await, 200);
    assert_eq!((backend.last().header("host"), &*backend.last().target), ("example.com", "http://example.com/x"));
    assert_eq!(ask(&mut client, "http://me:secret@example.com:80/x", "other.com").await, 200);
    assert_eq!(backend.last().header("host"), "example.com:80");
    assert_eq!(ask(&mut client, "http://other.com/x", "example.com").await, 503);
}

#[tokio::test]
async fn trailers_say_nothing_about_their_message() {
    let (backend, rig) = rig().await;
    let forbidden = "Content-Length: 1\r\nTransfer-Encoding: x\r\nHost: other.com\r\nConnection: x\r\n\
                     Authorization: x\r\nCookie: x\r\nX-Forwarded-For: 6.6.6.6\r\n";
    let names = "Content-Length, Transfer-Encoding, Host, Connection, Authorization, Cookie, X-Forwarded-For, X-Sum";
    let head =
        format!("POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\nTrailer: {names}\r\n\r\n");
    let answer = rig.client().await.ask(format!("{head}3\r\nabc\r\n0\r\n{forbidden}X-Sum: 42\r\n\r\n")).await;
    assert_eq!(answer.text(), "b");
    let trailers = backend.last().trailers.expect("trailers");
    assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &http::HeaderValue::from_static("42")));

    let backend = Backend::scripted(move |mut backend| async move {
        backend.head_of_request().await;
        let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: {names}, Set-Cookie\r\n\r\n");
        backend.send(format!("{head}3\r\nabc\r\n0\r\n{forbidden}Set-Cookie: x\r\nX-Sum: 42\r\n\r\n")).await;
    })
    .await;
    rig.members(members("s", &[backend.address])).await;
    let answer = rig.client().await.ask("GET / HTTP/1.1\r\nHost: example.com\r\nTE: trailers\r\n\r\n").await;
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "42".to_owned())]);
}
