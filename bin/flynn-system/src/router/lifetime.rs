//! From the first connection to the last, over any number of processes.
//!
//! A process serves until it is told to end or another one has its sockets. That other one is a child of the same
//! program (SIGUSR2), or came by the meeting point (`--handover`). Whichever step fails, the process that served
//! goes on serving; and when its successor ends early, it serves again.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flynn_handover::{Control, MeetingPoint, notify};
use flynn_router::{Former, Sockets};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::instance::{Instance, Setup};
use super::successor::{Successor, inheritance};
use super::{Options, Vars};
use crate::supervise::signal_children;

/// Pause after a failure to take a new process in, for example for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Pause after a failure to replace this process because it stands still.
const REPLACE_PAUSE: Duration = Duration::from_secs(10);

/// How a process's work ends.
pub(super) enum End {
    /// It was told to end, or its parent supervises.
    Done,
    /// A child serves, and is to be supervised. `told`: the end of all was told already.
    Replaced { told: bool },
}

/// The signals that mean something.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    replace: Signal,
}

enum Order {
    End,
    Replace,
}

impl Signals {
    async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.terminate.recv() => Order::End,
            _ = self.interrupt.recv() => Order::End,
            _ = self.replace.recv() => Order::Replace,
        }
    }

    async fn end(&mut self) {
        while let Order::Replace = self.next().await {}
    }
}

/// Runs routers until a signal ends the process, or another process has replaced it.
pub(super) async fn run(options: &Options, vars: Vars<'_>, program: &Path) -> anyhow::Result<End> {
    let mut signals = Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        replace: signal(SignalKind::user_defined2())?,
    };
    let setup = Setup::new(options, vars).await?;
    let inherited = inheritance(options, vars).await?;
    let (mut sockets, mut predecessor) = (inherited.sockets, inherited.predecessor);
    let meeting_point = || {
        let open = |path: &PathBuf| MeetingPoint::open(path).with_context(|| format!("listen at {}", path.display()));
        options.handover.as_ref().map(open).transpose()
    };
    // With nobody there before, who comes now has to wait for us; else for the one whose path it still is.
    let mut point = if predecessor.is_none() { meeting_point()? } else { None };
    let mut former: Option<Arc<Control>> = None;
    // Routers of this process that have handed over and still have connections.
    let mut ending = JoinSet::new();
    loop {
        let used_there = predecessor.is_some().then(|| Arc::new(Former::default()));
        let inherited_sockets = Sockets::inherited(std::mem::take(&mut sockets));
        let mut instance = tokio::select! {
            instance = Instance::start(&setup, inherited_sockets, used_there.clone()) => instance?,
            // There may be no routes for a long time.
            () = signals.end() => return Ok(End::Done),
        };
        if let (Some(predecessor), Some(used_there)) = (predecessor.take(), used_there) {
            let (control, told) = predecessor.serving().await;
            if let Err(err) = told {
                warn!(err = &err as &dyn std::error::Error, "the former process ended while this one took over");
            }
            let control = Arc::new(control);
            instance.hear(Arc::clone(&control), used_there);
            former = Some(control);
        }
        notify("READY=1");
        if point.is_none() {
            point = meeting_point()?;
        }
        instance.register(vars);
        let Some(successor) = serve(&instance, &mut signals, point.as_ref(), program).await else {
            notify("STOPPING=1");
            instance.end().await;
            return Ok(End::Done);
        };
        if let Some(former) = &former {
            let _ = former.passed_on().await; // it may be gone
        }
        let kept = instance.serving.sockets().duplicates().unwrap_or_default();
        let leave = Leave { drain: setup.settings.limits.drain, kept, ending: &mut ending, successor, instance };
        match leave.run(&mut signals).await {
            Left::Abandoned(kept) => {
                warn!("the process that had taken over has ended, this one serves again");
                sockets = kept;
                point = None; // the path was the other one's
            }
            Left::Done { .. } if inherited.is_child => return Ok(End::Done),
            Left::Done { told } => return Ok(End::Replaced { told }),
            Left::Told => return Ok(End::Done),
        }
    }
}

