//! Nodes, requests and streams for the tests.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use flynn_discoverd::{Config, Discoverd};
use flynn_types::discoverd::{Event, Instance};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::net::TcpListener;

/// Everything that is waited for happens within this, also on a busy machine.
pub(crate) fn limit() -> Duration {
    flynn_patience::seconds(30)
}

/// A node with the folder of its store.
pub(crate) struct TestNode {
    pub(crate) discoverd: Discoverd,
    pub(crate) addr: SocketAddr,
    pub(crate) host: String,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

pub(crate) fn config(host: &str, addr: SocketAddr, folder: &Path, peers: &[SocketAddr]) -> Config {
    Config { register: false, ..Config::new(host, addr, folder.join("sub/raft.redb"), peers.to_vec()) }
}

/// Starts a node; `tune` may change its settings.
pub(crate) async fn node_with(
    host: &str,
    listener: TcpListener,
    folder: tempfile::TempDir,
    peers: &[SocketAddr],
    tune: impl Fn(&mut Config),
) -> TestNode {
    let logs = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(logs).with_test_writer().try_init();
    let addr = listener.local_addr().unwrap();
    let mut config = config(host, addr, folder.path(), peers);
    tune(&mut config);
    let discoverd = Discoverd::start(config, vec![listener]).await.unwrap();
    TestNode { discoverd, addr, host: host.to_owned(), folder }
}

/// A cluster of one that has a leader.
pub(crate) async fn single() -> TestNode {
    single_with(|_| {}).await
}

pub(crate) async fn single_with(tune: impl Fn(&mut Config)) -> TestNode {
    let node = node_with("h1", listener().await, tempfile::tempdir().unwrap(), &[], tune).await;
    node.leader().await;
    node
}

/// Three nodes that vote.
pub(crate) async fn three() -> Vec<TestNode> {
    three_with(|_| {}).await
}

pub(crate) async fn three_with(tune: impl Fn(&mut Config)) -> Vec<TestNode> {
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(listener().await);
    }
    let peers: Vec<SocketAddr> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
    let mut nodes = Vec::new();
    for (number, listener) in listeners.into_iter().enumerate() {
        let host = format!("h{}", number + 1);
        nodes.push(node_with(&host, listener, tempfile::tempdir().unwrap(), &peers, &tune).await);
    }
    for node in &nodes {
        node.voters(3).await;
    }
    nodes
}

/// Which of the nodes leads.
pub(crate) async fn leader_of(nodes: &[TestNode]) -> usize {
    let addr = nodes[0].leader().await;
    nodes.iter().position(|n| n.addr == addr).unwrap()
}

/// Polls until there is a value.
pub(crate) async fn eventually<T, F: Future<Output = Result<T, String>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + limit();
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) if tokio::time::Instant::now() > deadline => panic!("{what}: last seen {seen}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

impl TestNode {
    /// Waits for a leader.
    pub(crate) async fn leader(&self) -> SocketAddr {
        let mut leader = self.discoverd.leader_addr();
        let found = tokio::time::timeout(limit(), leader.wait_for(Option::is_some)).await.expect("a leader");
        found.unwrap().unwrap()
    }

    /// A client that knows only this node.
    pub(crate) fn client(&self) -> flynn_discoverd_client::Client {
        flynn_discoverd_client::Client::from_list(&self.addr.to_string()).unwrap()
    }

    /// Waits until so many nodes vote.
    pub(crate) async fn voters(&self, count: usize) -> Vec<String> {
        eventually(&format!("{count} voters at {}", self.addr), || async {
            let peers: Vec<String> = self.get("/raft/peers").await.json();
            if peers.len() == count { Ok(peers) } else { Err(format!("{peers:?}")) }
        })
        .await
    }

    pub(crate) async fn stop(self) -> (String, tempfile::TempDir) {
        self.discoverd.shutdown().await;
        (self.host, self.folder)
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        request(self.addr, Method::GET, path, &[], "").await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        request(self.addr, Method::DELETE, path, &[], "").await
    }

    pub(crate) async fn put(&self, path: &str, body: impl ToString) -> Reply {
        request(self.addr, Method::PUT, path, &[("content-type", "application/json")], &body.to_string()).await
    }

    pub(crate) async fn post(&self, path: &str) -> Reply {
        request(self.addr, Method::POST, path, &[], "").await
    }

    pub(crate) async fn add_service(&self, name: &str, leader_type: &str) {
        self.put(&format!("/services/{name}"), serde_json::json!({ "leader_type": leader_type })).await.ok();
    }

    /// Registers `10.0.0.<number>:80` (or sends its heartbeat) and gives its id.
    pub(crate) async fn register(&self, service: &str, number: u16) -> String {
        let instance = instance(number);
        self.put_instance(service, &instance).await.ok();
        instance.id
    }

    pub(crate) async fn put_instance(&self, service: &str, instance: &Instance) -> Reply {
        let body = serde_json::to_string(instance).unwrap();
        request(self.addr, Method::PUT, &format!("/services/{service}/instances/{}", instance.id), &[], &body).await
    }

    pub(crate) async fn instances(&self, service: &str) -> Vec<Instance> {
        let reply = self.get(&format!("/services/{service}/instances")).await;
        if reply.status == 404 { Vec::new() } else { reply.json() }
    }

    pub(crate) async fn index(&self) -> u64 {
        self.get("/ping").await.headers["discoverd-index"].to_str().unwrap().parse().unwrap()
    }

    pub(crate) async fn events(&self, path: &str) -> Events {
        Events::open(self.addr, path).await
    }
}

pub(crate) fn instance(number: u16) -> Instance {
    let [high, low] = number.to_be_bytes();
    Instance::new("tcp", &format!("10.0.{high}.{low}:80"), Default::default())
}

/// An answer, its body read.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.body).unwrap_or_else(|err| panic!("{err}: {self:?}"))
    }

    /// 200 without a body.
    pub(crate) fn ok(&self) {
        assert_eq!((self.status, self.body.as_str()), (200, ""), "{self:?}");
    }

    /// An error body with exactly the keys that it may have (A30).
    pub(crate) fn error(&self, status: u16, code: &str, message: &str) {
        let body: serde_json::Map<String, Value> = self.json();
        let keys: Vec<&str> = body.keys().map(String::as_str).filter(|key| *key != "detail").collect();
        assert_eq!(keys, ["code", "message", "retry"], "{self:?}");
        assert_eq!(
            (self.status, body["code"].as_str().unwrap(), body["message"].as_str().unwrap()),
            (status, code, message)
        );
        assert_eq!(self.headers["content-type"], "application/json");
    }
}

