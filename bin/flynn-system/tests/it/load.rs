//! Open-loop load: requests begin at their times, however long others take. Clients are strict: nothing is sent a second
//! time but what HTTP/2 tells was never taken.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::rig::{Router, limit};

/// Requests per second of each kind, and idle WebSockets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) keep_alive: u32,
    pub(crate) handshakes: u32,
    pub(crate) http2: u32,
    pub(crate) websockets: usize,
}

/// Requests that are under way at once. More would only tell that the machine is too slow for the plan.
const UNDER_WAY: usize = 4000;
/// Connections that the HTTP/2 requests share.
const HTTP2_CONNECTIONS: usize = 4;
/// A new connection for a request that was not taken, so many times.
const HTTP2_ATTEMPTS: usize = 5;

const KINDS: [&str; 3] = ["keep-alive", "handshake", "HTTP/2"];

type Http2 = http2::SendRequest<Empty<&'static [u8]>>;

/// What became of the requests.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// By kind.
    pub(crate) answered: [usize; 3],
    pub(crate) failures: Vec<String>,
}

struct Clients {
    plain: SocketAddr,
    tls: SocketAddr,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    idle: Mutex<VecDeque<TcpStream>>,
    shared: Vec<tokio::sync::Mutex<Option<Http2>>>,
    outcome: Mutex<Outcome>,
}

/// Load that goes on until it is stopped.
pub(crate) struct Load {
    runtime: Runtime,
    stop: CancellationToken,
    tasks: TaskTracker,
    clients: Arc<Clients>,
    websockets: Vec<TcpStream>,
}

impl Load {
    pub(crate) fn start(router: &Router, plan: Plan) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let clients = Arc::new(Clients {
            plain: router.address(),
            tls: router.tls_address(),
            http1: router.certificate.client(b"http/1.1"),
            http2: router.certificate.client(b"h2"),
            idle: Mutex::default(),
            shared: (0..HTTP2_CONNECTIONS).map(|_| tokio::sync::Mutex::default()).collect(),
            outcome: Mutex::default(),
        });
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let websockets = runtime.block_on(async {
            let mut websockets = Vec::new();
            for _ in 0..plan.websockets {
                websockets.push(open_websocket(clients.plain).await.expect("a WebSocket"));
            }
            websockets
        });
        let slots = Arc::new(Semaphore::new(UNDER_WAY));
        for (kind, rate) in [plan.keep_alive, plan.handshakes, plan.http2].into_iter().enumerate() {
            if rate > 0 {
                let offering = offer(kind, rate, Arc::clone(&clients), Arc::clone(&slots), tasks.clone());
                let stop = stop.clone();
                runtime.spawn(tasks.track_future(async move { stop.run_until_cancelled(offering).await }));
            }
        }
        Self { runtime, stop, tasks, clients, websockets }
    }

    /// How many requests were answered so far.
    pub(crate) fn answered(&self) -> usize {
        self.clients.outcome.lock().expect("no panic").answered.iter().sum()
    }

    /// Ends it, waits for all answers, and asks each WebSocket for a sign of life.
    pub(crate) fn stop(mut self) -> Outcome {
        self.stop.cancel();
        self.tasks.close();
        self.runtime.block_on(async {
            self.tasks.wait().await;
            for (number, socket) in self.websockets.iter_mut().enumerate() {
                let echoed = tokio::time::timeout(limit(), ping(socket)).await;
                let echoed = echoed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                if let Err(err) = echoed {
                    self.clients.outcome.lock().expect("no panic").failures.push(format!("WebSocket {number}: {err}"));
                }
            }
        });
        std::mem::take(&mut *self.clients.outcome.lock().expect("no panic"))
    }
}

/// Begins a request at each of its times.
async fn offer(kind: usize, rate: u32, clients: Arc<Clients>, slots: Arc<Semaphore>, tasks: TaskTracker) {
    let mut times = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut number = 0;
    loop {
        times.tick().await;
        let slot = Arc::clone(&slots).acquire_owned().await.expect("it is never closed");
        let clients = Arc::clone(&clients);
        number += 1;
        tasks.spawn(async move {
            let asked = tokio::time::timeout(limit(), clients.ask(kind, number)).await;
            let asked = asked.unwrap_or_else(|_| Err(format!("no answer within {:?}", limit())));
            let mut outcome = clients.outcome.lock().expect("no panic");
            match asked {
                Ok(()) => outcome.answered[kind] += 1,
                Err(reason) => outcome.failures.push(format!("{}: {reason}", KINDS[kind])),
            }
            drop(outcome);
            drop(slot);
        });
    }
}

impl Clients {
    async fn ask(&self, kind: usize, number: usize) -> Result<(), String> {
        match kind {
            0 => self.keep_alive().await,
            1 => self.handshake().await,
            _ => self.http2(&self.shared[number % self.shared.len()]).await,
        }
    }

