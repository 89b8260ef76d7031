//! Server and client against each other, over real sockets.

mod faults;
mod streams;
mod tls;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post, put};
use flynn_http::{Client, ClientError, Failure, Json, ServerOptions, serve, sse};
use flynn_types::error::ApiError;
use futures_util::StreamExt as _;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

struct Server {
    client: Client,
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn start(router: Router) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let options = ServerOptions {
        grace: Duration::from_secs(1),
        stall_limit: Duration::from_secs(1),
        ..ServerOptions::default()
    };
    let task = tokio::spawn(serve(listener, router, shutdown.clone(), options));
    Server { client: Client::new(&format!("http://{address}")), address, shutdown, task }
}

async fn echo(Json(value): Json<Value>) -> axum::Json<Value> {
    axum::Json(value)
}

async fn upgrade(mut request: Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    let body = axum::body::to_bytes(request.into_body(), 1024).await.unwrap();
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        stream.write_all(&body).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        stream.write_all(&rest).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    (http::StatusCode::SWITCHING_PROTOCOLS, [("connection", "upgrade"), ("upgrade", "test/0")]).into_response()
}

/// Sends bytes as they are and reads the answer to its end.
async fn raw(server: &Server, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(flynn_patience::seconds(10), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn bodies_that_are_no_json_get_the_answers_that_clients_know() {
    let server = start(Router::new().route("/", put(echo))).await;
    let put = |kind: &str, length: usize, body: &str| {
        format!(
            "PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    for (kind, body, wanted) in [
        ("application/json", "{\"a\":1}", "{\"a\":1}"),
        (
            "application/json",
            "{\"a\":",
            r#"{"code":"syntax_error","message":"The provided JSON input is invalid","retry":false}"#,
        ),
        (
            "application/json",
            "",
            r#"{"code":"syntax_error","message":"The provided JSON input is invalid","retry":false}"#,
        ),
        (
            "text/plain",
            "{}",
            r#"{"code":"validation_error","message":"Content-Type must be application/json","retry":false}"#,
        ),
    ] {
        let answer = raw(&server, put(kind, body.len(), body).as_bytes()).await;
        assert!(answer.ends_with(wanted), "{answer}");
    }
    let answer = raw(&server, put("application/json", 1 << 30, "{").as_bytes()).await;
    assert!(answer.contains("request_body_too_big"), "{answer}");
    assert!(
        raw(&server, b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.starts_with("HTTP/1.1 404")
    );
}

#[tokio::test]
async fn the_client_reports_errors_in_the_servers_words_and_follows_redirects() {
    async fn conflict() -> Failure {
        ApiError::conflict("job already exists").into()
    }
    async fn panics() {
        panic!("as the test wants");
    }
    let router = Router::new()
        .route("/echo", put(echo))
        .route("/conflict", get(conflict))
        .route("/panics", get(panics))
        .route("/moved", put(|| async { Redirect::temporary("/echo") }))
        .route("/loop", get(|| async { Redirect::temporary("/loop") }));
    let server = start(router).await;
    let moved: Value = server.client.send_json(http::Method::PUT, "/moved", &json!({"a": 1})).await.unwrap();
    assert_eq!(moved, json!({"a": 1}));
    let error = server.client.get_json::<Value>("/conflict").await.unwrap_err();
    assert_eq!((error.status(), error.to_string()), (Some(409), "job already exists".into()));
    assert_eq!(server.client.get_json::<Value>("/panics").await.unwrap_err().status(), Some(500));
    assert!(matches!(server.client.get_json::<Value>("/loop").await, Err(ClientError::Decode { .. })));
    let gone = Client::new("http://127.0.0.1:1").get_json::<Value>("/").await.unwrap_err();
    assert!(matches!(gone, ClientError::Connect { .. }) && gone.is_retryable(), "{gone}");
}

#[tokio::test]
async fn events_arrive_one_by_one_and_a_slow_reader_holds_back_the_writer() {
    let (sender, receiver) = mpsc::channel::<Result<String, String>>(1);
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let stream = move || {
        let receiver = receiver.lock().unwrap().take().unwrap();
        async move { sse(ReceiverStream::new(receiver)) }
    };
    let router = Router::new().route("/", get(stream));
    let server = start(router).await;
    let mut events = server.client.events::<String>("/").await.unwrap();
    sender.send(Ok("one".into())).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap(), "one");
    let writer = tokio::spawn(async move {
        let piece = "x".repeat(1 << 20);
        let mut sent = 0_u32;
        // Nobody reads now: sooner or later a send has to wait.
        while tokio::time::timeout(Duration::from_millis(300), sender.send(Ok(piece.clone()))).await.is_ok() {
            sent += 1;
            assert!(sent < 200, "nothing holds the writer back");
        }
        drop(sender);
        sent
    });
    let sent = writer.await.unwrap();
    let received = events.filter(|event| std::future::ready(event.is_ok())).count().await;
    assert_eq!(received, sent as usize);
}

#[tokio::test]
async fn an_upgraded_connection_is_a_raw_stream_and_outlives_the_server() {
    let server = start(Router::new().route("/", post(upgrade))).await;
    let mut stream = server.client.upgrade("/", &json!("hi"), "test/0").await.unwrap();
    let mut hello = [0; 4];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"\"hi\"");
    server.shutdown.cancel();
    server.task.await.unwrap().unwrap();
    stream.write_all(b"still there").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "still there");
}

#[tokio::test]
async fn shutdown_lets_requests_finish_but_not_for_ever() {
    let slow = || async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        "done"
    };
    let router =
        Router::new().route("/slow", get(slow)).route("/never", get(|| async { std::future::pending::<()>().await }));
    let server = start(router).await;
    let (slow, never) = (format!("http://{}/slow", server.address), format!("http://{}/never", server.address));
    let one = tokio::spawn(async move { Client::new("").open(&slow, &http::HeaderMap::new()).await.map(|d| d.status) });
    let other =
        tokio::spawn(async move { Client::new("").open(&never, &http::HeaderMap::new()).await.map(|d| d.status) });
    tokio::time::sleep(Duration::from_millis(100)).await; // both are on their way
    server.shutdown.cancel();
    assert_eq!(one.await.unwrap().unwrap(), 200);
    assert!(other.await.unwrap().is_err());
    server.task.await.unwrap().unwrap();
}
