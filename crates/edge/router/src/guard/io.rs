//! The connection that hyper reads from.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::scan::Scanner;
use super::{Refusal, STAND_IN};
use crate::settings::Limits;

/// Bytes that are read and thrown away at the end, so that the last answer is not lost to a reset.
const LINGER_BYTES: usize = 256 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// What the connection and the requests on it tell each other.
///
/// All on one thread; atomics only because hyper wants a connection that could be sent to another.
#[derive(Debug)]
pub(crate) struct Conversation {
    begin: Instant,
    /// Requests that are not answered completely.
    busy: AtomicU32,
    /// When the last one was, in milliseconds after the begin.
    idle_since_ms: AtomicU64,
    refusal: OnceLock<Refusal>,
}

impl Conversation {
    pub(crate) fn new() -> Arc<Self> {
        let (busy, idle_since_ms) = (AtomicU32::new(0), AtomicU64::new(0));
        Arc::new(Self { begin: Instant::now(), busy, idle_since_ms, refusal: OnceLock::new() })
    }

    /// A request begins; it ends when the guard is dropped.
    pub(crate) fn request(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Why the request was refused, for which the stand-in came.
    pub(crate) fn refusal(&self) -> Refusal {
        self.refusal.get().copied().unwrap_or(Refusal::Malformed("the request is not HTTP"))
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
    }

    /// Waits until no request came for so long. For HTTP/2; a guarded connection minds its own time.
    pub(crate) async fn idle_for(&self, limit: Duration) {
        loop {
            let due = if self.is_idle() { self.idle_since() + limit } else { Instant::now() + limit };
            tokio::time::sleep_until(due).await;
            if self.is_idle() && self.idle_since() + limit <= Instant::now() {
                return;
            }
        }
    }

    fn idle_since(&self) -> Instant {
        self.begin + Duration::from_millis(self.idle_since_ms.load(Ordering::Relaxed))
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Conversation>);

impl Drop for Busy {
    fn drop(&mut self) {
        let now_ms = u64::try_from(self.0.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.idle_since_ms.store(now_ms, Ordering::Relaxed);
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

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
    closing: Closing,
}

enum Closing {
    No,
    /// The stand-in was passed on; nothing else will be.
    Refused,
    /// Our side is closed; the client's last bytes are thrown away until it closes, too.
    Lingering {
        left: usize,
        until: Pin<Box<Sleep>>,
    },
}

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S, conversation: Arc<Conversation>, limits: Limits) -> Self {
        Self {
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
        let _ = self.conversation.refusal.set(refusal); // nothing follows a refusal
        self.closing = Closing::Refused;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
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

    /// After a refusal the client may still be sending: closing at once would make the kernel reset the connection, and
    /// the client would never read why.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.closing {
                Closing::No => return Pin::new(&mut this.stream).poll_shutdown(cx),
                Closing::Refused => {
                    ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                    let until = Box::pin(tokio::time::sleep(LINGER_TIME));
                    this.closing = Closing::Lingering { left: LINGER_BYTES, until };
                }
                Closing::Lingering { left, until } => {
                    let mut space = [0; 8 * 1024];
                    let mut waste = ReadBuf::new(&mut space);
                    match Pin::new(&mut this.stream).poll_read(cx, &mut waste) {
                        Poll::Ready(Ok(())) if !waste.filled().is_empty() && *left > waste.filled().len() => {
                            *left -= waste.filled().len();
                        }
                        Poll::Ready(_) => return Poll::Ready(Ok(())),
                        Poll::Pending => {
                            ready!(until.as_mut().poll(cx));
                            return Poll::Ready(Ok(()));
                        }
                    }
                }
            }
        }
    }
}
