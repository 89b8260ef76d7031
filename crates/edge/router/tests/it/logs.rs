//! What is told of requests when they are over: lines and figures.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use flynn_router::source::{Instance, Membership};
use flynn_types::router::Route;
use http::Response;
use http_body_util::Full;
use tokio::io::AsyncWriteExt as _;
use tracing_subscriber::fmt::MakeWriter;

use crate::backend::Backend;
use crate::client::Client;
use crate::rig::{LOOPBACK, Refusing, Rig, eventually, members, route, tcp_route, within};

/// All lines of this process.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<Vec<u8>>>);

impl io::Write for Book {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Book {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Book {
    /// The book of this process; tests tell their lines apart by their hosts.
    fn open() -> Self {
        static BOOK: OnceLock<Book> = OnceLock::new();
        let open = || {
            let book = Self::default();
            tracing_subscriber::fmt().with_ansi(false).with_writer(book.clone()).init();
            book
        };
        BOOK.get_or_init(open).clone()
    }

    fn lines(&self, with: &[&str]) -> Vec<String> {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let book = String::from_utf8_lossy(&book);
        book.lines().filter(|line| with.iter().all(|part| line.contains(part))).map(ToOwned::to_owned).collect()
    }

    /// The one line with these parts, once it is there.
    async fn line(&self, with: &[&str]) -> String {
        eventually(1, async || self.lines(with).len()).await;
        self.lines(with).remove(0)
    }
}

/// An instance with the id of a job.
fn job(service: &str, backend: &Backend) -> Membership {
    let instance = Instance { job_id: "host-1".into(), ..Instance::new(backend.address) };
    Membership { instances: vec![instance], ..members(service, &[]) }
}

#[tokio::test]
async fn a_line_tells_of_each_request_what_it_was() {
    let book = Book::open();
    let backend = Backend::answering(|_| {
        let response = Response::builder().status(302).header("location", "/there");
        response.body(Full::from("moved")).expect("a response")
    })
    .await;
    let rig = Rig::start(vec![route("line.org", "s")], vec![job("s", &backend)]).await;
    let mut client = rig.client().await;
    let id = "12345678901234567890";
    for path in ["/first", "/second"] {
        client
            .ask(format!(
                "POST {path}?secret HTTP/1.1\r\nHost: line.org\r\nX-Request-Id: {id}\r\nContent-Length: 3\r\n\r\nabc"
            ))
            .await;
    }
    let first = book.line(&["request complete", "/first"]).await;
    let address = client.stream.local_addr().expect("connected");
    for part in [
        "service=\"s\"",
        &format!("request_id=\"{id}\""),
        &format!("client_addr={address}"),
        "host=\"line.org\"",
        "path=\"/first\"",
        "method=POST",
        "location=\"/there\"",
        "connect=",
        "status=302",
        "job.id=\"host-1\"",
        &format!("addr=\"{}\"", backend.address),
        "conn_reused=false",
        "read_res_first_byte=",
        "received_bytes=3",
        "sent_bytes=5",
        "duration=",
    ] {
        assert!(first.contains(part), "{part} is not in {first}");
    }
    assert!(!first.contains("secret"), "queries may be");
    let second = book.line(&["request complete", "/second"]).await;
    assert!(second.contains("conn_reused=true") && !second.contains("connect="), "{second}");
}

#[tokio::test]
async fn f9_an_upload_that_breaks_off_is_told_as_499() {
    let book = Book::open();
    let backend = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        backend.rest().await;
    })
    .await;
    let rig = Rig::start(vec![route("broken.org", "s")], vec![job("s", &backend)]).await;
    let mut client = rig.client().await;
    client.send("POST / HTTP/1.1\r\nHost: broken.org\r\nContent-Length: 100\r\n\r\npart").await;
    eventually(1, async || backend.connections()).await;
    drop(client);
    let line = book.line(&["request complete", "broken.org"]).await;
    assert!(line.contains("status=499") && line.contains("job.id=\"host-1\""), "{line}");
}

