//! The monitor's side of its connection to a daemon.

use std::os::fd::{AsFd as _, OwnedFd};

use flynn_types::init::{Report, Request, SpoolProgress, Stream};
use rustix::net::SocketFlags;

use super::Monitor;
use crate::log;
use crate::wire::Peer;

/// The one connection that is served.
pub(super) struct Daemon {
    pub(super) peer: Peer,
    /// Tells its calls from those of earlier daemons.
    pub(super) generation: u64,
    /// It has got its `Hello`. Nothing is read from it before.
    pub(super) greeted: bool,
    told: SpoolProgress,
    told_exit: bool,
}

impl Daemon {
    /// Queues a report. One that was not greeted yet will learn the same from the greeting.
    pub(super) fn say(&mut self, report: Report) {
        self.say_with(report, Vec::new());
    }

    fn say_with(&mut self, report: Report, fds: Vec<OwnedFd>) {
        if self.greeted
            && let Err(err) = self.peer.queue(&report, fds)
        {
            log::write(log::Level::Error, format_args!("a report to the daemon was lost: {err}"));
        }
    }
}

impl Monitor {
    /// A new daemon takes the place of the one before.
    pub(super) fn accept(&mut self) {
        if let Ok(socket) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
            self.daemon = Some(Daemon {
                peer: Peer::new(socket),
                generation: self.calls.next_generation(),
                greeted: false,
                told: SpoolProgress::default(),
                told_exit: false,
            });
        }
    }

    /// Sends what there is to tell, as far as the daemon reads it.
    pub(super) fn flush(&mut self) {
        let progress = self.spool.progress();
        let Some(daemon) = &mut self.daemon else { return };
        if !daemon.greeted && (self.heard || self.process.ended().is_some()) {
            daemon.greeted = true;
            daemon.told = progress;
            daemon.say(Report::Hello {
                pid: self.process.pid(),
                state: self.state.clone(),
                spool: progress,
                stdin_taken: self.stdin.is_none(),
            });
        }
        if let (Some(record), true, false) = (&self.exit, daemon.greeted, daemon.told_exit) {
            daemon.told_exit = true;
            daemon.say(Report::Exit { record: record.clone() });
        }
        let mut connected = daemon.peer.flush().is_ok();
        // Only the latest progress is worth telling: no queue grows behind a daemon that does not read. Looked at when
        // all else is out, or nothing would wake us to tell it.
        if connected && daemon.greeted && daemon.told != progress && !daemon.peer.has_output() {
            daemon.told = progress;
            daemon.say(Report::Spool { progress });
            connected = daemon.peer.flush().is_ok();
        }
        if !connected {
            self.daemon = None;
        }
    }

    pub(super) fn serve_daemon(&mut self) {
        let Some(daemon) = &mut self.daemon else { return };
        let generation = daemon.generation;
        let connected = daemon.peer.flush().and_then(|()| daemon.peer.receive());
        while let Some(daemon) = self.daemon.as_mut().filter(|daemon| daemon.greeted) {
            match daemon.peer.next::<Request>() {
                Ok(Some(request)) => self.carry_out(generation, request),
                Ok(None) => break,
                Err(err) => {
                    log::write(log::Level::Error, format_args!("a daemon speaks nonsense: {err}"));
                    self.daemon = None;
                }
            }
        }
        if !matches!(connected, Ok(true)) {
            self.daemon = None;
        }
    }

    fn carry_out(&mut self, generation: u64, request: Request) {
        match request {
            Request::ToInit(call) => self.call_init(generation, call),
            Request::Take { id, what } => self.hand_out(generation, id, what),
            Request::Ack { offset } => self.spool.ack(offset),
            Request::Release => self.released = self.exit.is_some(),
        }
    }

    /// Reports to the daemon that asked, unless it is gone.
    pub(super) fn report_to(&mut self, generation: u64, report: Report) {
        self.report_with(generation, report, Vec::new());
    }

    fn report_with(&mut self, generation: u64, report: Report, fds: Vec<OwnedFd>) {
        if let Some(daemon) = self.daemon.as_mut().filter(|daemon| daemon.generation == generation) {
            daemon.say_with(report, fds);
        }
    }

    fn answer_take(&mut self, generation: u64, id: u64, result: Result<Vec<OwnedFd>, String>) {
        let (fds, error) = match result {
            Ok(fds) => (fds, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        self.report_with(generation, Report::Fds { id, error }, fds);
    }

    fn hand_out(&mut self, generation: u64, id: u64, what: Stream) {
        let result = match what {
            Stream::Stdin if self.config.tty => Err("the job has a terminal, its input goes there".into()),
            Stream::Stdin => {
                self.stdin.take().map(|stdin| vec![stdin]).ok_or("the job's stdin was taken already".into())
            }
            Stream::Pty if !self.config.tty => Err("the job has no terminal".into()),
            Stream::Pty => {
                self.calls.await_pty(generation, id);
                return self.hand_out_pty();
            }
            Stream::Output if !self.is_unlogged() => Err("the job's output goes to its log".into()),
            Stream::Output if self.streams.iter().any(Option::is_none) => {
                Err("the job's output was taken already".into())
            }
            Stream::Output => Ok(self.streams.iter_mut().filter_map(Option::take).collect()),
        };
        self.answer_take(generation, id, result);
    }

    /// Answers those who wait for the terminal, once there is one or will be none.
    pub(super) fn hand_out_pty(&mut self) {
        if self.pty.is_none() && self.init.is_some() {
            return;
        }
        for (generation, id) in self.calls.pty_awaited() {
            let duplicate = self.pty.as_ref().map(|pty| pty.as_fd().try_clone_to_owned());
            let result = match duplicate {
                Some(Ok(pty)) => Ok(vec![pty]),
                Some(Err(err)) => Err(format!("the terminal cannot be handed out: {err}")),
                None => Err("the job ended before it had a terminal".into()),
            };
            self.answer_take(generation, id, result);
        }
    }
}
