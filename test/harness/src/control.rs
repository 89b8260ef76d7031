//! What the harness asks the process 1 of a host: one JSON line each way over a socket in the host's `/run`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::process::ProcessId;

/// Where process 1 listens, inside the host.
pub(crate) const SOCKET: &str = "/run/host-init.sock";

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Start the daemon, unless it runs.
    Start {
        command: Vec<String>,
        env: BTreeMap<String, String>,
        log: PathBuf,
    },
    Status,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Daemon(DaemonState),
    Failed(String),
}

/// Of the daemon that was started last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DaemonState {
    #[default]
    NeverStarted,
    /// With its id inside the host.
    Running(i32),
    /// How it ended, in words.
    Ended(String),
}

/// Asks the process 1 of a host.
pub(crate) fn ask(init: ProcessId, request: &Request) -> anyhow::Result<DaemonState> {
    let socket = init.proc("root").join(SOCKET.trim_start_matches('/'));
    let mut stream = UnixStream::connect(&socket).with_context(|| format!("connect to {}", socket.display()))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).context("ask process 1 of the host")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("read the answer of process 1 of the host")?;
    match serde_json::from_str(&answer).with_context(|| format!("parse the answer {answer:?}"))? {
        Answer::Daemon(state) => Ok(state),
        Answer::Failed(why) => bail!("{why}"),
    }
}