#[tokio::test]
async fn tunnels_and_tcp_connections_are_told_when_they_end() {
    let book = Book::open();
    let backend = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        backend.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await;
        backend.send(b"hello".as_slice()).await;
        backend.rest().await;
    })
    .await;
    let talker = Backend::scripted(async |mut backend| {
        backend.send("greeting").await;
        backend.rest().await;
    })
    .await;
    let port = tokio::net::TcpListener::bind((LOOPBACK, 0)).await.expect("a port").local_addr().expect("bound").port();
    let routes = vec![route("tunnel.org", "s"), tcp_route(port, "t")];
    let rig = Rig::start(routes, vec![job("s", &backend), job("t", &talker)]).await;
    let mut client = rig.client().await;
    client.send("GET /ws HTTP/1.1\r\nHost: tunnel.org\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await;
    assert_eq!(client.head().await.status, 101);
    client.send("abc").await;
    assert_eq!(client.bytes(5).await, b"hello");
    let open = "flynn_router_requests_in_flight{route=\"tunnel.org/\",service=\"s\"} ";
    assert_eq!(rig.metric(open), Some(1.0));
    assert!(book.lines(&["tunnel.org"]).is_empty(), "it is open");
    drop(client);
    let line = book.line(&["request complete", "tunnel.org"]).await;
    for part in ["status=101", "received_bytes=3", "sent_bytes=5"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    eventually(Some(0.0), async || rig.metric(open)).await;

    let mut client = Client::connect((LOOPBACK, port).into()).await;
    assert_eq!(client.bytes(8).await, b"greeting");
    client.send("ab").await;
    within(client.stream.shutdown()).await.expect("half of it closes");
    client.rest().await;
    let line = book.line(&["connection complete", &format!("tcp-{port}")]).await;
    for part in ["service=\"t\"", "job.id=\"host-1\"", "received_bytes=2", "sent_bytes=8", "proxy=\"tcp\""] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    let labels = format!("{{route=\"tcp-{port}\",service=\"t\"}} ");
    let total = |name: &str| rig.metric(&format!("flynn_router_{name}_total{labels}"));
    let totals = ["route_tcp_connections", "request_bytes", "response_bytes"].map(total);
    assert_eq!(totals, [Some(1.0), Some(2.0), Some(8.0)]);
}

#[tokio::test]
async fn failures_name_the_backend_and_the_attempt() {
    let book = Book::open();
    let (refusing, closing) = (Refusing::new(), Backend::scripted(async |_| ()).await);
    let rig = Rig::start(vec![route("fail.org", "failing")], vec![members("failing", &[refusing.address()])]).await;
    rig.get("fail.org").await;
    let line = book.line(&["retriable dial error", &refusing.address().to_string()]).await;
    assert!(line.contains("attempt=0") && line.contains("service=\"failing\""), "{line}");
    rig.members(job("failing", &closing)).await;
    rig.client().await.ask("POST / HTTP/1.1\r\nHost: fail.org\r\nContent-Length: 1\r\n\r\nx").await;
    let line = book.line(&["unretriable request error", &closing.address.to_string()]).await;
    for part in ["job.id=\"host-1\"", "status=503", "attempt=0", "err="] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
}

#[tokio::test]
async fn answers_of_the_router_itself_are_told_too() {
    let book = Book::open();
    let away = Route { maintenance: true, ..route("away.org", "s") };
    let rig = Rig::start(vec![away], vec![]).await;
    rig.get_path("nowhere.org", "/x").await;
    let line = book.line(&["request complete", "nowhere.org"]).await;
    assert!(line.contains("status=404") && line.contains("path=\"/x\""), "{line}");
    rig.get("away.org").await;
    let line = book.line(&["request complete", "away.org"]).await;
    assert!(line.contains("status=503") && line.contains("service=\"s\""), "{line}");
    let count = "flynn_router_requests_total{route=\"away.org/\",service=\"s\",class=\"5xx\"} ";
    assert_eq!(rig.metric(count), Some(1.0));
}
