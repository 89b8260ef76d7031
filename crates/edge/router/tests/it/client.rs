//! A client that writes bytes and reads responses, so that tests see what is really sent.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::rig::within;

pub(crate) struct Client<S = TcpStream> {
    pub(crate) stream: S,
    buffer: Vec<u8>,
}

/// A response as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In the order of their coming, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) is_complete: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::new(within(TcpStream::connect(address)).await.expect("the router listens"))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.stream.write_all(bytes.as_ref())).await.expect("the router reads");
        within(self.stream.flush()).await.expect("the router reads");
    }

    pub(crate) async fn get(&mut self, host: &str, path: &str) -> Answer {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
    }

    /// Sends a request and reads its response.
    pub(crate) async fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        let is_head = request.as_ref().starts_with(b"HEAD ");
        self.send(request).await;
        self.answer(is_head).await
    }

    /// Reads a response to its end, or to where it breaks off.
    pub(crate) async fn answer(&mut self, is_head: bool) -> Answer {
        let mut answer = self.head().await;
        if is_head || answer.status < 200 || answer.status == 204 || answer.status == 304 {
            return answer;
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.is_complete = self.chunks(&mut answer).await;
        } else if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().expect("a length");
            answer.is_complete = self.fill(length).await;
            answer.body = self.buffer.drain(..length.min(self.buffer.len())).collect();
        } else {
            while self.more().await {}
            answer.body = std::mem::take(&mut self.buffer);
        }
        answer
    }

    /// Reads the head of a request, in the place of a backend; empty when the router has closed the connection.
    pub(crate) async fn head_of_request(&mut self) -> String {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return String::from_utf8_lossy(&head).into_owned();
            }
            if !self.more().await {
                return String::new();
            }
        }
    }

    /// Reads the head of a response, past interim ones.
    pub(crate) async fn head(&mut self) -> Answer {
        loop {
            let end = loop {
                if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                    break end + 4;
                }
                assert!(self.more().await, "the connection ended within a head: {:?}", self.buffer);
            };
            let head: Vec<u8> = self.buffer.drain(..end).collect();
            let answer = parse_head(&head);
            if answer.status != 100 {
                return answer;
            }
        }
    }

    /// Reads exactly so many bytes of what follows.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        assert!(self.fill(count).await, "only {:?} came", self.buffer);
        self.buffer.drain(..count).collect()
    }

    /// Number of bytes that came with what was asked for; they are dropped.
    pub(crate) fn read_already(&mut self) -> usize {
        std::mem::take(&mut self.buffer).len()
    }

    /// Everything until the connection ends.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.buffer)
    }

    /// Whether the connection ends without another byte.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.more().await
    }

    async fn chunks(&mut self, answer: &mut Answer) -> bool {
        loop {
            let Some(line) = self.line().await else { return false };
            let size = usize::from_str_radix(line.trim(), 16).expect("the size of a chunk");
            if size == 0 {
                break;
            }
            if !self.fill(size + 2).await {
                answer.body.append(&mut self.buffer);
                return false;
            }
            answer.body.extend(self.buffer.drain(..size));
            self.buffer.drain(..2);
        }
        loop {
            let Some(line) = self.line().await else { return false };
            if line.is_empty() {
                return true;
            }
            answer.trailers.push(field(&line));
        }
    }

    /// What comes up to the next CR LF; `None` at the end.
    pub(crate) async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn fill(&mut self, count: usize) -> bool {
        while self.buffer.len() < count {
            if !self.more().await {
                return false;
            }
        }
        true
    }

    /// Reads on; false at the end, however it came.
    async fn more(&mut self) -> bool {
        let mut space = [0; 16 * 1024];
        match within(self.stream.read(&mut space)).await {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&space[..count]);
                true
            }
        }
    }
}

/// A connection from another address of this machine.
pub(crate) async fn from(address: &str, to: SocketAddr) -> Client {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(address.parse().expect("an address"), 0)).expect("loopback has it");
    Client::new(within(socket.connect(to)).await.expect("the router listens"))
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').expect("a field has a colon");
    (name.to_ascii_lowercase(), value.trim().to_owned())
}

fn parse_head(head: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.trim_end().split("\r\n");
    let status_line = lines.next().expect("a status line");
    let mut words = status_line.split(' ');
    assert!(matches!(words.next(), Some("HTTP/1.0" | "HTTP/1.1")), "{status_line:?} begins no response");
    let status = words.next().and_then(|status| status.parse().ok()).expect("a status");
    let headers = lines.map(field).collect();
    Answer { status, headers, body: Vec::new(), trailers: Vec::new(), is_complete: true }
}
