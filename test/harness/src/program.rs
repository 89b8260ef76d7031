//! A program that a test started in a host.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;

use crate::process::ProcessId;
use crate::wait::wait_until;

/// How long a program may take to begin, and to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ends with the host, and when it is dropped.
#[derive(Debug)]
pub struct Program {
    /// `nsenter`, which waits for the program and then ends as it did.
    nsenter: Child,
    id: ProcessId,
}

impl Program {
    pub(crate) fn start(mut nsenter: Command, log: &Path) -> anyhow::Result<Self> {
        let output = std::fs::File::options().create(true).append(true).open(log)?;
        nsenter.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut nsenter = nsenter.spawn().context("run nsenter")?;
        let children = format!("/proc/{0}/task/{0}/children", nsenter.id());
        let begun = wait_until(PATIENCE, "nsenter has a child", || {
            let child = std::fs::read_to_string(&children).ok().and_then(|pids| pids.trim().parse().ok());
            child.and_then(|pid| ProcessId::of(pid).ok()).ok_or_else(|| nsenter.try_wait())
        });
        match begun {
            Ok(id) => Ok(Self { nsenter, id }),
            Err(err) => {
                let _ = nsenter.kill();
                let _ = nsenter.wait();
                Err(err.context(std::fs::read_to_string(log).unwrap_or_default()))
            }
        }
    }

    /// `kill -9`.
    pub fn kill(self) {
        drop(self);
    }

    /// Asks it to end, and waits.
    pub fn stop(mut self) -> anyhow::Result<ExitStatus> {
        self.id.signal(Signal::SIGTERM)?;
        wait_until(PATIENCE, "the program has ended", || match self.nsenter.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(other),
        })
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.nsenter.try_wait().ok().flatten()
    }

    /// Stops it where it is, without its knowing.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.id.signal(Signal::SIGSTOP)
    }

    pub fn thaw(&self) -> anyhow::Result<()> {
        self.id.signal(Signal::SIGCONT)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.id.signal(Signal::SIGKILL);
        let _ = self.nsenter.wait();
    }
}
