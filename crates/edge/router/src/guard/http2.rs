//! The connection that hyper reads HTTP/2 from.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frames::{Frames, HEAD};
use super::linger::Linger;
use super::stall::Stall;
use crate::metrics::ClientsEnded;
use crate::settings::Limits;

/// Frames of one header block: more than h2 takes for the longest header fields that we allow.
const STAND_IN_PARTS: usize = 64;

/// Passes on an HTTP/2 client's bytes until they are a flood; then, in place of all that follows, frames for which h2
/// ends the connection with ENHANCE_YOUR_CALM: only h2 knows where in its own stream that can be said.
pub(crate) struct GuardedHttp2<S> {
    stream: S,
    frames: Frames,
    /// Passes on next, once there is a whole head.
    held: BytesMut,
    /// All of `held` may pass.
    is_cleared: bool,
    earned_until: Instant,
    sent: u64,
    is_flood: bool,
    stall: Stall,
    linger: Option<Linger>,
    ended: ClientsEnded,
}

impl<S> GuardedHttp2<S> {
    pub(crate) fn new(stream: S, limits: &Limits, ended: ClientsEnded) -> Self {
        Self {
            stream,
            frames: Frames::default(),
            held: BytesMut::new(),
            is_cleared: false,
            earned_until: Instant::now(),
            sent: 0,
            is_flood: false,
            stall: Stall::new(limits.response_pause),
            linger: None,
            ended,
        }
    }

    fn earn(&mut self) {
        let now = Instant::now();
        self.frames.earn(now - self.earned_until, std::mem::take(&mut self.sent));
        self.earned_until = now;
    }

    /// Lets the stand-in follow.
    fn calm(&mut self) {
        self.ended.flood.inc();
        self.is_flood = true;
        self.held.clear();
        // HEADERS and many CONTINUATIONs, all empty, of a stream that nobody has; none is the block's last.
        self.held.extend_from_slice(&[0, 0, 0, 1, 0, 0x7f, 0xff, 0xff, 0xff]);
        for _ in 0..STAND_IN_PARTS {
            self.held.extend_from_slice(&[0, 0, 0, 9, 0, 0x7f, 0xff, 0xff, 0xff]);
        }
        self.is_cleared = true;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GuardedHttp2<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.is_cleared {
                let part = this.held.len().min(buf.remaining());
                buf.put_slice(&this.held[..part]);
                this.held.advance(part);
                this.is_cleared = !this.held.is_empty();
                return Poll::Ready(Ok(()));
            }
            if this.is_flood {
                // h2 is busy with the stand-in and closes afterwards.
                return Poll::Pending;
            }
            let before = buf.filled().len();
            if this.held.is_empty() {
                ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
                let fresh = &buf.filled()[before..];
                if fresh.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                this.earn();
                let watched = this.frames.feed(&buf.filled()[before..]);
                this.held.extend_from_slice(&buf.filled()[before + watched.cleared..]);
                buf.set_filled(before + watched.cleared);
                if watched.is_flood {
                    this.calm();
                }
                if watched.cleared > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                // The rest of a frame's head and no more, so that all of what is held passes.
                let mut space = [0; HEAD];
                let mut more = ReadBuf::new(&mut space[this.held.len()..]);
                ready!(Pin::new(&mut this.stream).poll_read(cx, &mut more))?;
                if more.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
                this.held.extend_from_slice(more.filled());
                let watched = this.frames.feed(&this.held);
                this.is_cleared = watched.cleared == HEAD;
                if watched.is_flood {
                    this.calm();
                }
            }
        }
    }
}

impl<S> GuardedHttp2<S> {
    fn minded<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.stall.mind(cx, polled, &self.ended.slow_response)
    }

    fn wrote(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = &polled {
            self.sent += *written as u64;
        }
        self.minded(cx, polled)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for GuardedHttp2<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        this.minded(cx, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = this.linger.get_or_insert_default().poll(cx, &mut this.stream);
        this.minded(cx, polled)
    }
}
