//! Bytes both ways between two connections, until both have ended.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read at once. The space is the thread's: a tunnel has memory of its own only while its reader is slower.
const PIECE: usize = 32 * 1024;

thread_local! {
    static SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into_boxed_slice());
}

/// Bytes that a tunnel has carried so far.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// From the first connection to the second.
    pub(crate) there: Cell<u64>,
    pub(crate) back: Cell<u64>,
}

/// One of the two ways.
struct Way<'a> {
    /// Read but not written: what did not fit.
    pending: Vec<u8>,
    written: usize,
    flush: bool,
    state: State,
    bytes: &'a Cell<u64>,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The reader's end was reached and has to be passed on.
    Ended,
    Done,
}

/// Copies until both sides have ended; an end is passed on, while the other way goes on.
pub(crate) async fn copy_both_ways<A, B>(a: &mut A, b: &mut B, traffic: &Traffic) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (Way::new(&traffic.there), Way::new(&traffic.back));
    std::future::poll_fn(|cx| {
        let first = there.poll(cx, a, b)?;
        let second = back.poll(cx, b, a)?;
        if first.is_ready() && second.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

impl<'a> Way<'a> {
    fn new(bytes: &'a Cell<u64>) -> Self {
        Self { pending: Vec::new(), written: 0, flush: false, state: State::Open, bytes }
    }

    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while self.written < self.pending.len() {
                self.written += ready!(write(cx, to, &self.pending[self.written..]))?;
            }
            if !self.pending.is_empty() {
                (self.pending, self.written) = (Vec::new(), 0);
            }
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Ended => {
                    // A peer that is gone needs no end.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.state = State::Done;
                    continue;
                }
                State::Open => {}
            }
            if SPACE.with_borrow_mut(|space| self.poll_piece(cx, from, to, space))?.is_pending() {
                if self.flush {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    self.flush = false;
                }
                return Poll::Pending;
            }
        }
    }

    /// Reads once and writes what can be written; the rest is kept.
    fn poll_piece<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        space: &mut [u8],
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut piece = ReadBuf::new(space);
        match ready!(Pin::new(from).poll_read(cx, &mut piece)) {
            // TLS peers that just close.
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => {}
            read => read?,
        }
        let mut rest = piece.filled();
        if rest.is_empty() {
            self.state = State::Ended;
            return Poll::Ready(Ok(()));
        }
        self.bytes.set(self.bytes.get() + rest.len() as u64);
        self.flush = true;
        while !rest.is_empty() {
            match write(cx, to, rest) {
                Poll::Ready(written) => rest = &rest[written?..],
                Poll::Pending => {
                    self.pending = rest.to_vec();
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn write<W: AsyncWrite + Unpin>(cx: &mut Context<'_>, to: &mut W, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(Ok(written)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn an_end_is_passed_on_while_the_other_way_goes_on() {
        let ((mut client, mut near), (mut far, mut backend)) = (duplex(7), duplex(5));
        let traffic = Traffic::default();
        let tunnel = async {
            copy_both_ways(&mut near, &mut far, &traffic).await.unwrap();
            drop((near, far));
        };
        let text = "x".repeat(10_000);
        let sent = text.clone();
        let sending = tokio::spawn(async move {
            client.write_all(sent.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            client
        });
        let talk = async {
            let mut received = String::new();
            backend.read_to_string(&mut received).await.unwrap();
            assert_eq!(received, text);
            let mut client = sending.await.unwrap();
            backend.write_all(b"still here").await.unwrap();
            drop(backend);
            received.clear();
            client.read_to_string(&mut received).await.unwrap();
            assert_eq!(received, "still here");
        };
        tokio::join!(tunnel, talk);
        assert_eq!((traffic.there.get(), traffic.back.get()), (10_000, 10));
    }
}