fn client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http()
}

/// Sends a request and follows the redirects of discoverd.
pub(crate) async fn request(
    addr: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Reply {
    let first = format!("http://{addr}{path}");
    let deadline = tokio::time::Instant::now() + limit();
    let mut url = first.clone();
    loop {
        let reply = match send(&url, method.clone(), headers, body).await {
            Ok(reply) => reply,
            // A leader that has just stopped is still the one that others redirect to, until they have elected another.
            Err(err) if url != first && err.is_connect() => {
                assert!(tokio::time::Instant::now() < deadline, "still redirected to {url}: {err:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
                url.clone_from(&first);
                continue;
            }
            Err(err) => panic!("{method} {url}: {err:?}"),
        };
        if reply.status != 307 {
            return reply;
        }
        assert!(tokio::time::Instant::now() < deadline, "redirected without end");
        url = reply.headers["location"].to_str().unwrap().to_owned();
    }
}

/// Sends one request.
pub(crate) async fn send(
    url: &str,
    method: Method,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Reply, hyper_util::client::legacy::Error> {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let response = client().request(request).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body })
}

/// An open event stream.
pub(crate) struct Events {
    pub(crate) headers: HeaderMap,
    body: Incoming,
    buffer: String,
    /// Complete lines.
    lines: VecDeque<String>,
}

impl Events {
    pub(crate) async fn open(addr: SocketAddr, path: &str) -> Self {
        let accept =
            if path.ends_with("/instances") || path.ends_with("/leader") { "text/event-stream" } else { "*/*" };
        let request = Request::get(format!("http://{addr}{path}")).header("accept", accept);
        let response = client().request(request.body(Full::default()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        assert_eq!(parts.status, 200);
        Self { headers: parts.headers, body, buffer: String::new(), lines: VecDeque::new() }
    }

    /// The next line without its line feed; none at the end.
    pub(crate) async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            let frame = tokio::time::timeout(limit(), self.body.frame()).await.expect("something on the stream")?;
            let bytes = frame.ok()?.into_data().unwrap();
            self.buffer.push_str(std::str::from_utf8(&bytes).unwrap());
            while let Some((line, rest)) = self.buffer.split_once('\n') {
                self.lines.push_back(line.to_owned());
                self.buffer = rest.to_owned();
            }
        }
    }

    /// The JSON of the next event; checks the framing (B4).
    pub(crate) async fn next_text(&mut self) -> Option<String> {
        let line = self.line().await?;
        let data = line.strip_prefix("data: ").unwrap_or_else(|| panic!("not data: {line:?}")).to_owned();
        assert_eq!(self.line().await.as_deref(), Some(""));
        Some(data)
    }

    pub(crate) async fn next(&mut self) -> Event {
        let text = self.next_text().await.expect("an event");
        serde_json::from_str(&text).unwrap()
    }

    /// Kind and instance id (or nothing) of the next events.
    pub(crate) async fn kinds(&mut self, count: usize) -> Vec<(String, String)> {
        let mut kinds = Vec::new();
        for _ in 0..count {
            let event = self.next().await;
            kinds.push((event.kind.to_string(), event.instance.map(|i| i.id).unwrap_or_default()));
        }
        kinds
    }
}
