//! Where a new process finds the old one: a socket in the file system.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use tokio::net::UnixListener;

use crate::Control;

/// New processes that wait; one at a time is served.
const BACKLOG: i32 = 4;

/// A socket at a path, open to its owner and to root.
#[derive(Debug)]
pub struct MeetingPoint(UnixListener);

impl MeetingPoint {
    /// Takes the path over from whoever had it: from one moment to the next, who comes by the path comes to us.
    ///
    /// # Errors
    /// When the folder is missing or not ours to write.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut new = path.as_os_str().to_owned();
        new.push(format!(".{}", std::process::id()));
        let new = PathBuf::from(new);
        let _ = std::fs::remove_file(&new); // of a former process with our number
        let socket = socket()?;
        bind(&socket, &SocketAddrUnix::new(&new)?)?;
        // Nobody can connect before `listen`.
        rustix::fs::chmod(&new, Mode::RUSR | Mode::WUSR)?;
        listen(&socket, BACKLOG)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        std::fs::rename(&new, path)?;
        Ok(Self(UnixListener::from_std(socket.into())?))
    }

    /// The next process that wants our sockets.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub async fn accept(&self) -> io::Result<Control> {
        let (socket, _) = self.0.accept().await?;
        Ok(Control(socket))
    }

    /// Connects to the process at a path; `None` when there is none.
    ///
    /// # Errors
    /// When there is one that does not take connections.
    pub fn connect(path: &Path) -> io::Result<Option<Control>> {
        let socket = socket()?;
        match connect(&socket, &SocketAddrUnix::new(path)?) {
            Ok(()) => Control::new(socket).map(Some),
            // No file, or one that its process left behind.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => Ok(None),
            Err(err) => Err(err.into()),
        }
    }
}

fn socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_opens_last_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(MeetingPoint::connect(&path).unwrap().is_none());
        let first = MeetingPoint::open(&path).unwrap();
        let _met = MeetingPoint::connect(&path).unwrap().expect("somebody is there");
        first.accept().await.unwrap();
        let second = MeetingPoint::open(&path).unwrap();
        let met = MeetingPoint::connect(&path).unwrap().expect("somebody is there");
        met.send(b"hello", &[]).await.unwrap();
        assert_eq!(second.accept().await.unwrap().receive().await.unwrap().unwrap().0, b"hello");
        drop((first, second));
        assert!(MeetingPoint::connect(&path).unwrap().is_none(), "its process is gone, only the file is left");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
