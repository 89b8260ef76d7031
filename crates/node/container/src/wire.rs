//! Frames from and to a monitor over its Unix socket (format: `flynn_types::init`).

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use flynn_types::init::{MAX_FRAME_LEN, Report, Request, files};
use rustix::fs::{Mode, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Most descriptors that one message brings.
const MAX_FDS: usize = 8;

/// Connects to the monitor of a run directory. Its path may be longer than a socket address can hold (108 bytes), so
/// the directory is addressed by descriptor.
pub(crate) async fn connect(run_dir: &Path) -> io::Result<UnixStream> {
    let directory = rustix::fs::open(run_dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(socket_path(&directory)).await
}

/// Address of the control socket in a directory that is open as `directory`.
pub(crate) fn socket_path(directory: &OwnedFd) -> String {
    use std::os::fd::AsRawFd as _;
    format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), files::CONTROL_SOCKET)
}

/// Reads reports; what has arrived of the next one is kept here, so that reading may be cancelled at any time.
#[derive(Default)]
pub(crate) struct Reader {
    buffer: Vec<u8>,
    /// Descriptors that came with the bytes so far, in order; whoever handles a report takes those that belong to it.
    pub(crate) fds: VecDeque<OwnedFd>,
}

impl Reader {
    /// The next report; `None` when the monitor closed the connection between two reports. Cancel safe.
    pub(crate) async fn next(&mut self, stream: &OwnedReadHalf) -> io::Result<Option<Report>> {
        loop {
            if let Some(report) = self.parse()? {
                return Ok(Some(report));
            }
            stream.readable().await?;
            let received = stream
                .as_ref()
                .try_io(Interest::READABLE, || receive(stream.as_ref(), &mut self.buffer, &mut self.fds));
            match received {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                Err(err) if err.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(err) => return Err(err),
            }
        }
    }

    fn parse(&mut self) -> io::Result<Option<Report>> {
        let Some(header) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(*header) as usize;
        if len > MAX_FRAME_LEN {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {len} bytes is too long")));
        }
        let Some(json) = self.buffer.get(4..4 + len) else { return Ok(None) };
        let report = serde_json::from_slice(json)?;
        self.buffer.drain(..4 + len);
        Ok(Some(report))
    }
}

fn receive(stream: &UnixStream, buffer: &mut Vec<u8>, fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut chunk = [0; 8192];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut chunk)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::net::recvmsg(stream.as_fd(), &mut slices, &mut ancillary, flags)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    buffer.extend_from_slice(&chunk[..received.bytes]);
    Ok(received.bytes)
}

/// Sends one request. Not cancel safe.
pub(crate) async fn send(stream: &mut OwnedWriteHalf, request: &Request) -> io::Result<()> {
    let json = serde_json::to_vec(request)?;
    let len = u32::try_from(json.len()).map_err(io::Error::other)?;
    let mut frame = len.to_be_bytes().to_vec();
    frame.extend(json);
    stream.write_all(&frame).await
}
