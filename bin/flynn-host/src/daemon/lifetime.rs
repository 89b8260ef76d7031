//! From the first node to the last signal.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flynn_handover::notify;
use flynn_telemetry::Logs;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::machine::machine_is_stopping;
use super::node::Node;
use super::options::OnExit;
use super::replace::{self, Order, Orders, Successor};
use super::setup::Setup;
use super::sockets::{self, Sockets};

/// How long a replaced daemon stays, for answers under way (spec flynn-host 12.4).
const SHUTDOWN_DELAY: Duration = Duration::from_secs(1);

enum End {
    Signal,
    Discovery,
    Replace(Order),
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// Runs nodes until a signal ends the daemon or another daemon has replaced it.
pub(super) async fn run(setup: Setup, logs: Logs) -> anyhow::Result<()> {
    let setup = Arc::new(setup);
    let mut signals = Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        hang_up: signal(SignalKind::hangup())?,
    };
    overcommit_memory();
    let (orders, mut inbox) = mpsc::channel(1);
    let orders = Arc::new(Orders(orders));
    let inherited = sockets::inherited()?;
    let mut predecessor = None;
    let sockets = match inherited {
        Some(inherited) => {
            let control = Arc::new(inherited.control);
            replace::wait_for_turn(&control).await.context("wait for the daemon that is being replaced")?;
            predecessor = Some(control);
            inherited.sockets
        }
        None => Sockets::bind(&setup)?,
    };
    let mut forced = setup.options.force;
    loop {
        let node = Node::start(&setup, sockets.try_clone()?, Arc::clone(&orders) as _).await?;
        if std::mem::take(&mut forced) {
            node.host.stop_jobs().await;
        }
        if let Some(control) = predecessor.take() {
            replace::say_serving(&control).context("tell the old daemon that this one serves")?;
            notify(&format!("MAINPID={}\nREADY=1", std::process::id()));
        } else {
            notify("READY=1");
        }
        let ended = loop {
            match wait_for_end(&node, &mut signals, &mut inbox, &logs).await {
                End::Discovery => {
                    warn!("discoverd was shut down by a client, starting the node anew");
                    break None;
                }
                End::Signal => return end(node, setup.options.on_exit).await,
                End::Replace(order) => match Successor::spawn(&order.command, &sockets, &node.host.status()) {
                    Ok(successor) => break Some((order, successor)),
                    Err(reason) => drop(order.outcome.send(Err(reason))), // nothing was given up
                },
            }
        };
        node.leave().await;
        let Some((Order { command, outcome }, successor)) = ended else { continue };
        match successor.take_over().await {
            Ok(pid) => {
                let delay = command.shutdown_delay.unwrap_or(SHUTDOWN_DELAY);
                let _ = outcome.send(Ok(flynn_types::host::Command { pid, ..command })); // the client left
                tokio::time::sleep(delay).await;
                info!(pid, "another daemon has taken over");
                return Ok(());
            }
            Err(reason) => {
                warn!(reason, "the replacement failed, this daemon goes on");
                let _ = outcome.send(Err(reason)); // the client left
            }
        }
    }
}

/// Ends the node for good, with its jobs or without.
async fn end(node: Node, on_exit: OnExit) -> anyhow::Result<()> {
    notify("STOPPING=1");
    let stop_jobs = match on_exit {
        OnExit::Keep => false,
        OnExit::Stop => true,
        OnExit::Auto => machine_is_stopping().await,
    };
    info!(stop_jobs, "the daemon ends");
    if stop_jobs {
        node.retire().await
    } else {
        node.leave().await
    }
    Ok(())
}

async fn wait_for_end(node: &Node, signals: &mut Signals, inbox: &mut mpsc::Receiver<Order>, logs: &Logs) -> End {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return End::Signal,
            _ = signals.interrupt.recv() => return End::Signal,
            _ = signals.hang_up.recv() => logs.reopen(),
            Some(order) = inbox.recv() => return End::Replace(order),
            () = node.lost_discovery() => return End::Discovery,
        }
    }
}

/// Lets programs reserve more memory than there is (spec flynn-host 2.4). In a namespace where that is not ours to say
/// the machine's setting stays.
fn overcommit_memory() {
    const FILE: &str = "/proc/sys/vm/overcommit_memory";
    let set = std::fs::read_to_string(FILE).is_ok_and(|value| value.trim() == "1");
    if !set && let Err(err) = std::fs::write(FILE, "1") {
        warn!(%err, "memory overcommit cannot be switched on in {FILE}");
    }
}
