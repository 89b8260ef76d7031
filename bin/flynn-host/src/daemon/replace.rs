//! Replacing the daemon by a new process without closing a socket (spec flynn-host 12.4).
//!
//! The new process is started first, with the sockets and one end of a pair to talk over. Then our node ends, and one
//! byte tells the new process that all files are free. It answers with one byte when it serves. Whatever goes wrong,
//! [`lifetime`](super::lifetime) starts our node again over the same sockets.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command as Process};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flynn_handover::{end, pass};
use flynn_host::Replacer;
use flynn_types::host::{Command, HostStatus};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::sockets::Sockets;

/// How long the new daemon may take from our byte to its own.
const PATIENCE: Duration = Duration::from_secs(120);
const GO: u8 = 0;
const SERVING: u8 = 1;

/// A replacement that was asked for, and where its outcome goes.
pub(super) struct Order {
    pub(super) command: Command,
    pub(super) outcome: oneshot::Sender<Result<Command, String>>,
}

/// Passes orders of the API on to the daemon's main loop.
pub(super) struct Orders(pub(super) mpsc::Sender<Order>);

#[async_trait]
impl Replacer for Orders {
    async fn replace(&self, command: Command) -> Result<Command, String> {
        let (outcome, answer) = oneshot::channel();
        let order = Order { command, outcome };
        self.0.try_send(order).map_err(|_| "the daemon is being replaced already".to_owned())?;
        answer.await.unwrap_or_else(|_| Err("the daemon ends".to_owned()))
    }
}

/// A new daemon that waits for its turn.
pub(super) struct Successor {
    child: Child,
    control: UnixStream,
}

impl Successor {
    /// Starts it.
    pub(super) fn spawn(command: &Command, sockets: &Sockets, status: &HostStatus) -> Result<Self, String> {
        let (ours, theirs) = UnixStream::pair().map_err(|err| format!("make a socket pair: {err}"))?;
        let passed = sockets.to_pass(OwnedFd::from(theirs)).map_err(|err| format!("duplicate the sockets: {err}"))?;
        let mut process = Process::new(&command.path);
        process
            .args(&command.args)
            .env("FLYNN_HTTP_FD", "3")
            .env("FLYNN_CONTROL_FD", "4")
            .env("FLYNN_HOST_STATUS", serde_json::to_string(status).unwrap_or_default())
            .stdin(std::process::Stdio::null());
        pass(&mut process, passed).map_err(|err| format!("pass the sockets: {err}"))?;
        let child = process.spawn().map_err(|err| format!("start {}: {err}", command.path))?;
        info!(path = command.path, pid = child.id(), "started the daemon that replaces this one");
        Ok(Self { child, control: ours })
    }

    /// Tells it to begin, and waits until it serves. One that does not is killed.
    pub(super) async fn take_over(mut self) -> Result<u32, String> {
        let taken = tokio::task::spawn_blocking(move || {
            let pid = self.child.id();
            match self.handshake() {
                Ok(()) => {
                    // Reaped if it ends before us; otherwise process 1 inherits it.
                    std::thread::spawn(move || self.child.wait());
                    Ok(pid)
                }
                Err(reason) => {
                    warn!(pid, reason, "the new daemon does not take over");
                    Err(format!("{reason}; it {}", end(&mut self.child)))
                }
            }
        });
        taken.await.unwrap_or_else(|err| Err(err.to_string()))
    }

    fn handshake(&mut self) -> Result<(), String> {
        // Jobs' unfinished lines lie in their spools: there is nothing else to tell.
        let mut greeting = vec![GO];
        greeting.extend_from_slice(b"{}\n");
        self.control.write_all(&greeting).map_err(|err| format!("the new daemon does not listen: {err}"))?;
        self.control.set_read_timeout(Some(PATIENCE)).map_err(|err| err.to_string())?;
        let mut answer = [0];
        match self.control.read(&mut answer) {
            Ok(0) => Err("the new daemon ended before it served".to_owned()),
            Ok(_) if answer == [SERVING] => Ok(()),
            Ok(_) => Err(format!("the new daemon answered {answer:?} instead of [{SERVING}]")),
            Err(err) => Err(format!("the new daemon does not serve within {} s: {err}", PATIENCE.as_secs())),
        }
    }
}

/// Waits, as the new daemon, for the old one to free its files.
pub(super) async fn wait_for_turn(control: &Arc<UnixStream>) -> anyhow::Result<()> {
    let control = Arc::clone(control);
    tokio::task::spawn_blocking(move || {
        control.set_nonblocking(false)?;
        let mut byte = [0xff];
        (&*control).read_exact(&mut byte)?;
        anyhow::ensure!(byte == [GO], "the old daemon said {byte:?} instead of [{GO}]");
        Ok(())
    })
    .await?
}

/// Tells the old daemon that this one serves.
pub(super) fn say_serving(control: &UnixStream) -> std::io::Result<()> {
    let mut control = control;
    control.write_all(&[SERVING])
}