/// Serves until the end is told (`None`), or another process serves.
async fn serve(
    instance: &Instance,
    signals: &mut Signals,
    point: Option<&MeetingPoint>,
    program: &Path,
) -> Option<Successor> {
    let stalled = instance.serving.stalled();
    let mut next_try = Instant::now();
    loop {
        let successor = tokio::select! {
            () = async { stalled.cancelled().await; tokio::time::sleep_until(next_try).await } => {
                next_try = Instant::now() + REPLACE_PAUSE;
                Successor::spawn(program)
            }
            order = signals.next() => match order {
                Order::End => return None,
                Order::Replace => Successor::spawn(program),
            },
            met = meet(point) => Ok(met),
        };
        let successor = match successor {
            Ok(successor) => successor,
            Err(err) => {
                warn!("this process goes on: {err:#}");
                continue;
            }
        };
        let taken_over = tokio::select! {
            taken_over = successor.take_over(instance.serving.sockets()) => taken_over,
            () = signals.end() => {
                successor.give_up().await;
                return None;
            }
        };
        let Err(err) = taken_over else { return Some(successor) };
        let (ended, err) = (successor.give_up().await, anyhow::Error::new(err));
        warn!("this process goes on, the other one does not take over and {ended}: {err:#}");
    }
}

/// The next process that comes by the meeting point.
async fn meet(point: Option<&MeetingPoint>) -> Successor {
    let Some(point) = point else { return std::future::pending().await };
    loop {
        match point.accept().await {
            Ok(control) => return Successor { control, child: None },
            Err(err) => warn!(%err, "cannot take in the process that shall replace this one"),
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// The time after another process has taken over.
struct Leave<'a> {
    drain: Duration,
    /// In case the other process ends in its first moments: connections may wait in their queues.
    kept: Vec<OwnedFd>,
    ending: &'a mut JoinSet<()>,
    successor: Successor,
    instance: Instance,
}

enum Left {
    /// The successor has ended. What sockets there still are.
    Abandoned(Vec<OwnedFd>),
    /// Nothing is left to do. `told`: the end was told, also to the children.
    Done { told: bool },
    /// The end was told.
    Told,
}

impl Leave<'_> {
    async fn run(self, signals: &mut Signals) -> Left {
        let Self { drain, mut kept, ending, successor: Successor { control, child }, instance } = self;
        let cut_off = instance.serving.cut_off();
        // Of a worker that stands still nothing more is to be expected.
        let mut is_hurried = instance.serving.stalled().is_cancelled();
        // It ends with the serving: what has ended must not be asked again.
        let mut drained = pin!(instance.serving.drained().fuse());
        ending.spawn(instance.hand_over());
        info!("another process takes the connections");
        if let Err(err) = control.yielded().await {
            warn!(err = &err as &dyn std::error::Error, "the process that takes over has ended");
        }
        let mut abandoned = pin!(control.abandoned());
        let mut proven = pin!(tokio::time::sleep(drain));
        let mut hurry = pin!(tokio::time::sleep(drain));
        let (mut is_told, is_parent) = (false, child.is_some());
        loop {
            tokio::select! {
                () = abandoned.as_mut(), if !is_told => {
                    if let Some(mut child) = child {
                        let _ = child.wait(); // it has ended, or is about to
                    }
                    return Left::Abandoned(kept);
                }
                Some(backend) = drained.next() => {
                    let _ = control.release(&backend).await; // it may be gone
                }
                () = proven.as_mut(), if !kept.is_empty() => kept.clear(),
                () = hurry.as_mut(), if is_hurried && !cut_off.is_cancelled() => cut_off.cancel(),
                left = ending.join_next() => match left {
                    Some(_) if ending.is_empty() => {
                        let _ = control.done().await; // it may be gone
                    }
                    Some(_) => {}
                    None if is_told && !is_parent => return Left::Told,
                    None if is_parent => {
                        // What came in the last moments, nobody would hear.
                        let last = signals.next().now_or_never();
                        return Left::Done { told: is_told || matches!(last, Some(Order::End)) };
                    }
                    // Who started us shall end us: an end of our own would look like a failure.
                    None => tokio::select! {
                        () = abandoned.as_mut() => return Left::Abandoned(kept),
                        () = signals.end() => return Left::Told,
                    }
                },
                order = signals.next() => match order {
                    Order::End => {
                        if is_parent {
                            signal_children(rustix::process::Signal::TERM);
                        }
                        (is_told, is_hurried) = (true, true);
                        kept.clear();
                        hurry.as_mut().reset(Instant::now() + drain);
                    }
                    Order::Replace if is_parent => signal_children(rustix::process::Signal::USR2),
                    Order::Replace => warn!("another process serves, SIGUSR2 is for that one"),
                },
            }
        }
    }
}
