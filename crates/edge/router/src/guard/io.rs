//! The connection that hyper reads from.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::linger::Linger;
use super::scan::Scanner;
use super::stall::Stall;
use super::{Conversation, Refusal, STAND_IN};
use crate::metrics::ClientsEnded;
use crate::settings::Limits;

/// A connection whose reader sees only sound request heads, and its end when the client is too slow.
pub(crate) struct Guarded<S> {
    stream: S,
    conversation: Arc<Conversation>,
    limits: Limits,
    scanner: Scanner,
    /// Read but not passed on: first what is cleared, then the begin of a head.
    held: BytesMut,
    cleared: usize,
    /// Set for a request head that has begun to come.
    head_since: Option<Instant>,
    /// Wakes the reader when a limit may be over; set late and rarely, because limits mostly are not.
    alarm: Option<Pin<Box<Sleep>>>,
    stall: Stall,
    ended: ClientsEnded,
    closing: Closing,
}

enum Closing {
    No,
    /// The stand-in was passed on; nothing else will be.
    Refused,
    /// Our side is closed, or about to be.
    Lingering(Linger),
}

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S, conversation: Arc<Conversation>, limits: Limits, ended: ClientsEnded) -> Self {
        Self {
            stall: Stall::new(limits.response_pause),
            ended,
            stream,
            conversation,
            limits,
            scanner: Scanner::default(),
            held: BytesMut::new(),
            cleared: 0,
            // The first request has to come as fast as any.
            head_since: Some(Instant::now()),
            alarm: None,
            closing: Closing::No,
        }
    }

    /// Passes on what is cleared.
    fn release(&mut self, buf: &mut ReadBuf<'_>) {
        let part = self.cleared.min(buf.remaining());
        buf.put_slice(&self.held[..part]);
        self.held.advance(part);
        self.cleared -= part;
        if self.held.is_empty() {
            self.held = BytesMut::new(); // idle connections hold no memory
        }
    }

    /// Notes whether a head is under way, after bytes have come.
    fn note_head(&mut self) {
        let partial = self.held.len() > self.cleared && self.scanner.at_head();
        match (partial, self.head_since) {
            (true, None) => self.head_since = Some(Instant::now()),
            (false, _) => self.head_since = None,
            (true, Some(_)) => {}
        }
    }

    /// When waiting for the client is over, if nothing comes; `None` while it may take its time.
    fn deadline(&self) -> Option<Instant> {
        if !self.scanner.at_head() || !self.conversation.is_idle() {
            return None;
        }
        Some(match self.head_since {
            Some(since) => since + self.limits.request_head,
            None => self.conversation.idle_since() + self.limits.idle,
        })
    }

    /// Whether the client has kept us waiting for too long.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let deadline = self.deadline();
            // While a request is answered nothing is due; looked at again later all the same.
            let wake = deadline.unwrap_or_else(|| Instant::now() + self.limits.request_head);
            let Some(alarm) = &mut self.alarm else {
                self.alarm = Some(Box::pin(tokio::time::sleep_until(wake)));
                continue;
            };
            if alarm.deadline() > wake {
                alarm.as_mut().reset(wake);
            }
            ready!(alarm.as_mut().poll(cx));
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                if self.head_since.is_some() {
                    self.ended.slow_head.inc();
                }
                return Poll::Ready(());
            }
            alarm.as_mut().reset(wake.max(Instant::now() + Duration::from_millis(1)));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.cleared > 0 {
                this.release(buf);
                return Poll::Ready(Ok(()));
            }
            if !matches!(this.closing, Closing::No) {
                // hyper is busy with the refusal and closes afterwards.
                return Poll::Pending;
            }
            let passed_on = if this.held.is_empty() {
                ready!(this.poll_read_through(cx, buf))?
            } else {
                ready!(this.poll_read_held(cx))?
            };
            if passed_on {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> Guarded<S> {
    /// Reads straight into the reader's buffer and takes back what may not pass yet. Gives whether the reader has its
    /// answer: bytes, or the end.
    fn poll_read_through(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => return self.poll_overdue(cx).map(|()| Ok(true)),
            Poll::Ready(read) => read?,
        }
        let fresh = &buf.filled()[before..];
        if fresh.is_empty() {
            return Poll::Ready(Ok(true));
        }
        let scanned = self.scanner.feed(fresh);
        if scanned.refused.is_some() || scanned.cleared < fresh.len() {
            self.held.extend_from_slice(&fresh[scanned.cleared..]);
            buf.set_filled(before + scanned.cleared);
            self.refuse(0, scanned.refused);
        }
        self.note_head();
        Poll::Ready(Ok(scanned.cleared > 0))
    }

    /// Reads more of a head that is held back. Gives whether the client has ended.
    fn poll_read_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut space = [0; 8 * 1024];
        let mut more = ReadBuf::new(&mut space);
        match Pin::new(&mut self.stream).poll_read(cx, &mut more) {
            Poll::Pending => return self.poll_overdue(cx).map(|()| Ok(true)),
            Poll::Ready(read) => read?,
        }
        if more.filled().is_empty() {
            return Poll::Ready(Ok(true));
        }
        self.held.extend_from_slice(more.filled());
        let scanned = self.scanner.feed(&self.held);
        self.cleared = scanned.cleared;
        self.refuse(scanned.cleared, scanned.refused);
        self.note_head();
        Poll::Ready(Ok(false))
    }

    /// Replaces a refused head, which is what is held from `at` on, by its stand-in.
    fn refuse(&mut self, at: usize, refusal: Option<Refusal>) {
        let Some(refusal) = refusal else { return };
        self.held.truncate(at);
        self.held.extend_from_slice(STAND_IN);
        self.cleared = self.held.len();
        self.conversation.refuse(refusal);
        self.closing = Closing::Refused;
    }
}

impl<S> Guarded<S> {
    /// Lets a write that makes no progress fail. What follows an upgrade may take as long as it likes.
    fn minded<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if self.scanner.is_opaque() {
            return polled;
        }
        self.stall.mind(cx, polled, &self.ended.slow_response)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.minded(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.minded(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        this.minded(cx, polled)
    }

    /// After a refusal, or an answer that did not wait for the body's end, the client may still be sending.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.closing, Closing::Refused) || matches!(this.closing, Closing::No) && this.scanner.in_body() {
            this.closing = Closing::Lingering(Linger::default());
        }
        let polled = match &mut this.closing {
            Closing::Lingering(linger) => linger.poll(cx, &mut this.stream),
            _ => Pin::new(&mut this.stream).poll_shutdown(cx),
        };
        this.minded(cx, polled)
    }
}
