//! The process of the server.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::folder::Folder;
use crate::programs::Programs;

/// Longest time until a server that starts accepts connections: it may have much of its log to go through.
const START_LIMIT: Duration = Duration::from_secs(300);
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(20);
/// What is tried to end a server, each with the time that it may take: without new connections, as after a crash, at
/// once. The last one cannot be refused.
const ENDING: [(Signal, Duration); 3] = [
    (Signal::INT, Duration::from_secs(30)),
    (Signal::QUIT, Duration::from_secs(15)),
    (Signal::KILL, Duration::from_secs(15)),
];
/// Where a server keeps the volume's lock.
const LOCK_FD: i32 = 3;

/// Why there is no running server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("start the server")]
    Spawn(#[source] io::Error),
    #[error("the server ended with {0} while it started: its log says why")]
    Ended(ExitStatus),
    #[error("the server accepts no connections after {} s: its log says why", START_LIMIT.as_secs())]
    Late,
    #[error("the server does not end, not even when it is killed")]
    Immortal,
}

/// A server that was started.
#[derive(Debug)]
pub(crate) struct Server {
    pid: Pid,
    folder: Folder,
    ended: watch::Receiver<Option<ExitStatus>>,
    /// Whether its end is not to be taken for a crash: it was stopped, or never was ready.
    may_end: Arc<AtomicBool>,
    _wait: JoinHandle<()>,
}

impl Server {
    /// Starts the server of a volume; `crashed` hears of an end that nobody asked for. Ready is another question.
    pub(crate) fn spawn(
        programs: &Programs,
        folder: &Folder,
        crashed: watch::Sender<Option<ExitStatus>>,
    ) -> Result<Self, ServerError> {
        // The volume's lock says that nobody is behind it: in a new container its process id may be anybody's.
        let _ = std::fs::remove_file(status_file(folder));
        let lock: OwnedFd = folder.lock().try_clone().map_err(ServerError::Spawn)?.into();
        let mut command = programs.command("postgres");
        command.arg("-D").arg(folder.database());
        let mapping = FdMapping { parent_fd: lock, child_fd: LOCK_FD };
        command.fd_mappings(vec![mapping]).map_err(|err| ServerError::Spawn(io::Error::other(err)))?;
        let mut child = command.spawn().map_err(ServerError::Spawn)?;
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.ok_or_else(|| ServerError::Spawn(io::Error::other("it has no process id")))?;
        let (tell, ended) = watch::channel(None);
        let may_end = Arc::new(AtomicBool::new(true));
        let expected = may_end.clone();
        let wait = tokio::spawn(async move {
            let Ok(status) = child.wait().await else { return };
            if !expected.load(Ordering::Acquire) {
                crashed.send_replace(Some(status));
            }
            tell.send_replace(Some(status));
        });
        Ok(Self { pid, folder: folder.clone(), ended, may_end, _wait: wait })
    }

    pub(crate) fn is_running(&self) -> bool {
        self.ended.borrow().is_none()
    }

    /// Waits until it accepts connections. From then on its end is a crash.
    pub(crate) async fn ready(&self) -> Result<(), ServerError> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let ended = *self.ended.borrow();
            if let Some(status) = ended {
                return Err(ServerError::Ended(status));
            }
            // The server's own word, without the lines in its log that attempts to connect leave.
            let status = std::fs::read_to_string(status_file(&self.folder)).unwrap_or_default();
            if status.lines().nth(7).is_some_and(|word| word.trim() == "ready") {
                self.may_end.store(false, Ordering::Release);
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(ServerError::Late);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends it. Ready when the process is gone; the same again is fine.
    pub(crate) async fn stop(&self) -> Result<(), ServerError> {
        self.may_end.store(true, Ordering::Release);
        let mut ended = self.ended.clone();
        for (signal, limit) in ENDING {
            if !self.is_running() {
                return Ok(());
            }
            info!(?signal, "stopping the server");
            let _ = kill_process(self.pid, signal); // an error: it is gone
            if tokio::time::timeout(limit, ended.wait_for(Option::is_some)).await.is_ok() {
                return Ok(());
            }
            warn!(?signal, limit_s = limit.as_secs(), "the server does not stop in time");
        }
        Err(ServerError::Immortal)
    }
}

fn status_file(folder: &Folder) -> PathBuf {
    folder.database().join("postmaster.pid")
}
