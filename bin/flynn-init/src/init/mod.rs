//! Process 1 of a container: starts the job when told to, passes on what is asked, reaps, and tells how it ended.
//!
//! ```text
//!   monitor ──calls──►  ┌──────┐ ──signals──► job's main process
//!           ◄─states──  │ init │
//!   kernel ──signals──► └──────┘ ◄─events──── services (a thread, only for jobs that have some)
//! ```
//!
//! One thread, one `poll`; signals arrive on a descriptor. Whatever must wait for the services to be withdrawn waits in
//! a list, so that a kill is always carried out at once.

mod command;
mod hosts;
mod job;

use std::io;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use flynn_types::init::{CONFIG_PATH, CONTROL_FD, EXIT_INTERNAL, FromInit, InitConfig, InitState, ToInit};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags};
use rustix::process::WaitOptions;

use crate::log::{self, Level};
use crate::services::{self, Services};
use crate::sys;
use crate::wire::Peer;
use job::{Job, Streams};

/// How long withdrawing the services may take before we go on without.
const WITHDRAW_PATIENCE: Duration = Duration::from_secs(5);
/// How long the monitor may take to read our last words.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(1);

const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;
const SIGUSR2: i32 = 12;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;
const SIGURG: i32 = 23;

/// Runs the container until its job ends.
pub(crate) fn run() -> ExitCode {
    let internal = |err: io::Error| {
        log::write(Level::Error, format_args!("the container's init failed: {err}"));
        ExitCode::from(u8::try_from(EXIT_INTERNAL).unwrap_or(1))
    };
    let mut init = match Init::new() {
        Ok(init) => init,
        Err(err) => return internal(err),
    };
    match init.serve() {
        Ok(status) => ExitCode::from(u8::try_from(status & 0xff).unwrap_or(1)),
        Err(err) => internal(err),
    }
}

struct Init {
    config: InitConfig,
    /// The monitor.
    control: Peer,
    signals: SignalFd,
    /// Until the job starts.
    streams: Option<Streams>,
    terminal: Option<job::Terminal>,
    job: Phase,
    services: Option<Services>,
    /// When we stop waiting for the services to be withdrawn; set when that was begun.
    withdraw_until: Option<Instant>,
    /// What happens when they are.
    then: Vec<Then>,
    stop_requested: bool,
}

#[derive(Debug)]
enum Phase {
    Initial,
    Running(Job),
    /// The main process is gone; services may still have to be withdrawn.
    Ending(InitState),
}

/// What waits for the services to be withdrawn.
#[derive(Debug)]
enum Then {
    Reply(u64),
    Stop(u64),
    Forward(i32),
}

impl Init {
    fn new() -> io::Result<Self> {
        let [control, stdin, stdout, stderr] = sys::inherited(CONTROL_FD)?;
        let signals = sys::signals()?;
        let mut init = Self {
            config: InitConfig::default(),
            control: Peer::new(control),
            signals,
            streams: None,
            terminal: None,
            job: Phase::Initial,
            services: None,
            withdraw_until: None,
            then: Vec::new(),
            stop_requested: false,
        };
        if let Err(error) = init.prepare(Streams { stdin, stdout, stderr }) {
            init.fail(error);
        } else {
            init.tell(&FromInit::State(InitState::Initial));
        }
        Ok(init)
    }

    /// Everything before the job may start; errors are for the job's owner.
    fn prepare(&mut self, streams: Streams) -> Result<(), String> {
        let config = std::fs::read(CONFIG_PATH).map_err(|err| format!("read {CONFIG_PATH}: {err}"))?;
        self.config = serde_json::from_slice(&config).map_err(|err| format!("read {CONFIG_PATH}: {err}"))?;
        log::set_level(&self.config.log_level);
        job::adopt_orphans();
        services::check(&self.config)?;
        if !self.config.host_network
            && let Err(err) = hosts::write(&self.config.hostname)
        {
            log::write(Level::Warn, format_args!("/etc/hosts cannot be written: {err}"));
        }
        if self.config.tty {
            let terminal = job::Terminal::open().map_err(|err| format!("make a terminal: {err}"))?;
            let master = terminal.master().map_err(|err| format!("hand over the terminal: {err}"))?;
            self.control.queue(&FromInit::Pty, vec![master]).map_err(|err| err.to_string())?;
            self.terminal = Some(terminal);
        } else {
            streams.belong_to(self.config.uid, self.config.gid);
            self.streams = Some(streams);
        }
        Ok(())
    }

