//! Attaching to a job (spec flynn-host section 4.6).

use bytes::{Buf as _, BytesMut};
use flynn_http::{ClientError, Hijacked};
use flynn_types::host::AttachRequest;
use flynn_types::host::attach::{Frame, InvalidFrame, PROTOCOL};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};

use crate::Client;

/// Why an attached connection failed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Request(#[from] ClientError),
    #[error("the connection to the host broke")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Frame(#[from] InvalidFrame),
}

/// Frames from the job. A host may say [`Frame::Waiting`] first, then [`Frame::Success`] or [`Frame::Error`].
pub struct AttachReceiver {
    stream: ReadHalf<Hijacked>,
    buffer: BytesMut,
}

/// Frames to the job. Nothing may be sent before the host said that it is attached; what is sent earlier waits there.
pub struct AttachSender {
    stream: WriteHalf<Hijacked>,
}

impl Client {
    /// Attaches to a job, which need not exist yet.
    pub async fn attach(&self, request: &AttachRequest) -> Result<(AttachSender, AttachReceiver), ClientError> {
        let stream = self.http.upgrade("/attach", request, PROTOCOL).await?;
        let (read, write) = tokio::io::split(stream);
        Ok((AttachSender { stream: write }, AttachReceiver { stream: read, buffer: BytesMut::new() }))
    }
}

impl AttachReceiver {
    /// The next frame; `None` at the end. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Frame>, AttachError> {
        loop {
            if let Some((frame, used)) = Frame::decode(&self.buffer)? {
                self.buffer.advance(used);
                return Ok(Some(frame));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into())
                };
            }
        }
    }
}

impl AttachSender {
    pub async fn send(&mut self, frame: Frame) -> Result<(), AttachError> {
        self.stream.write_all(&frame.encode()).await?;
        Ok(self.stream.flush().await?)
    }
}