    async fn keep_alive(&self) -> Result<(), String> {
        let (mut stream, is_new) = match self.idle() {
            Some(stream) => (stream, false),
            None => (TcpStream::connect(self.plain).await.map_err(|err| format!("connect: {err}"))?, true),
        };
        let keep = exchange(&mut stream, "").await.map_err(|reason| format!("{reason} (new: {is_new})"))?;
        if keep {
            self.idle.lock().expect("no panic").push_back(stream);
        }
        Ok(())
    }

    /// The connection that was idle for longest, of those whose end is not known.
    fn idle(&self) -> Option<TcpStream> {
        let mut idle = self.idle.lock().expect("no panic");
        while let Some(stream) = idle.pop_front() {
            if stream.try_read(&mut [0]).is_err_and(|err| err.kind() == io::ErrorKind::WouldBlock) {
                return Some(stream);
            }
        }
        None
    }

    async fn handshake(&self) -> Result<(), String> {
        let mut stream = connect_tls(self.tls, &self.http1).await?;
        exchange(&mut stream, "Connection: close\r\n").await.map(drop)
    }

    async fn http2(&self, shared: &tokio::sync::Mutex<Option<Http2>>) -> Result<(), String> {
        let mut last = String::new();
        for _ in 0..HTTP2_ATTEMPTS {
            let mut sender = {
                let mut shared = shared.lock().await;
                match shared.take().filter(|sender| !sender.is_closed()) {
                    Some(sender) => shared.insert(sender).clone(),
                    None => shared.insert(connect_http2(self.tls, &self.http2).await?).clone(),
                }
            };
            if let Err(err) = sender.ready().await {
                last = err.to_string(); // it ended before anything was sent
                continue;
            }
            let request = Request::get("https://localhost/").body(Empty::new()).expect("a request");
            match sender.try_send_request(request).await {
                Ok(response) if response.status() != StatusCode::OK => return Err(response.status().to_string()),
                Ok(response) => {
                    let body = response.into_body().collect().await.map_err(|err| format!("body: {err:?}"))?;
                    return expect_name(&body.to_bytes());
                }
                Err(mut err) => match (err.take_message(), format!("{:?}", err.into_error())) {
                    (Some(_), reason) => last = reason,
                    // GOAWAY without an error is told to streams that were not processed, and only to them (RFC 9113
                    // section 6.8): never sent, or not taken.
                    (None, reason) if reason.contains("NO_ERROR, Remote") => last = reason,
                    // What hyper still held when the connection ended, because of the limit of streams.
                    (None, reason) if reason.contains("DispatchGone") => last = reason,
                    (None, reason) => return Err(reason),
                },
            }
        }
        Err(format!("{last}, {HTTP2_ATTEMPTS} times"))
    }
}

async fn connect_tls(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let stream = TcpStream::connect(address).await.map_err(|err| format!("connect: {err}"))?;
    let name = ServerName::try_from("localhost").expect("a name");
    let shaken = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
    shaken.map_err(|err| format!("handshake: {err}"))
}

async fn connect_http2(address: SocketAddr, config: &Arc<ClientConfig>) -> Result<Http2, String> {
    let stream = connect_tls(address, config).await?;
    let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(|err| format!("HTTP/2 begins: {err}"))?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends a request and reads its answer. Whether the connection goes on.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, fields: &str) -> Result<bool, String> {
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|err| format!("send: {err}"))?;
    stream.flush().await.map_err(|err| format!("send: {err}"))?;
    let mut text = Vec::new();
    loop {
        let mut piece = [0; 2048];
        match stream.read(&mut piece).await {
            Ok(0) => return Err(format!("the connection ended after {} bytes", text.len())),
            Ok(count) => text.extend_from_slice(&piece[..count]),
            Err(err) => return Err(format!("receive after {} bytes: {err}", text.len())),
        }
        let Some(end) = text.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&text[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let Some(length) = length else { return Err(format!("no length: {head}")) };
        if text.len() < end + 4 + length {
            continue;
        }
        if !head.starts_with("http/1.1 200") {
            return Err(head.lines().next().unwrap_or_default().to_owned());
        }
        expect_name(&text[end + 4..])?;
        return Ok(!head.contains("connection: close"));
    }
}

fn expect_name(body: &[u8]) -> Result<(), String> {
    let is_name = body.starts_with(b"backend");
    if is_name { Ok(()) } else { Err(format!("wrong body: {}", String::from_utf8_lossy(body))) }
}

async fn open_websocket(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let is_open = head.starts_with(b"HTTP/1.1 101 ");
    if is_open { Ok(stream) } else { Err(io::Error::other(String::from_utf8_lossy(&head).into_owned())) }
}

/// A message there and back; the mask is of zeros.
async fn ping(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"\x81\x84\0\0\0\0ping").await?;
    let mut echo = [0; 6];
    stream.read_exact(&mut echo).await?;
    if &echo == b"\x81\x04ping" { Ok(()) } else { Err(io::Error::other(format!("{echo:?} came back"))) }
}
