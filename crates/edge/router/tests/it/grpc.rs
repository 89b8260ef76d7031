//! Backends that speak HTTP/2 in clear text, and the gRPC that passes to them; gRPC-Web to those that do not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flynn_router::Settings;
use flynn_types::router::Route;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Channel, Empty, Full};
use hyper::body::{Bytes, Frame, Incoming};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::backend::Backend;
use crate::rig::{LOOPBACK, Refusing, Rig, eventually, members, route, settings, within};
use crate::tls::{Authority, http2_of, with_certificate};

type Answering = SendResponse<Bytes>;

/// A backend of HTTP/2, frame by frame.
struct Http2Backend {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Http2Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Http2Backend {
    /// Does with each request what a test writes down, and takes `most` at once on a connection. A connection takes so
    /// many in all as `last` says.
    async fn with<F>(
        most: u32,
        last: usize,
        answer: impl Fn(Request<RecvStream>, Answering) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (opened, taken) = (Arc::clone(&connections), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                opened.fetch_add(1, Ordering::SeqCst);
                let (answer, taken) = (answer.clone(), Arc::clone(&taken));
                running.spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    let Ok(mut connection): Result<Connection<TcpStream, Bytes>, _> =
                        builder.max_concurrent_streams(most).handshake(stream).await
                    else {
                        return;
                    };
                    let mut count = 0;
                    let mut answering = tokio::task::JoinSet::new();
                    while let Some(Ok((request, response))) = connection.accept().await {
                        taken.fetch_add(1, Ordering::SeqCst);
                        answering.spawn(answer(request, response));
                        count += 1;
                        if count == last {
                            connection.graceful_shutdown();
                        }
                    }
                });
            }
        });
        Self { address, connections, requests, task }
    }

    async fn new<F>(answer: impl Fn(Request<RecvStream>, Answering) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with(1000, usize::MAX, answer).await
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Sends everything back that comes, as it comes, and then a status; what it saw of the request is in the head.
async fn echo(request: Request<RecvStream>, mut response: Answering) {
    let (head, mut body) = request.into_parts();
    let te = head.headers.get("te").map_or("none", |te| te.to_str().expect("text"));
    let saw = format!("{} {} te={te} {}", head.method, head.uri, head.headers.contains_key("upgrade"));
    let answer = Response::builder().header("saw", saw).header("content-type", "application/grpc");
    let mut send = response.send_response(answer.body(()).expect("a response"), false).expect("the stream is open");
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
        let _ = send.send_data(piece, false);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    if let Ok(Some(sent)) = body.trailers().await {
        trailers.extend(sent);
    }
    let _ = send.send_trailers(trailers);
}

fn h2c(domain: &str, service: &str) -> Route {
    Route { backend_protocol: "h2c".into(), ..route(domain, service) }
}

async fn rig_of(addresses: &[SocketAddr]) -> Rig {
    // Connections are each worker's own.
    let settings = Settings { workers: 1, ..settings() };
    Rig::with(settings, vec![h2c("a.org", "s")], vec![members("s", addresses)]).await
}

async fn over_tls(addresses: &[SocketAddr]) -> (Authority, Rig) {
    let (authority, rig) = (Authority::new(), rig_of(addresses).await);
    rig.set(with_certificate(h2c("a.org", "s"), &authority.issue(&["a.org"]))).await;
    (authority, rig)
}

async fn next(body: &mut Incoming) -> Option<Frame<Bytes>> {
    within(body.frame()).await.map(|frame| frame.expect("the response goes on"))
}

#[tokio::test]
async fn grpc_passes_from_end_to_end_and_both_ways_at_once() {
    let backend = Http2Backend::new(echo).await;
    let (authority, rig) = over_tls(&[backend.address]).await;
    let mut sender = http2_of(&authority, &rig, "a.org").await;
    let (mut say, body) = Channel::<Bytes, std::convert::Infallible>::new(4);
    let request = Request::post("https://a.org/pkg.Service/Talk?x=y").header("te", "trailers").body(body);
    let asking = sender.send_request(request.expect("a request"));
    say.send_data(Bytes::from_static(b"\0\0\0\0\x02hi")).await.expect("the router reads");
    let response = within(asking).await.expect("a response");
    assert_eq!(response.headers()["saw"], "POST http://a.org/pkg.Service/Talk?x=y te=trailers false");
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let mut body = response.into_body();
    assert_eq!(next(&mut body).await.expect("a piece").into_data().expect("data"), "\0\0\0\0\x02hi");
    for piece in ["one", "two"] {
        say.send_data(Bytes::from(piece)).await.expect("the router reads");
        assert_eq!(next(&mut body).await.expect("a piece").into_data().expect("data"), piece);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("42"));
    say.send_trailers(trailers).await.expect("the router reads");
    drop(say);
    let trailers = loop {
        let frame = next(&mut body).await.expect("trailers");
        if let Ok(trailers) = frame.into_trailers() {
            break trailers;
        }
    };
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-sum"]),
        (&"0".parse().expect("text"), &"42".parse().expect("text"))
    );
    assert!(next(&mut body).await.is_none());
}

