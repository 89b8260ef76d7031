//! Connections that begin with a PROXY header: reading it, and giving back what was read too much.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::proxy_protocol::{Parsed, parse};

/// A connection of which the first bytes were read already.
pub(crate) struct Replay {
    first: BytesMut,
    stream: TcpStream,
}

impl From<TcpStream> for Replay {
    fn from(stream: TcpStream) -> Self {
        Self { first: BytesMut::new(), stream }
    }
}

impl Replay {
    /// The first `count` bytes that are to come, which are read again afterwards; fewer when the client ends before.
    pub(crate) async fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        while self.first.len() < count {
            if self.stream.read_buf(&mut self.first).await? == 0 {
                break;
            }
        }
        Ok(&self.first[..count.min(self.first.len())])
    }
}

/// Reads a PROXY header, if there is one. A client that sends nothing is left to the next limit.
pub(crate) async fn read_proxy_header(mut stream: TcpStream) -> io::Result<(Option<SocketAddr>, Replay)> {
    let mut first = BytesMut::new();
    loop {
        match parse(&first).map_err(io::Error::other)? {
            Parsed::Incomplete => {
                if stream.read_buf(&mut first).await? == 0 {
                    return Ok((None, Replay { first, stream }));
                }
            }
            Parsed::Absent => return Ok((None, Replay { first, stream })),
            Parsed::Header { length, source } => {
                first.advance(length);
                return Ok((source, Replay { first, stream }));
            }
        }
    }
}

impl AsyncRead for Replay {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.first.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let part = this.first.len().min(buf.remaining());
        buf.put_slice(&this.first.split_to(part));
        if this.first.is_empty() {
            this.first = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replay {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
