//! The container's processes, as their killer and reaper sees them.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

/// How process 1 ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Exited(i32),
    Signaled(i32),
}

/// Process 1 of the container, our child, and the cgroup of the others.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    ended: Option<(Instant, Ending)>,
    cgroup_procs: Vec<String>,
}

impl Process {
    pub(super) fn new(pid: Pid, cgroup_procs: Vec<String>) -> io::Result<Self> {
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { pid, pidfd, ended: None, cgroup_procs })
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Becomes readable when the process ends; `None` when that was noted.
    pub(super) fn running(&self) -> Option<BorrowedFd<'_>> {
        self.ended.is_none().then(|| self.pidfd.as_fd())
    }

    pub(super) fn ended(&self) -> Option<(Instant, Ending)> {
        self.ended
    }

    /// Takes note of the process' end; false when it has not ended. Also reaps what libcontainer left to us.
    pub(super) fn reap(&mut self) -> bool {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid != self.pid {
                continue;
            }
            let ending = match (status.exit_status(), status.terminating_signal()) {
                (Some(status), _) => Ending::Exited(status),
                (None, Some(signal)) => Ending::Signaled(signal),
                (None, None) => continue,
            };
            self.ended = Some((Instant::now(), ending));
        }
        self.ended.is_some()
    }

    /// Kills process 1, and with it all others of its process namespace.
    pub(super) fn kill(&self) {
        if self.ended.is_none() {
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL); // ended is as good
        }
        self.kill_rest();
    }

    /// Kills what is in the container's cgroup: process 1 may have left others behind in the host's process namespace.
    /// True when there was nobody.
    pub(super) fn kill_rest(&self) -> bool {
        let mut alone = true;
        for file in &self.cgroup_procs {
            let processes = std::fs::read_to_string(file).unwrap_or_default(); // no cgroup, nobody in it
            // 0 stands for processes of other process namespaces.
            for pid in processes.lines().filter_map(|line| line.trim().parse().ok()).filter_map(Pid::from_raw) {
                alone = false;
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        alone
    }
}
