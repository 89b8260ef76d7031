//! Frames on a connection, and the job's terminal as an asynchronous stream.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use flynn_container::Container;
use flynn_types::error::with_causes;
use flynn_types::host::attach::Frame;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::Gone;

/// Reads frames of a client.
pub(super) struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
    closed: bool,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, buffer: BytesMut::with_capacity(16 * 1024), closed: false }
    }

    /// The next frame; `None` at the end and after bytes that are no frame. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        loop {
            match Frame::decode(&self.buffer) {
                Ok(Some((frame, used))) => {
                    self.buffer.advance(used);
                    return Some(frame);
                }
                Ok(None) => {}
                Err(err) => {
                    tracing::debug!(%err, "attached client sends what is no frame");
                    return None;
                }
            }
            if self.fill().await.is_err() {
                return None;
            }
        }
    }

    async fn fill(&mut self) -> Result<(), Gone> {
        match self.reader.read_buf(&mut self.buffer).await {
            Ok(n) if n > 0 => Ok(()),
            _ => {
                self.closed = true;
                Err(Gone)
            }
        }
    }

    /// Waits for the end of the connection; what arrives before is kept, up to a bound.
    pub(super) async fn closed(&mut self) {
        const EARLY: usize = 1 << 20;
        if self.closed {
            return;
        }
        while self.buffer.len() < EARLY {
            if self.fill().await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    }
}

/// Writes frames to a client.
pub(super) struct FrameWriter<W> {
    writer: W,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub(super) fn new(writer: W) -> Self {
        Self { writer }
    }

    pub(super) async fn send(&mut self, frame: Frame) -> Result<(), Gone> {
        self.writer.write_all(&frame.encode()).await.map_err(|_| Gone)?;
        self.writer.flush().await.map_err(|_| Gone)
    }

    pub(super) async fn close(&mut self) {
        let _ = self.writer.shutdown().await; // the client may have closed first
    }
}

/// Both directions of a job's terminal.
pub(super) async fn open_terminal(container: &Container) -> Result<(Terminal, Terminal), String> {
    let master = container.take_pty().await.map_err(|err| with_causes(&err))?;
    let other = master.try_clone().map_err(|err| err.to_string())?;
    let open = |fd| Terminal::new(fd).map_err(|err: io::Error| format!("open the job's terminal: {err}"));
    Ok((open(other)?, open(master)?))
}

/// The master side of a terminal.
pub(super) struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        #[expect(deprecated, reason = "the new constructor is unsafe; an owned descriptor stays open as long as this")]
        let registered = AsyncFd::new(fd)?;
        Ok(Self(registered))
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            match guard.try_io(|fd| Ok(rustix::io::read(fd.as_fd(), buf.initialize_unfilled())?)) {
                Ok(Ok(n)) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                // The last process with the terminal is gone.
                Ok(Err(err)) if err.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(err)) => return Poll::Ready(Err(err)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(written) = guard.try_io(|fd| Ok(rustix::io::write(fd.as_fd(), buf)?)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
