//! What Pebble does not do: an authority that limits orders. It speaks the part of RFC 8555 up to the refusal.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flynn_acme::store::Store as _;
use flynn_acme::store::folder::FolderStore;
use flynn_acme::{ChallengeKind, Engine, Failure, Pace, Settings};
use flynn_telemetry::Metrics;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(20);
/// Seconds that the authority asks to wait.
const PAUSE: i64 = 7200;

/// An authority that refuses all orders, and counts them.
struct Limited {
    address: SocketAddr,
    orders: Arc<AtomicUsize>,
}

impl Limited {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let orders = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&orders);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, address, Arc::clone(&counted)));
            }
        });
        Self { address, orders }
    }
}

async fn serve(stream: TcpStream, address: SocketAddr, orders: Arc<AtomicUsize>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let begin = head.len();
            if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
            let line = head[begin..].to_ascii_lowercase();
            length = line.strip_prefix("content-length:").map_or(length, |text| text.trim().parse().expect("a length"));
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.expect("a body");
        let url = |path: &str| format!("http://{address}/{path}");
        let (status, headers, answer) = match head.split(' ').nth(1).expect("a target") {
            "/dir" => {
                let directory = serde_json::json!({
                    "newNonce": url("nonce"), "newAccount": url("account"), "newOrder": url("order"),
                });
                ("200 OK", String::new(), directory.to_string())
            }
            "/nonce" => ("200 OK", String::new(), String::new()),
            "/account" => ("201 Created", format!("Location: {}\r\n", url("account/1")), "{}".to_owned()),
            "/order" => {
                orders.fetch_add(1, Ordering::SeqCst);
                let problem = serde_json::json!({
                    "type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many certificates already issued",
                });
                ("429 Too Many Requests", format!("Retry-After: {PAUSE}\r\n"), problem.to_string())
            }
            other => panic!("{other} is not asked for"),
        };
        let head =
            format!("HTTP/1.1 {status}\r\nReplay-Nonce: bm9uY2U\r\n{headers}Content-Length: {}\r\n\r\n", answer.len());
        let answer = [head, answer].concat();
        stream.write_all(answer.as_bytes()).await.expect("the client reads");
    }
}

/// Waits until the last order of a domain has failed.
async fn failure(store: &FolderStore, domain: &str) -> Failure {
    let domain = domain.parse().expect("a domain");
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let contents = store.read().await.expect("the folder is ours");
        if let Some(failure) = contents.certificates.get(&domain).and_then(|managed| managed.failure.clone()) {
            return failure;
        }
        assert!(tokio::time::Instant::now() < deadline, "{domain} does not fail");
        store.changed().await;
    }
}

#[tokio::test]
async fn o3_an_authority_that_asks_for_a_pause_gets_it() {
    let authority = Limited::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(FolderStore::open(folder.path().to_owned()).await.expect("the folder is ours"));
    let names = |names: &[&str]| Arc::new(names.iter().map(|name| Arc::from(*name)).collect::<BTreeSet<Arc<str>>>());
    let (wanted, wanted_of) = watch::channel(names(&["a.example.com"]));
    let settings = Settings {
        directory: format!("http://{}/dir", authority.address),
        email: None,
        roots: None,
        challenges: vec![ChallengeKind::Http01],
        // Without the authority's word it would be tried again at once.
        pace: Pace { first_retry: Duration::ZERO, longest_retry: Duration::ZERO, ..Pace::default() },
    };
    let engine = Engine::start(settings, Arc::clone(&store) as _, wanted_of, &Metrics::new("flynn_router"));
    let first = failure(&store, "a.example.com").await;
    let pause = (first.retry_at - first.last_error_at).num_seconds();
    assert_eq!((pause, first.problem.as_deref()), (PAUSE, Some("urn:ietf:params:acme:error:rateLimited")));
    assert!(
        first.last_error.contains("too many certificates") && first.last_error.contains("when the limit"),
        "{first:?}"
    );
    // Another domain makes the engine look at all of them again.
    wanted.send_replace(names(&["a.example.com", "b.example.com"]));
    failure(&store, "b.example.com").await;
    assert_eq!(failure(&store, "a.example.com").await, first);
    assert_eq!(authority.orders.load(Ordering::SeqCst), 2, "one for each");
    engine.stop().await;
}