    /// Runs until the job has ended; gives the exit status.
    fn serve(&mut self) -> io::Result<i32> {
        loop {
            if self.control.flush().is_err() {
                return Ok(self.abandoned());
            }
            if let Phase::Ending(state) = &self.job
                && self.is_withdrawn()
            {
                let state = state.clone();
                return Ok(self.end(state));
            }
            let (signals, control, services) = self.wait()?;
            if signals {
                self.take_signals()?;
            }
            if services {
                self.take_events();
            }
            if control {
                let connected = self.control.receive()?;
                while let Some(call) = self.control.next::<ToInit>()? {
                    self.carry_out(call);
                }
                if !connected {
                    return Ok(self.abandoned());
                }
            }
            if self.is_withdrawn() {
                for then in std::mem::take(&mut self.then) {
                    self.go_on(then);
                }
            }
        }
    }

    fn wait(&self) -> io::Result<(bool, bool, bool)> {
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.control.fd(), sys::interest(true, self.control.has_output())),
        ];
        if let Some(services) = &self.services {
            fds.push(PollFd::from_borrowed_fd(services.events(), PollFlags::IN));
        }
        let waits = !self.then.is_empty() || matches!(self.job, Phase::Ending(_));
        let limit = self.withdraw_until.filter(|_| waits).map(|until| until.saturating_duration_since(Instant::now()));
        sys::wait(&mut fds, limit)?;
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        Ok((ready(0), ready(1), ready(2)))
    }

    fn tell(&mut self, event: &FromInit) {
        if let Err(err) = self.control.queue(event, Vec::new()) {
            log::write(Level::Error, format_args!("a message to the monitor was lost: {err}"));
        }
    }

    fn reply(&mut self, id: u64, error: Option<String>) {
        self.tell(&FromInit::Reply { id, error });
    }

    fn fail(&mut self, error: String) {
        log::write(Level::Error, &error);
        self.job = Phase::Ending(InitState::Failed { error });
        self.withdraw();
    }

    fn carry_out(&mut self, call: ToInit) {
        match call {
            ToInit::Resume { id } => {
                let error = self.resume().err();
                self.reply(id, error);
            }
            ToInit::Signal { id, signal } => {
                let result = match &self.job {
                    Phase::Running(job) => job.signal(signal).map_err(|err| format!("signal {signal}: {err}")),
                    Phase::Initial => Err("the job has not started yet".into()),
                    Phase::Ending(_) => Err("the job has ended".into()),
                };
                self.reply(id, result.err());
            }
            ToInit::Deregister { id } => {
                self.withdraw();
                self.then.push(Then::Reply(id));
            }
            ToInit::Stop { id } => {
                self.request_stop();
                self.withdraw();
                self.then.push(Then::Stop(id));
            }
            ToInit::Kill { id } => {
                self.request_stop();
                self.kill();
                self.reply(id, None);
            }
            ToInit::Resize { id, height, width } => {
                let error = match &self.terminal {
                    Some(terminal) => terminal.resize(height, width).err().map(|err| format!("resize: {err}")),
                    None => Some("the job has no terminal".into()),
                };
                self.reply(id, error);
            }
        }
    }

    fn resume(&mut self) -> Result<(), String> {
        if !matches!(self.job, Phase::Initial) {
            return match &self.job {
                Phase::Ending(InitState::Failed { error }) => Err(error.clone()),
                _ => Err("the job was started already".into()),
            };
        }
        match Job::start(&self.config, self.streams.take(), self.terminal.as_ref()) {
            Ok(job) => {
                self.job = Phase::Running(job);
                self.tell(&FromInit::State(InitState::Running));
                if self.withdraw_until.is_none() {
                    self.services =
                        services::start(&self.config).map_err(|err| err.to_string()).unwrap_or_else(|err| {
                            log::write(Level::Error, format_args!("the job's services cannot be registered: {err}"));
                            None
                        });
                }
                Ok(())
            }
            Err(error) => {
                self.fail(error.clone());
                Err(error)
            }
        }
    }

    /// A job that was not started yet ends without having been.
    fn request_stop(&mut self) {
        self.stop_requested = true;
        if matches!(self.job, Phase::Initial) {
            self.job = Phase::Ending(InitState::Exited { status: 0 });
            self.withdraw();
        }
    }

    fn kill(&self) {
        if let Phase::Running(job) = &self.job
            && let Err(err) = job.signal(SIGKILL)
        {
            log::write(Level::Warn, format_args!("the job cannot be killed: {err}"));
        }
    }

    fn go_on(&mut self, then: Then) {
        match then {
            Then::Reply(id) => self.reply(id, None),
            Then::Stop(id) => {
                let error = match &self.job {
                    Phase::Running(job) => job.signal(SIGTERM).err().map(|err| format!("stop: {err}")),
                    Phase::Initial | Phase::Ending(_) => None,
                };
                self.reply(id, error);
            }
            Then::Forward(signal) => self.forward(signal),
        }
    }

    fn forward(&self, signal: i32) {
        if let Phase::Running(job) = &self.job
            && let Err(err) = job.signal(signal)
        {
            log::write(Level::Warn, format_args!("signal {signal} cannot be forwarded: {err}"));
        }
    }

    /// Begins to withdraw the services, for good.
    fn withdraw(&mut self) {
        if self.withdraw_until.is_none() {
            self.withdraw_until = Some(Instant::now() + WITHDRAW_PATIENCE);
            if let Some(services) = &self.services {
                services.withdraw();
            }
        }
    }

    fn is_withdrawn(&self) -> bool {
        let Some(until) = self.withdraw_until else { return false };
        self.services.as_ref().is_none_or(Services::are_withdrawn) || until <= Instant::now()
    }

    fn take_signals(&mut self) -> io::Result<()> {
        while let Some(info) = self.signals.read_signal()? {
            match i32::try_from(info.ssi_signo).unwrap_or(0) {
                SIGCHLD => self.reap(),
                SIGUSR2 => self.dump(),
                SIGURG => {}
                SIGTERM | SIGINT if matches!(self.job, Phase::Initial) => self.request_stop(),
                signal @ (SIGTERM | SIGINT) => {
                    self.withdraw();
                    self.then.push(Then::Forward(signal));
                }
                signal => self.forward(signal),
            }
        }
        Ok(())
    }

    /// Takes note of children that have ended, ours and those that others left behind.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let Phase::Running(job) = &self.job else { continue };
            if pid.as_raw_nonzero().get() != job.pid {
                continue;
            }
            let status = match (status.exit_status(), status.terminating_signal()) {
                (Some(status), _) => status,
                (None, Some(signal)) => signal_status(signal, self.stop_requested),
                (None, None) => continue,
            };
            self.job = Phase::Ending(InitState::Exited { status });
            self.withdraw();
        }
    }

    fn take_events(&mut self) {
        let Some(services) = &mut self.services else { return };
        if services.take_kill_request() && self.withdraw_until.is_none() {
            log::write(Level::Warn, "the job is killed: its health check says that it is down");
            self.kill();
        }
    }

    /// Tells the end. All other processes of the container end with us, which the monitor sees to.
    fn end(&mut self, state: InitState) -> i32 {
        for then in std::mem::take(&mut self.then) {
            self.go_on(then);
        }
        let status = match &state {
            InitState::Exited { status } => *status,
            _ => EXIT_INTERNAL,
        };
        self.tell(&FromInit::State(state));
        let until = Instant::now() + LAST_WORDS_PATIENCE;
        while self.control.flush().is_ok() && self.control.has_output() {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::from_borrowed_fd(self.control.fd(), PollFlags::OUT)];
            if left.is_zero() || sys::wait(&mut fds, Some(left)).is_err() {
                break;
            }
        }
        status
    }

    /// Without a monitor nobody would learn how the job ends: the container is at its end.
    fn abandoned(&mut self) -> i32 {
        log::write(Level::Error, "the job's monitor is gone; the container ends");
        self.kill();
        EXIT_INTERNAL
    }

    fn dump(&self) {
        log::say(format_args!(
            "lvl=info msg=diagnostics component=flynn-init state={:?} stop_requested={} withdrawing={} waiting={:?} \
             monitor_congested={}",
            self.job,
            self.stop_requested,
            self.withdraw_until.is_some(),
            self.then,
            self.control.has_output(),
        ));
    }
}

/// What is reported for a job that ended by a signal: it did what it was told, or it crashed.
fn signal_status(signal: i32, stop_requested: bool) -> i32 {
    if stop_requested || matches!(signal, SIGTERM | SIGINT) { 0 } else { 128 + signal }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_was_told_to_end_has_not_crashed() {
        for (name, signal, requested, status) in [
            ("stopped", SIGTERM, true, 0),
            ("killed after a stop", SIGKILL, true, 0),
            ("asked by somebody inside", SIGTERM, false, 0),
            ("interrupted", SIGINT, false, 0),
            ("killed, for example for lack of memory", SIGKILL, false, 137),
            ("crashed", 11, false, 139),
        ] {
            assert_eq!(signal_status(signal, requested), status, "{name}");
        }
    }
}
