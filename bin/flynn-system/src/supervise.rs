//! What becomes of a process that a child has replaced: it waits for that child and passes signals on, so that who
//! started the program sees one process with one number, however often it is replaced. It is the same process with
//! nothing left in it but this.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use flynn_handover::signal_to;
use nix::sys::signal::{SigSet, Signal};
use rustix::process::{WaitOptions, WaitStatus};

/// The subcommand.
pub(crate) const NAME: &str = "supervise-children";

/// Lets orphaned grandchildren become our children: the successors of our successor.
pub(crate) fn adopt_grandchildren() -> anyhow::Result<()> {
    // Only whether there is a number counts.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("adopt grandchildren")
}

/// Its options.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The end was told already
    #[arg(long)]
    told: bool,
}

/// Becomes the program that only supervises; `told`: the children are to end. Gives its error when it cannot.
pub(crate) fn become_supervisor(program: &Path, told: bool) -> anyhow::Error {
    // The mask outlives exec: a signal in between waits.
    if let Err(err) = signals().thread_block() {
        return anyhow::Error::new(err).context("hold signals back");
    }
    let mut command = Command::new(program);
    command.arg(NAME).args(told.then_some("--told")).env_remove(flynn_handover::NAMES).env_remove("LISTEN_FDS");
    anyhow::Error::new(command.exec()).context(format!("become {} {NAME}", program.display()))
}

/// Waits until the last child ends, and ends as that did.
///
/// Who is told to end may have been replaced a moment ago, and end without passing it on to its child, which becomes ours
/// then. So those that are left are told again whenever one has ended.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let signals = signals();
    signals.thread_block().context("hold signals back")?;
    let mut last = ExitCode::SUCCESS;
    let mut told = options.told.then_some(rustix::process::Signal::TERM);
    let mut has_changed = true;
    loop {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((_, status))) => (last, has_changed) = (code(status), true),
                Ok(None) => break,
                Err(rustix::io::Errno::CHILD) => return Ok(last),
                Err(err) => return Err(err).context("wait for children"),
            }
        }
        if let (Some(signal), true) = (told, std::mem::take(&mut has_changed)) {
            signal_children(signal);
        }
        match signals.wait().context("wait for signals")? {
            Signal::SIGCHLD => {}
            Signal::SIGUSR2 => signal_children(rustix::process::Signal::USR2),
            end => {
                let interrupted = end == Signal::SIGINT;
                told = Some(if interrupted { rustix::process::Signal::INT } else { rustix::process::Signal::TERM });
                has_changed = true;
            }
        }
    }
}

fn signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR2, Signal::SIGCHLD].into_iter().collect()
}

fn code(status: WaitStatus) -> ExitCode {
    let number = status.exit_status().or_else(|| Some(128 + status.terminating_signal()?)).unwrap_or(1);
    u8::try_from(number).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Passes a signal on to all children: one that is ending already takes it for the wish to hurry.
pub(crate) fn signal_children(signal: rustix::process::Signal) {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for list in tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok()) {
        for child in list.split_whitespace().filter_map(|number| number.parse().ok()) {
            signal_to(child, signal);
        }
    }
}
