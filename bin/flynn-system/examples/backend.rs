//! A backend for tests: a process of its own, so that it can be killed and frozen. It answers each GET with its name, each
//! POST with the body that it got, and a WebSocket with an echo of each message. `GET /-/MODE` changes how it answers from then on: `good`, `slow` or `garbage`. Arguments: the name, and a port.

#![expect(clippy::print_stdout, reason = "tells its port to the test that started it")]

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

#[derive(Clone, Copy)]
enum Mode {
    Good,
    Slow,
    Garbage,
}

/// How long a slow answer takes.
const SLOW: Duration = Duration::from_millis(500);

fn main() -> io::Result<()> {
    let name = std::env::args().nth(1).unwrap_or_default();
    let port = std::env::args().nth(2).and_then(|port| port.parse().ok()).unwrap_or(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        println!("{}", listener.local_addr()?.port());
        let mode = Rc::new(Cell::new(Mode::Good));
        loop {
            let (stream, _) = listener.accept().await?;
            let (name, mode) = (name.clone(), Rc::clone(&mode));
            // A client that goes away is no failure of ours.
            tokio::task::spawn_local(async move { drop(answer(stream, &name, &mode).await) });
        }
    })
}

async fn answer(stream: TcpStream, name: &str, mode: &Cell<Mode>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        match head.split(' ').nth(1) {
            Some("/-/slow") => mode.set(Mode::Slow),
            Some("/-/garbage") => mode.set(Mode::Garbage),
            Some("/-/good") => mode.set(Mode::Good),
            _ => match mode.get() {
                Mode::Good => {}
                Mode::Slow => tokio::time::sleep(SLOW).await,
                Mode::Garbage => stream.write_all(b"\x16\x03 this is no HTTP\r\n\r\n").await?,
            },
        }
        if head.to_ascii_lowercase().contains("upgrade: websocket") {
            let accept = accept_of(&head);
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).await?;
            return echo(stream).await;
        }
        let mut body = body(&mut stream, &head).await?;
        if body.is_empty() {
            body.extend_from_slice(name.as_bytes());
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[answer.as_bytes(), &body].concat()).await?;
    }
}

/// The body of a request, whole.
async fn body(stream: &mut BufReader<TcpStream>, head: &str) -> io::Result<Vec<u8>> {
    let head = head.to_ascii_lowercase();
    if head.contains("expect: 100-continue") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let mut body = Vec::new();
    if head.contains("transfer-encoding: chunked") {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).await?;
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.resize(length.unwrap_or(0), 0);
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// The answer to a client's key (RFC 6455 section 1.3).
fn accept_of(head: &str) -> String {
    const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let key = fields.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key")).map_or("", |(_, key)| key.trim());
    base64::engine::general_purpose::STANDARD.encode(Sha1::digest(format!("{key}{GUID}")))
}

/// Sends each frame back, of at most 125 bytes, until the client closes (RFC 6455 section 5.2).
async fn echo(mut stream: BufReader<TcpStream>) -> io::Result<()> {
    loop {
        let mut head = [0; 6]; // two bytes and the client's mask
        stream.read_exact(&mut head).await?;
        let mut payload = vec![0; usize::from(head[1] & 0x7f)];
        stream.read_exact(&mut payload).await?;
        payload.iter_mut().zip(head[2..].iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        stream.write_all(&[&[head[0], head[1] & 0x7f], payload.as_slice()].concat()).await?;
        if head[0] & 0x0f == 8 {
            return Ok(());
        }
    }
}
