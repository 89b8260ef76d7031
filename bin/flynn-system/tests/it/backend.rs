//! Backends: processes of the example `backend`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::rig::limit;

pub(crate) struct Backend {
    child: Child,
    port: u16,
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Backend {
    /// One that answers with this name.
    pub(crate) fn start(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_BIN_EXE_flynn-system")).parent().expect("programs are in a folder");
        let program = folder.join("examples/backend");
        let child = Command::new(&program).arg(name).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|err| panic!("{}: {err}", program.display()));
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("it tells its port");
        Self { child, port: line.trim().parse().expect("a port") }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        flynn_handover::signal_to(self.child.id(), signal);
    }

    /// How it answers from now on.
    pub(crate) fn be(&self, mode: &str) {
        let mut stream = TcpStream::connect(self.address()).expect("it listens");
        stream.set_read_timeout(Some(limit())).expect("a limit");
        stream.write_all(format!("GET /-/{mode} HTTP/1.1\r\n\r\n").as_bytes()).expect("it reads");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("it answers");
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
}
