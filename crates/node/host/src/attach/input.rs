//! From the client to the job: input, signals, terminal size.

use std::io;
use std::os::fd::OwnedFd;

use flynn_container::Container;
use flynn_types::host::attach::{self, Frame};
use tokio::io::{AsyncRead, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tracing::debug;

use super::io::{FrameReader, Terminal};

enum Target {
    /// Input was not asked for.
    None,
    Stdin(Option<pipe::Sender>),
    Terminal {
        terminal: Terminal,
        takes_data: bool,
    },
}

/// Where a client's frames go.
pub(super) struct Input {
    container: Container,
    target: Target,
}

impl Input {
    pub(super) fn none(container: Container) -> Self {
        Self { container, target: Target::None }
    }

    pub(super) fn stdin(container: Container, stdin: OwnedFd) -> io::Result<Self> {
        Ok(Self { container, target: Target::Stdin(Some(pipe::Sender::from_owned_fd(stdin)?)) })
    }

    pub(super) fn terminal(container: Container, takes_data: bool, terminal: Terminal) -> Self {
        Self { container, target: Target::Terminal { terminal, takes_data } }
    }

    /// Ends the job's input.
    pub(super) fn close(&mut self) {
        self.target = Target::None;
    }

    pub(super) fn takes_data(&self) -> bool {
        match &self.target {
            Target::None => false,
            Target::Stdin(_) => true,
            Target::Terminal { takes_data, .. } => *takes_data,
        }
    }

    /// Carries out frames until the client ends or sends one that does not fit.
    pub(super) async fn run<R: AsyncRead + Unpin>(&mut self, reader: &mut FrameReader<R>) {
        while let Some(frame) = reader.next().await {
            let name = frame_name(&frame);
            if let Err(reason) = self.accept(frame).await {
                debug!(frame = name, reason, "no longer reading from the attached client");
                if matches!(self.target, Target::Terminal { .. }) {
                    // The session goes on without input until the terminal or the connection ends.
                    reader.closed().await;
                }
                return;
            }
        }
    }

    async fn accept(&mut self, frame: Frame) -> Result<(), String> {
        match (frame, &mut self.target) {
            (Frame::Data { stream: attach::STREAM_STDIN, payload }, Target::Stdin(stdin)) => {
                if payload.is_empty() {
                    *stdin = None; // the job reads the end of its input
                    return Ok(());
                }
                let Some(pipe) = stdin else { return Err("data after the end of input".into()) };
                if let Err(err) = pipe.write_all(&payload).await {
                    *stdin = None;
                    return Err(format!("write the job's stdin: {err}"));
                }
                Ok(())
            }
            (
                Frame::Data { stream: attach::STREAM_STDIN, payload },
                Target::Terminal { terminal, takes_data: true },
            ) => {
                if payload.is_empty() {
                    return Err("end of input".into());
                }
                terminal.write_all(&payload).await.map_err(|err| format!("write the job's terminal: {err}"))
            }
            (Frame::Data { .. }, _) => Err("data for a stream that takes none".into()),
            (Frame::Signal(signal), _) => {
                let signal = i32::try_from(signal).map_err(|_| "no such signal")?;
                self.container.signal(signal).await.map_err(|err| err.to_string())
            }
            (Frame::Resize { height, width }, Target::Terminal { .. }) => {
                self.container.resize(height, width).await.map_err(|err| err.to_string())
            }
            (frame, _) => Err(format!("{} is not for this job", frame_name(&frame))),
        }
    }
}

fn frame_name(frame: &Frame) -> &'static str {
    match frame {
        Frame::Success => "success",
        Frame::Waiting => "waiting",
        Frame::Error(_) => "error",
        Frame::Data { .. } => "data",
        Frame::Signal(_) => "signal",
        Frame::Exit(_) => "exit",
        Frame::Resize { .. } => "resize",
    }
}
