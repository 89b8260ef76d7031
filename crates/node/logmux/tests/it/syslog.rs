//! Servers that receive what sinks send.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// All bytes, connection after connection, or datagrams as lines.
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    pub(crate) connections: usize,
}

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) received: Arc<Mutex<Received>>,
    tasks: JoinSet<()>,
}

impl Server {
    pub(crate) async fn tcp(addr: SocketAddr) -> Self {
        Self::streams(addr, None).await
    }

    pub(crate) async fn tls(names: &[&str]) -> (Self, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        (Self::streams((Ipv4Addr::LOCALHOST, 0).into(), Some(acceptor)).await, made.cert.pem())
    }

    async fn streams(addr: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Received::default()));
        let mut tasks = JoinSet::new();
        let log = Arc::clone(&received);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, tls) = (Arc::clone(&log), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => collect(stream, log).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                collect(stream, log).await;
                            }
                        }
                    }
                });
            }
        });
        Self { addr, received, tasks }
    }

    pub(crate) async fn udp() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = socket.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Received::default()));
        let mut tasks = JoinSet::new();
        let log = Arc::clone(&received);
        tasks.spawn(async move {
            let mut buffer = vec![0; 65536];
            loop {
                let len = socket.recv(&mut buffer).await.unwrap();
                let mut log = log.lock().unwrap();
                log.bytes.extend_from_slice(&buffer[..len]);
                log.bytes.push(b'\n');
            }
        });
        Self { addr, received, tasks }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().unwrap().bytes).into_owned()
    }

    pub(crate) fn connections(&self) -> usize {
        self.received.lock().unwrap().connections
    }

    /// Ends all connections; gives the address, to be used again.
    pub(crate) async fn stop(mut self) -> SocketAddr {
        self.tasks.shutdown().await;
        self.addr
    }
}

async fn collect(mut stream: impl AsyncRead + Unpin, log: Arc<Mutex<Received>>) {
    log.lock().unwrap().connections += 1;
    let mut buffer = vec![0; 65536];
    while let Ok(len @ 1..) = stream.read(&mut buffer).await {
        log.lock().unwrap().bytes.extend_from_slice(&buffer[..len]);
    }
}

/// Messages in octet counting frames without newlines; what is cut off at the end is left out.
pub(crate) fn octet_frames(bytes: &[u8]) -> Vec<String> {
    let (mut rest, mut found) = (bytes, Vec::new());
    while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
        let len: usize = std::str::from_utf8(&rest[..space]).unwrap().parse().expect("a length");
        let Some(message) = rest.get(space + 1..space + 1 + len) else { break };
        found.push(String::from_utf8_lossy(message).into_owned());
        rest = &rest[space + 1 + len..];
    }
    found
}

/// The last word of a message.
pub(crate) fn last_word(message: &str) -> String {
    message.rsplit(' ').next().unwrap().to_owned()
}

/// A log aggregator: syslog on one port, cursors over HTTP on another. Remembers the last message per connection it
/// accepted, as the real one does.
pub(crate) struct Aggregator {
    pub(crate) syslog: Server,
    pub(crate) http_port: u16,
    pub(crate) cursor: Arc<Mutex<Option<(String, u64)>>>,
    _tasks: JoinSet<()>,
}

impl Aggregator {
    pub(crate) async fn start(cursor: Option<(String, u64)>) -> Self {
        let syslog = Server::tcp((Ipv4Addr::LOCALHOST, 0).into()).await;
        let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let http_port = http.local_addr().unwrap().port();
        let cursor = Arc::new(Mutex::new(cursor));
        let mut tasks = JoinSet::new();
        let answer = Arc::clone(&cursor);
        tasks.spawn(async move {
            loop {
                let (stream, _) = http.accept().await.unwrap();
                let cursor = answer.lock().unwrap().clone();
                let _ = answer_cursors(stream, cursor).await;
            }
        });
        Self { syslog, http_port, cursor, _tasks: tasks }
    }
}

async fn answer_cursors(mut stream: TcpStream, cursor: Option<(String, u64)>) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    let len = stream.read(&mut buffer).await?;
    assert!(buffer[..len].starts_with(b"GET /cursors HTTP/1."));
    let cursors: BTreeMap<&str, serde_json::Value> =
        cursor.iter().map(|(time, seq)| ("host1", serde_json::json!({"time": time, "seq": seq}))).collect();
    let body = serde_json::to_string(&cursors).unwrap();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await
}
