//! One query to one upstream.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::matching;
use crate::wire::Response;
use crate::zone::Transport;

/// Longest UDP answer that we pass on.
const UDP_BUFFER: usize = 8192;

/// Sends the query as it is, over the transport that the client used.
pub(super) async fn ask(
    upstream: SocketAddr,
    query: &[u8],
    question_end: usize,
    transport: Transport,
) -> io::Result<(Vec<u8>, Response)> {
    match transport {
        Transport::Udp => over_udp(upstream, query, question_end).await,
        Transport::Tcp => over_tcp(upstream, query, question_end).await,
    }
}

/// A socket of its own for every query: the kernel's choice of port is what makes an answer hard to forge.
async fn over_udp(upstream: SocketAddr, query: &[u8], question_end: usize) -> io::Result<(Vec<u8>, Response)> {
    let any: SocketAddr =
        if upstream.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; UDP_BUFFER];
    loop {
        let len = socket.recv(&mut buffer).await?;
        // Anything else is late, foreign or forged.
        if let Some(response) = matching(query, question_end, &buffer[..len]) {
            buffer.truncate(len);
            return Ok((buffer, response));
        }
    }
}

async fn over_tcp(upstream: SocketAddr, query: &[u8], question_end: usize) -> io::Result<(Vec<u8>, Response)> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(query.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut framed = Vec::with_capacity(query.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut packet = vec![0; usize::from(length)];
    stream.read_exact(&mut packet).await?;
    match matching(query, question_end, &packet) {
        Some(response) => Ok((packet, response)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not for the question")),
    }
}
