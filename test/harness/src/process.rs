//! Processes, seen from the machine's own process namespace.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::wait::wait_until;

/// A process that cannot be mistaken for another one that got its id later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// In clock ticks since boot; proc(5), field 22 of `stat`.
    pub start: u64,
}

impl ProcessId {
    /// The process that has this id now.
    pub fn of(pid: i32) -> anyhow::Result<Self> {
        let (_, start) = state_and_start(pid).with_context(|| format!("no process {pid}"))?;
        Ok(Self { pid, start })
    }

    /// Whether it exists, and is more than a zombie.
    pub fn is_alive(self) -> bool {
        state_and_start(self.pid).is_some_and(|(state, start)| start == self.start && state != 'Z' && state != 'X')
    }

    /// Whether it was stopped by a signal.
    pub(crate) fn is_stopped(self) -> bool {
        state_and_start(self.pid).is_some_and(|(state, start)| start == self.start && state == 'T')
    }

    /// Sends a signal; nothing happens when the process has gone.
    pub fn signal(self, signal: Signal) -> anyhow::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(err) => Err(err).with_context(|| format!("send {signal} to process {}", self.pid)),
        }
    }

    pub(crate) fn wait_gone(self) -> anyhow::Result<()> {
        wait_until(Duration::from_secs(30), &format!("process {} has ended", self.pid), || {
            if self.is_alive() { Err("alive") } else { Ok(()) }
        })
    }

    /// A path below its `/proc` folder.
    pub(crate) fn proc(self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid))
    }
}

fn state_and_start(pid: i32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in parentheses may hold anything, also parentheses.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

/// Identity of a namespace: the inode of `/proc/PID/ns/KIND`.
pub(crate) fn namespace(pid: i32, kind: &str) -> Option<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/{kind}")).ok().map(|meta| meta.ino())
}

/// One process of a host.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) arguments: Vec<String>,
    pub(crate) program: PathBuf,
}

/// All live processes whose namespaces of that kind are among `wanted`.
pub(crate) fn in_namespaces(kind: &str, wanted: &[u64]) -> Vec<Process> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut found: Vec<_> = pids
        .filter(|pid| namespace(*pid, kind).is_some_and(|inode| wanted.contains(&inode)))
        .filter_map(|pid| {
            let id = ProcessId::of(pid).ok().filter(|id| id.is_alive())?;
            let arguments = std::fs::read(id.proc("cmdline")).unwrap_or_default();
            let arguments = arguments.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
            let mut arguments: Vec<_> = arguments.collect();
            arguments.pop();
            let program = std::fs::read_link(id.proc("exe")).unwrap_or_default();
            Some(Process { id, arguments, program })
        })
        .collect();
    found.sort_by_key(|process| process.id.pid);
    found
}
