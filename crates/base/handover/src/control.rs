//! A connection that carries short messages and descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Descriptors in one message. The kernel takes up to 253 (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 64;
/// Bytes in one message.
const MAX_BYTES: usize = 256;

/// One end of a connection. Messages keep their bounds and their descriptors (`SOCK_SEQPACKET`); the runtime only has to
/// watch it, and so takes it for a stream.
#[derive(Debug)]
pub struct Control(pub(crate) UnixStream);

impl Control {
    /// Takes a connected socket of this kind. Within a runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self(UnixStream::from_std(socket.into())?))
    }

    /// Two ends; the second is for another process.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self::new(ours)?, theirs))
    }

    /// Sends a message with at most [`MAX_DESCRIPTORS`].
    ///
    /// # Errors
    /// When the peer is gone.
    pub async fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let sent = self.0.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut attached = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !attached.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            Ok(sendmsg(&self.0, &[IoSlice::new(message)], &mut attached, SendFlags::NOSIGNAL)?)
        });
        sent.await.map(drop)
    }

    /// The next message with its descriptors; `None` when the peer has ended.
    ///
    /// # Errors
    /// When a message is longer than any of ours, or the connection breaks.
    pub async fn receive(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let received = self.0.async_io(Interest::READABLE, || receive(self.0.as_fd())).await;
        match received {
            // An end with unread messages is an end.
            Err(err) if err.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            received => received,
        }
    }
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut attached = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; MAX_BYTES];
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut attached, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in attached.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of the other process was cut off"));
    }
    // Messages are never empty.
    Ok((received.bytes > 0).then(|| (bytes[..received.bytes].to_vec(), descriptors)))
}
