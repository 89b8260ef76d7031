//! Attaching to a job (spec flynn-host section 4.6).

use bytes::{Buf as _, BytesMut};
use flynn_http::{ClientError, Hijacked};
use flynn_types::host::AttachRequest;
use flynn_types::host::attach::{Frame, InvalidFrame, PROTOCOL};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::watch;

use crate::Client;

/// Why an attached connection failed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Request(#[from] ClientError),
    #[error("the connection to the host broke: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Frame(#[from] InvalidFrame),
    /// The job does not exist yet, and the caller did not want to wait.
    #[error("cluster: attach would wait")]
    WouldWait,
    /// The host's reason.
    #[error("{0}")]
    Refused(String),
    #[error("the host closed the connection before it attached to the job")]
    Closed,
}

/// Frames from the job. A host may say [`Frame::Waiting`] first, then [`Frame::Success`] or [`Frame::Error`].
pub struct AttachReceiver {
    stream: ReadHalf<Hijacked>,
    buffer: BytesMut,
    attached: watch::Sender<bool>,
}

/// Frames to the job. Hosts take nothing before they are attached: frames wait until the receiver, read elsewhere, saw
/// that.
pub struct AttachSender {
    stream: WriteHalf<Hijacked>,
    attached: watch::Receiver<bool>,
}

impl Client {
    /// Attaches to a job, which need not exist yet.
    pub async fn attach(&self, request: &AttachRequest) -> Result<(AttachSender, AttachReceiver), ClientError> {
        let (read, write) = tokio::io::split(self.http.upgrade("/attach", request, PROTOCOL).await?);
        let (attached, told) = watch::channel(false);
        let receiver = AttachReceiver { stream: read, buffer: BytesMut::new(), attached };
        Ok((AttachSender { stream: write, attached: told }, receiver))
    }

    /// Attaches to a job that exists; returns when that is done.
    pub async fn attach_existing(
        &self,
        request: &AttachRequest,
    ) -> Result<(AttachSender, AttachReceiver), AttachError> {
        let (sender, mut receiver) = self.attach(request).await?;
        match receiver.next().await? {
            Some(Frame::Success) => Ok((sender, receiver)),
            Some(Frame::Waiting) => Err(AttachError::WouldWait),
            Some(Frame::Error(reason)) => Err(AttachError::Refused(reason)),
            Some(Frame::Data { .. } | Frame::Signal(_) | Frame::Exit(_) | Frame::Resize { .. }) | None => {
                Err(AttachError::Closed)
            }
        }
    }
}

impl AttachReceiver {
    /// The next frame; `None` at the end. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Frame>, AttachError> {
        loop {
            if let Some((frame, used)) = Frame::decode(&self.buffer)? {
                self.buffer.advance(used);
                if frame == Frame::Success {
                    self.attached.send_replace(true);
                }
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
    /// Sends a frame, once the host is attached. Not cancel safe: a frame may be cut in two.
    ///
    /// # Errors
    /// When the connection broke, or the receiver was dropped before the host was attached.
    pub async fn send(&mut self, frame: Frame) -> Result<(), AttachError> {
        self.attached.wait_for(|attached| *attached).await.map_err(|_| AttachError::Closed)?;
        self.stream.write_all(&frame.encode()).await?;
        Ok(self.stream.flush().await?)
    }
}
