//! Peers that hang, vanish or lie.

use flynn_http::with_text_fallbacks;
use http::HeaderMap;

use super::*;

/// A server that sends fixed bytes to everybody, and then hangs or closes.
async fn fixed(bytes: &'static [u8], closes: bool) -> (Client, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()));
    let task = tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            if !closes {
                open.push(stream);
            }
        }
    });
    (client, task)
}

#[tokio::test]
async fn answers_that_break_off_are_retryable_errors_and_never_short_results() {
    for bytes in [
        b"".as_slice(),
        b"HTTP/1.1 200 O",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    ] {
        let (client, server) = fixed(bytes, true).await;
        let err = client.get_json::<Value>("/").await.unwrap_err();
        assert!(err.is_retryable(), "{err} after {}", String::from_utf8_lossy(bytes));
        server.abort();
    }
    let (client, server) = fixed(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", true).await;
    let mut download = client.open("/", &HeaderMap::new()).await.unwrap();
    assert_eq!(download.length, Some(10));
    assert_eq!(download.bytes.next().await.unwrap().unwrap(), b"hello".as_slice());
    assert!(download.bytes.next().await.unwrap().unwrap_err().is_retryable());
    assert!(download.bytes.next().await.is_none());
    server.abort();
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_after_the_timeout() {
    let limit = Duration::from_millis(200);
    let (client, server) = fixed(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", false).await;
    let client = client.with_timeout(limit).with_stall_limit(limit);
    assert!(matches!(client.get_json::<Value>("/").await, Err(ClientError::Timeout { .. })));
    let mut download = client.open("/", &HeaderMap::new()).await.unwrap();
    assert!(matches!(download.bytes.next().await, Some(Err(ClientError::Broken { .. }))));
    server.abort();
    let (client, server) = fixed(b"", false).await;
    let client = client.with_timeout(limit);
    assert!(matches!(client.open("/", &HeaderMap::new()).await.err(), Some(ClientError::Timeout { .. })));
    assert!(matches!(client.events::<u8>("/").await.err(), Some(ClientError::Timeout { .. })));
    assert!(matches!(client.upgrade("/", &(), "x").await.err(), Some(ClientError::Timeout { .. })));
    server.abort();
}

#[tokio::test]
async fn errors_that_are_no_json_keep_their_status_and_those_of_a_server_in_trouble_may_pass() {
    for (bytes, status, text, passes) in [
        (b"HTTP/1.1 503 No\r\nContent-Length: 5\r\n\r\nlater".as_slice(), 503, "later", true),
        (b"HTTP/1.1 404 No\r\nContent-Length: 19\r\n\r\n404 page not found\n", 404, "404 page not found", false),
        (b"HTTP/1.1 403 No\r\nContent-Length: 6\r\n\r\n{\"a\":1", 403, "{\"a\":1", false),
    ] {
        let (client, server) = fixed(bytes, true).await;
        let err = client.get_json::<Value>("/").await.unwrap_err();
        assert_eq!((err.status(), err.to_string().as_str(), err.is_retryable()), (Some(status), text, passes));
        server.abort();
    }
}

#[tokio::test]
async fn a_reader_that_stops_is_cut_off_and_others_do_not_notice() {
    let gone = CancellationToken::new();
    let guarded = gone.clone();
    let endless = move || {
        let guard = guarded.clone().drop_guard(); // cancels when the stream is dropped
        let items = futures_util::stream::repeat("x".repeat(1 << 16)).map(move |text| {
            let _alive = &guard;
            Ok::<_, String>(text)
        });
        async move { sse(items) }
    };
    let server = start(Router::new().route("/", get(endless)).route("/ok", get(|| async { axum::Json(1) }))).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    assert_eq!(server.client.get_json::<u8>("/ok").await.unwrap(), 1);
    assert!(!gone.is_cancelled());
    // The server lets go of the stream although this side keeps the connection open.
    let ended = tokio::time::timeout(flynn_patience::seconds(10), gone.cancelled()).await;
    assert!(ended.is_ok(), "the stream is still alive");
    drop(stream);
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_answered_as_text() {
    let server = start(with_text_fallbacks(Router::new().route("/a", get(|| async {})))).await;
    let answer = raw(&server, b"GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.ends_with("\r\n\r\n404 page not found\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; charset=utf-8\r\n"), "{answer}");
    let answer = raw(&server, b"PUT /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
}

#[tokio::test]
async fn request_ids_come_back_or_are_made() {
    let server = start(Router::new().route("/", get(|| async {}))).await;
    let with = raw(&server, b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: abc\r\nConnection: close\r\n\r\n").await;
    assert!(with.contains("x-request-id: abc\r\n"), "{with}");
    let without = raw(&server, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let id = without.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
    assert!(uuid::Uuid::parse_str(id).is_ok(), "{id}");
}

#[tokio::test]
async fn a_patient_client_waits_for_a_server_that_starts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = Client::new(&format!("http://{address}")).with_connect_patience(Duration::from_secs(20));
    let asking = tokio::spawn(async move { client.get_json::<u8>("/").await });
    let impatient = Client::new(&format!("http://{address}")).get_json::<u8>("/").await;
    assert!(matches!(impatient, Err(ClientError::Connect { .. })));
    let listener = TcpListener::bind(address).await.unwrap();
    let router = Router::new().route("/", get(|| async { axum::Json(1) }));
    let _server = tokio::spawn(serve(listener, router, CancellationToken::new(), ServerOptions::default()));
    assert_eq!(asking.await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn keys_do_not_follow_a_redirect_to_another_host() {
    let header = |headers: HeaderMap| async move {
        axum::Json(headers.get("authorization").map(|value| value.to_str().unwrap().to_owned()))
    };
    let other = start(Router::new().route("/", get(header))).await;
    let target = format!("http://localhost:{}/", other.address.port());
    let away = move || {
        let target = target.clone();
        async move { Redirect::to(&target) }
    };
    let router = Router::new().route("/own", get(header)).route("/away", get(away));
    let server = start(router.route("/near", get(|| async { Redirect::temporary("/own") }))).await;
    let client = server.client.clone().with_basic_auth("key");
    for (path, sent) in [("/own", Some("Basic OmtleQ==")), ("/near", Some("Basic OmtleQ==")), ("/away", None)] {
        assert_eq!(client.get_json::<Option<String>>(path).await.unwrap().as_deref(), sent, "{path}");
    }
}

#[tokio::test]
async fn a_refusal_arrives_although_the_body_was_not_wanted() {
    async fn refuse() -> Failure {
        ApiError::conflict("not now").into()
    }
    let server = start(Router::new().route("/", put(refuse))).await;
    let body = vec![b'x'; 3 << 20];
    let head = format!("PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    let answer = raw(&server, &[head.as_bytes(), &body].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 409") && answer.contains("not now"), "{answer}");
}

#[tokio::test]
async fn a_connection_that_was_just_made_gets_its_first_answer_though_the_server_ends() {
    let server = start(Router::new().route("/", get(|| async { "hello" }))).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // Accepted in order: when this answer is there, the server has the other connection too.
    assert!(raw(&server, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.ends_with("hello"));
    server.shutdown.cancel();
    tokio::task::yield_now().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(flynn_patience::seconds(10), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.ends_with("hello") && answer.contains("connection: close"), "{answer}");
    server.task.await.unwrap().unwrap();
}