#[tokio::test]
async fn http1_clients_get_answers_of_http2_backends() {
    let backend = Http2Backend::new(echo).await;
    let rig = rig_of(&[backend.address]).await;
    let mut client = rig.client().await;
    for _ in 0..3 {
        let lines = "Transfer-Encoding: chunked\r\nConnection: upgrade\r\nUpgrade: websocket\r\nTE: trailers";
        let head = format!("POST //x?y HTTP/1.1\r\nHost: a.org\r\n{lines}\r\n\r\n");
        let answer = client.ask(format!("{head}3\r\nabc\r\n0\r\n\r\n")).await;
        assert_eq!((answer.status, answer.text().as_str(), answer.is_complete), (200, "abc", true));
        assert_eq!(answer.header("saw"), Some("POST http://a.org//x?y te=trailers false"));
    }
    let answer = client.ask("POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 3\r\n\r\nabc").await;
    assert_eq!(answer.text(), "abc");
    assert_eq!(rig.client().await.ask("GET /old HTTP/1.0\r\nHost: a.org\r\n\r\n").await.status, 200);
    assert_eq!((backend.connections(), backend.requests()), (1, 5));
}

#[tokio::test]
async fn requests_share_a_connection_until_it_is_full() {
    let hold = Arc::new(tokio::sync::Semaphore::new(0));
    for (most, connections) in [(1000, 1), (4, 5)] {
        let held = Arc::clone(&hold);
        let backend = Http2Backend::with(most, usize::MAX, move |_request, mut response: Answering| {
            let held = Arc::clone(&held);
            async move {
                let permit = within(held.acquire()).await.expect("the test goes on");
                permit.forget();
                let answer = Response::new(());
                let _ = response.send_response(answer, true);
            }
        })
        .await;
        let rig = rig_of(&[backend.address]).await;
        // The backend's first words are known with the first answer.
        hold.add_permits(1);
        assert_eq!(rig.get("a.org").await, "200 ");
        let mut clients = Vec::new();
        for count in 2..=21 {
            let mut client = rig.client().await;
            client.send("GET / HTTP/1.1\r\nHost: a.org\r\n\r\n").await;
            clients.push(client);
            eventually(count, async || backend.requests()).await;
        }
        assert_eq!(backend.connections(), connections);
        hold.add_permits(20);
        for mut client in clients {
            assert_eq!(client.answer(false).await.status, 200);
        }
    }
}

#[tokio::test]
async fn many_at_once_wait_for_the_same_new_connection() {
    let backend = Http2Backend::new(echo).await;
    let rig = rig_of(&[backend.address]).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(rig.client().await);
    }
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a.org\r\n\r\n").await;
    }
    for mut client in clients {
        assert_eq!(client.answer(false).await.status, 200);
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_backend_that_says_good_bye_loses_no_request() {
    let backend = Http2Backend::with(1000, 3, echo).await;
    let rig = rig_of(&[backend.address]).await;
    let mut client = rig.client().await;
    for _ in 0..100 {
        let answer = client.ask("POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 3\r\n\r\nabc").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "abc"));
    }
    assert!(backend.connections() >= 30, "{}", backend.connections());
}

