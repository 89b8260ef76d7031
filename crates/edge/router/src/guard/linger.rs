//! The end of a connection whose client may still be sending.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Bytes that are read and thrown away, and for how long.
const BYTES: usize = 4 << 20;
const TIME: Duration = Duration::from_secs(5);

/// Closes our side first and throws away what the client sends until it closes, too. Closing all at once would make the
/// kernel reset the connection, and the client would never read the last answer.
pub(super) struct Linger {
    left: usize,
    until: Option<Pin<Box<Sleep>>>,
}

impl Default for Linger {
    fn default() -> Self {
        Self { left: BYTES, until: None }
    }
}

impl Linger {
    pub(super) fn poll<S>(&mut self, cx: &mut Context<'_>, stream: &mut S) -> Poll<io::Result<()>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.until.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
        }
        let until = self.until.get_or_insert_with(|| Box::pin(tokio::time::sleep(TIME)));
        let mut space = [0; 8 * 1024];
        loop {
            let mut waste = ReadBuf::new(&mut space);
            match Pin::new(&mut *stream).poll_read(cx, &mut waste) {
                Poll::Ready(Ok(())) if !waste.filled().is_empty() && self.left > waste.filled().len() => {
                    self.left -= waste.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return until.as_mut().poll(cx).map(Ok),
            }
        }
    }
}
