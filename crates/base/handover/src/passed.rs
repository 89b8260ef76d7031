//! Descriptors that a child gets at its start, each with a name.

use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Command;

use command_fds::{CommandFdExt as _, FdMapping};
use listenfd::ListenFd;

/// Variable with the names of the descriptors from [`FIRST_DESCRIPTOR`] on, separated by commas.
pub const NAMES: &str = "FLYNN_SOCKETS";
/// Where passed descriptors begin, as sd_listen_fds(3) says.
pub const FIRST_DESCRIPTOR: i32 = 3;
/// Address family and type of sockets, as getsockopt(2) tells them.
const AF_UNIX: i32 = 1;
const SOCK_STREAM: i32 = 1;
const SOCK_SEQPACKET: i32 = 5;

/// Lets a child have these descriptors.
///
/// # Errors
/// Never with the numbers that are chosen here.
pub fn pass(command: &mut Command, descriptors: Vec<(&str, OwnedFd)>) -> io::Result<()> {
    let names: Vec<&str> = descriptors.iter().map(|(name, _)| *name).collect();
    // The process that LISTEN_PID would name is not known yet.
    command.env(NAMES, names.join(",")).env("LISTEN_FDS", descriptors.len().to_string()).env_remove("LISTEN_PID");
    let numbered = descriptors.into_iter().zip(FIRST_DESCRIPTOR..);
    let mappings = numbered.map(|((_, parent_fd), child_fd)| FdMapping { parent_fd, child_fd }).collect();
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    Ok(())
}

/// Descriptors that this process got.
pub struct Passed {
    names: Vec<String>,
    descriptors: ListenFd,
}

impl Passed {
    /// What the value of [`NAMES`] announces.
    pub fn new(names: &str) -> Self {
        Self { names: names.split(',').map(str::to_owned).collect(), descriptors: ListenFd::from_env() }
    }

    /// The names in their order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The listener of IPv4 at this place.
    ///
    /// # Errors
    /// When there is none, or it is something else.
    pub fn listener(&mut self, index: usize) -> io::Result<TcpListener> {
        self.descriptors.take_tcp_listener(index)?.ok_or_else(|| self.missing(index))
    }

    /// The Unix stream at this place.
    ///
    /// # Errors
    /// When there is none, or it is something else.
    pub fn stream(&mut self, index: usize) -> io::Result<std::os::unix::net::UnixStream> {
        self.unix(index, SOCK_STREAM)
    }

    /// The end of a [`Control`](crate::Control) at this place.
    ///
    /// # Errors
    /// When there is none, or it is something else.
    pub fn control(&mut self, index: usize) -> io::Result<OwnedFd> {
        self.unix(index, SOCK_SEQPACKET)
    }

    fn unix<T: FromRawFd>(&mut self, index: usize, kind: i32) -> io::Result<T> {
        let taken = self.descriptors.take_custom(index, AF_UNIX, kind, "control socket")?;
        taken.ok_or_else(|| self.missing(index))
    }

    fn missing(&self, index: usize) -> io::Error {
        let name = self.names.get(index).map_or("?", String::as_str);
        io::Error::new(io::ErrorKind::NotFound, format!("descriptor {name} was announced and not passed"))
    }
}