#[tokio::test]
async fn what_a_backend_refuses_is_asked_again_and_what_it_may_have_done_is_not() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let backend = Http2Backend::new(move |request: Request<RecvStream>, mut response: Answering| {
        let nth = count.fetch_add(1, Ordering::SeqCst);
        async move {
            match request.uri().path() {
                "/refused" if nth.is_multiple_of(2) => response.send_reset(Reason::REFUSED_STREAM),
                "/broken" => response.send_reset(Reason::INTERNAL_ERROR),
                "/cut" => {
                    let mut send = response.send_response(Response::new(()), false).expect("the stream is open");
                    send.send_data(Bytes::from_static(b"abc"), false).expect("the stream is open");
                    tokio::task::yield_now().await;
                    send.send_reset(Reason::CANCEL);
                }
                _ => drop(response.send_response(Response::new(()), true)),
            }
        }
    })
    .await;
    let (authority, rig) = over_tls(&[backend.address]).await;
    let mut client = rig.client().await;
    let mut ask = async |method: &str, path: &str| {
        asked.store(0, Ordering::SeqCst);
        let answer = client.ask(format!("{method} {path} HTTP/1.1\r\nHost: a.org\r\nContent-Length: 0\r\n\r\n")).await;
        (answer.status, asked.load(Ordering::SeqCst))
    };
    assert_eq!(ask("POST", "/refused").await, (200, 2));
    assert_eq!(ask("POST", "/broken").await, (503, 1));
    assert_eq!(ask("GET", "/broken").await, (503, 3));
    assert_eq!(ask("GET", "/").await, (200, 1));
    assert_eq!(backend.connections(), 1, "streams fail, connections do not");
    let answer = rig.client().await.get("a.org", "/cut").await;
    assert_eq!((answer.status, answer.is_complete), (200, false));
    let mut sender = http2_of(&authority, &rig, "a.org").await;
    let request = Request::get("https://a.org/cut").body(Empty::<Bytes>::new()).expect("a request");
    let response = within(sender.send_request(request)).await.expect("a response");
    let err = within(response.into_body().collect()).await.expect_err("it is cut off");
    let reason = std::error::Error::source(&err).and_then(|err| err.downcast_ref::<h2::Error>()?.reason());
    assert_eq!(reason, Some(Reason::CANCEL), "{err:?}");
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_backends_stream_only() {
    let (left, mut leaves) = tokio::sync::mpsc::channel(1);
    let backend = Http2Backend::new(move |_request, mut response: Answering| {
        let left = left.clone();
        async move {
            let reason = std::future::poll_fn(|cx| response.poll_reset(cx)).await;
            left.send(reason.expect("the connection is open")).await.expect("the test waits");
        }
    })
    .await;
    let rig = rig_of(&[backend.address]).await;
    for _ in 0..3 {
        let mut client = rig.client().await;
        let before = backend.requests();
        client.send("GET / HTTP/1.1\r\nHost: a.org\r\n\r\n").await;
        // Of a request that is not with the backend yet, the backend never hears.
        eventually(before + 1, async || backend.requests()).await;
        drop(client);
        assert_eq!(within(leaves.recv()).await, Some(Reason::CANCEL));
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn backends_that_refuse_or_speak_something_else_are_passed_over() {
    let (refusing, old, good) = (Refusing::new(), Backend::named("old").await, Http2Backend::new(echo).await);
    let rig = rig_of(&[refusing.address(), old.address, good.address]).await;
    for _ in 0..20 {
        assert_eq!(rig.client().await.get("a.org", "/").await.status, 200);
    }
    rig.members(members("s", &[old.address])).await;
    assert_eq!(rig.get("a.org").await, "503 Service Unavailable\n");
    // The route changes its mind.
    rig.set(route("a.org", "s")).await;
    assert_eq!(rig.get("a.org").await, "200 old");
}

#[tokio::test]
async fn c14_grpc_web_passes_byte_by_byte_over_either_version_of_http() {
    // A message of all bytes in a frame, and the frame of the trailers behind it: both are the body's.
    let message: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let framed = |flag: u8, bytes: &[u8]| {
        let size = u32::try_from(bytes.len()).expect("it is short").to_be_bytes();
        [&[flag], &size[..], bytes].concat()
    };
    let (asked, trailers) = (framed(0, &message), framed(0x80, b"grpc-status: 0\r\ngrpc-message: fine\r\n"));
    let answered = [framed(0, &message), trailers].concat();
    let body = answered.clone();
    let backend = Backend::answering(move |_| {
        let response = Response::builder().header("content-type", "application/grpc-web+proto");
        response.body(Full::from(body.clone())).expect("a response")
    })
    .await;
    let authority = Authority::new();
    let routes = vec![with_certificate(route("a.org", "s"), &authority.issue(&["a.org"]))];
    let rig = Rig::start(routes, vec![members("s", &[backend.address])]).await;
    let lines = "Content-Type: application/grpc-web+proto\r\nX-Grpc-Web: 1\r\nX-User-Agent: grpc-web-javascript/0.1";
    let head = format!("POST /controller.Controller/StreamApps HTTP/1.1\r\nHost: a.org\r\n{lines}\r\n");
    let request = [format!("{head}Content-Length: {}\r\n\r\n", asked.len()).as_bytes(), &asked].concat();
    let mut client = authority.https(rig.https(), "a.org").await.expect("a handshake");
    let answer = client.ask(request).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/grpc-web+proto")));
    assert!(answer.body == answered && backend.last().body == asked);

    let mut sender = http2_of(&authority, &rig, "a.org").await;
    let request = Request::post("https://a.org/controller.Controller/StreamApps");
    let request = request.header("content-type", "application/grpc-web+proto").header("x-grpc-web", "1");
    let request = request.body(Full::new(Bytes::from(asked.clone()))).expect("a request");
    let response = within(sender.send_request(request)).await.expect("a response");
    assert!(within(response.into_body().collect()).await.expect("a body").to_bytes() == answered);
    let seen = backend.last();
    assert!(seen.body == asked);
    assert_eq!((seen.header("x-grpc-web"), seen.header("content-type")), ("1", "application/grpc-web+proto"));
}
