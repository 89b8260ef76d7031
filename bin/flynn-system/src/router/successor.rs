//! The process that replaces this one, and the one that this one replaces.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command};

use anyhow::Context as _;
use flynn_handover::{Control, HandoverError, MeetingPoint, NAMES, Passed, Predecessor, end, offer, pass, take};
use flynn_router::Sockets;
use tracing::{info, warn};

use super::{Options, Vars};
use crate::supervise;

/// Name of the one descriptor that a child gets.
const CONTROL: &str = "control";

/// A process that wants our sockets.
pub(super) struct Successor {
    pub(super) control: Control,
    /// None of ours: it came by the meeting point.
    pub(super) child: Option<Child>,
}

impl Successor {
    /// Starts this program anew, as it is on disk now.
    pub(super) fn spawn(program: &Path) -> anyhow::Result<Self> {
        supervise::adopt_grandchildren()?;
        let (control, theirs) = Control::pair().context("make a pair of sockets")?;
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1));
        pass(&mut command, vec![(CONTROL, theirs)])?;
        let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
        info!(pid = child.id(), program = %program.display(), "started the process that shall replace this one");
        Ok(Self { control, child: Some(child) })
    }

    /// Gives it the sockets and waits until it serves.
    pub(super) async fn take_over(&self, sockets: &Sockets) -> Result<(), HandoverError> {
        sockets.hold(true);
        let duplicates = sockets.duplicates();
        let offered = match duplicates {
            Ok(duplicates) => offer(&self.control, &duplicates).await,
            Err(err) => Err(err.into()),
        };
        sockets.hold(false);
        offered
    }

    /// Ends a child that does not take over. Says how it ended.
    pub(super) async fn give_up(self) -> String {
        drop(self.control);
        let Some(mut child) = self.child else { return "is not ours".to_owned() };
        let ended = tokio::task::spawn_blocking(move || end(&mut child)).await;
        ended.unwrap_or_else(|err| format!("is lost: {err}"))
    }
}

/// What a process starts with.
pub(super) struct Inheritance {
    pub(super) sockets: Vec<OwnedFd>,
    pub(super) predecessor: Option<Predecessor>,
    /// Whether this is the child of a process that it replaces, which then waits for its end.
    pub(super) is_child: bool,
}

/// Takes the sockets of a process that is there. One that does not give them is done without: the ports may be shared.
pub(super) async fn inheritance(options: &Options, vars: Vars<'_>) -> anyhow::Result<Inheritance> {
    let passed = vars(NAMES).filter(|names| names == CONTROL);
    let control = match (&passed, &options.handover) {
        (Some(names), _) => Some(Control::new(Passed::new(names).control(0)?)?),
        (None, Some(path)) => MeetingPoint::connect(path).with_context(|| format!("connect to {}", path.display()))?,
        (None, None) => None,
    };
    let is_child = passed.is_some();
    let Some(control) = control else { return Ok(Inheritance { sockets: Vec::new(), predecessor: None, is_child }) };
    match take(control).await {
        Ok((sockets, predecessor)) => {
            info!(sockets = sockets.len(), "took over the sockets of the former process");
            Ok(Inheritance { sockets, predecessor: Some(predecessor), is_child })
        }
        Err(err) => {
            warn!(err = &err as &dyn std::error::Error, "the former process gives no sockets");
            Ok(Inheritance { sockets: Vec::new(), predecessor: None, is_child })
        }
    }
}
