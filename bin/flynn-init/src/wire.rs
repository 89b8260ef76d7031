//! Frames over Unix sockets, without blocking (format: `flynn_types::init`).

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use flynn_types::init::MAX_FRAME_LEN;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Most descriptors that one frame brings.
const MAX_FDS: usize = 8;
/// A peer that leaves so many frames unread gets nothing new until it has read some.
const MAX_WAITING: usize = 64;

/// One end of a connection, with what has arrived of the next frame and what could not be sent yet.
#[derive(Debug)]
pub(crate) struct Peer {
    socket: OwnedFd,
    input: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    output: VecDeque<Outgoing>,
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

impl Peer {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, input: Vec::new(), fds: VecDeque::new(), output: VecDeque::new() }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether frames wait to be sent.
    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether so many frames wait that nothing should be done that makes more.
    pub(crate) fn is_congested(&self) -> bool {
        self.output.len() >= MAX_WAITING
    }

    /// Takes in what has arrived. False when the other side has hung up.
    pub(crate) fn receive(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received =
            match rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(&mut chunk)], &mut ancillary, flags) {
                Ok(received) => received,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(true),
                Err(Errno::CONNRESET) => return Ok(false),
                Err(err) => return Err(err.into()),
            };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                self.fds.extend(rights);
            }
        }
        self.input.extend_from_slice(&chunk[..received.bytes]);
        Ok(received.bytes > 0)
    }

    /// The next frame that has arrived completely.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some(header) = self.input.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(*header) as usize;
        if len > MAX_FRAME_LEN {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {len} bytes is too long")));
        }
        let Some(json) = self.input.get(4..4 + len) else { return Ok(None) };
        let frame = serde_json::from_slice(json)?;
        self.input.drain(..4 + len);
        if self.input.is_empty() {
            self.input = Vec::new(); // the memory of a large frame is given back
        }
        Ok(Some(frame))
    }

    /// The oldest descriptor that has arrived and was not taken.
    pub(crate) fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }

    /// Queues a frame; [`Peer::flush`] sends it.
    pub(crate) fn queue(&mut self, frame: &impl Serialize, fds: Vec<OwnedFd>) -> io::Result<()> {
        let json = serde_json::to_vec(frame)?;
        let len = u32::try_from(json.len()).map_err(io::Error::other)?;
        let mut bytes = len.to_be_bytes().to_vec();
        bytes.extend(json);
        self.output.push_back(Outgoing { bytes, sent: 0, fds });
        Ok(())
    }

    /// Sends as much as goes without waiting.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some(frame) = self.output.front_mut() {
            let rest = frame.bytes.get(frame.sent..).unwrap_or_default();
            match send(self.socket.as_fd(), rest, &frame.fds) {
                Ok(sent) => {
                    frame.sent += sent;
                    frame.fds.clear(); // they went with the first byte
                    if frame.sent >= frame.bytes.len() {
                        self.output.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(err) => return Err(err.into()),
            }
        }
        Ok(())
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[OwnedFd]) -> rustix::io::Result<usize> {
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(OwnedFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flynn_types::init::{FromInit, InitState, Report, Stream};
    use std::os::unix::net::UnixStream;

    fn pair() -> (Peer, Peer) {
        let (one, other) = UnixStream::pair().unwrap();
        (Peer::new(one.into()), Peer::new(other.into()))
    }

    #[test]
    fn descriptors_arrive_with_their_frame() {
        let (mut one, mut other) = pair();
        let (read, write) = rustix::pipe::pipe().unwrap();
        one.queue(&FromInit::State(InitState::Initial), vec![]).unwrap();
        one.queue(&FromInit::Pty, vec![read]).unwrap();
        one.flush().unwrap();
        let mut frames = Vec::new();
        while frames.len() < 2 {
            assert!(other.receive().unwrap());
            while let Some(frame) = other.next::<FromInit>().unwrap() {
                frames.push(frame);
            }
        }
        assert_eq!(frames, [FromInit::State(InitState::Initial), FromInit::Pty]);
        rustix::io::write(&write, b"x").unwrap();
        let mut byte = [0];
        rustix::io::read(other.take_fd().unwrap(), &mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn a_peer_that_does_not_read_costs_no_frame() {
        let (mut one, mut other) = pair();
        let error = "e".repeat(100_000);
        let frame = Report::Reply { id: 1, error: Some(error) };
        for _ in 0..20 {
            one.queue(&frame, vec![]).unwrap();
            one.flush().unwrap();
        }
        assert!(one.has_output(), "the socket buffer is smaller than that");
        let mut got = 0;
        while got < 20 {
            assert!(other.receive().unwrap());
            while let Some(next) = other.next::<Report>().unwrap() {
                assert_eq!(next, frame);
                got += 1;
            }
            one.flush().unwrap();
        }
        drop(one);
        assert!(!other.receive().unwrap());
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        for bytes in [b"\xff\xff\xff\xff".as_slice(), b"\0\0\0\x02{]"] {
            let (one, mut other) = pair();
            rustix::io::write(one.fd(), bytes).unwrap();
            other.receive().unwrap();
            assert!(other.next::<Stream>().is_err());
        }
    }
}
