//! The monitor: parent of a container's process 1, and keeper of its output and exit status.
//!
//! ```text
//!   pipes ──► spool segments        process 1 ends ──► exit.json
//!   init  ◄─► control.sock ◄─► whichever daemon came last
//! ```
//!
//! One thread, one `poll`. It ends when a daemon has released it, and otherwise only by SIGKILL: the daemon may end and
//! come back as it likes.

mod calls;
mod daemon;
mod exit;
mod oom;
mod process;
mod spool;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flynn_types::init::spool::{INIT, STDERR, STDOUT};
use flynn_types::init::{ExitRecord, FromInit, InitState, MonitorConfig, Report, ToInit, files};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::wire::Peer;
use crate::{log, sys};
use calls::Calls;
use daemon::Daemon;
use oom::OomWatch;
use process::Process;
use spool::{Record, Spool};

/// Set by the supervisor: the container's process 1.
const CONTAINER_PID_VARIABLE: &str = "FLYNN_CONTAINER_PID";
/// How long init may take to end after it said that the job did.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// How long init may take to end after it was told to kill the job.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long streams may stay open after the container's end: somebody else holds them then.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);
/// How often is looked again at what gives no notice.
const RETRY: Duration = Duration::from_millis(50);
/// How often in a row a stream is read before others have their turn.
const READS_PER_TURN: usize = 8;
/// In the spool's numbering, by place in [`Monitor::streams`].
const STREAMS: [u8; 3] = [STDOUT, STDERR, INIT];

/// Runs the monitor of the container in `run_dir`, until it is released.
pub(crate) fn run(run_dir: &Path) -> ExitCode {
    match Monitor::new(run_dir).and_then(|mut monitor| monitor.watch()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            log::write(log::Level::Error, format_args!("the job's monitor failed: {err}"));
            ExitCode::FAILURE
        }
    }
}

struct Monitor {
    run_dir: PathBuf,
    config: MonitorConfig,
    process: Process,
    /// `None` when it has hung up.
    init: Option<Peer>,
    /// Read ends of stdout, stderr and init log, as long as they are open and ours.
    streams: [Option<OwnedFd>; 3],
    stdin: Option<OwnedFd>,
    pty: Option<OwnedFd>,
    listener: OwnedFd,
    daemon: Option<Daemon>,
    calls: Calls,
    state: InitState,
    /// Init has said something: before that a daemon learns nothing that it could rely on.
    heard: bool,
    spool: Spool,
    record: Record,
    oom: OomWatch,
    /// When the container's processes are killed if they are still there.
    kill_at: Option<Instant>,
    /// A daemon asked to kill the job.
    kill_requested: bool,
    exit: Option<ExitRecord>,
    exit_saved: bool,
    released: bool,
}

/// What a descriptor in the poll set stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Process,
    Init,
    Stream(usize),
    Listener,
    Daemon,
    Oom,
}

impl Monitor {
    fn new(run_dir: &Path) -> io::Result<Self> {
        sys::ignore_signals()?;
        let config: MonitorConfig = serde_json::from_slice(&std::fs::read(run_dir.join(files::MONITOR_CONFIG))?)?;
        let pid = std::env::var(CONTAINER_PID_VARIABLE).ok().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the container's process is not known"))?;
        let [init, stdin, stdout, stderr, init_log, listener, oom_events] = sys::inherited(3)?;
        for fd in [&stdout, &stderr, &init_log, &listener, &oom_events] {
            sys::set_nonblocking(fd.as_fd())?;
        }
        exit::reserve(run_dir);
        Ok(Self {
            run_dir: run_dir.to_owned(),
            process: Process::new(pid, config.cgroup_procs.clone())?,
            init: Some(Peer::new(init)),
            streams: [Some(stdout), Some(stderr), Some(init_log)],
            stdin: Some(stdin),
            pty: None,
            listener,
            daemon: None,
            calls: Calls::default(),
            state: InitState::Initial,
            heard: false,
            spool: Spool::new(run_dir.join(files::SPOOL), config.spool_limit_bytes),
            record: Record::new(),
            oom: OomWatch::new(&config.oom_file, oom_events),
            kill_at: None,
            kill_requested: false,
            exit: None,
            exit_saved: false,
            released: false,
            config,
        })
    }

    /// Whether the job's output goes straight to whoever attaches.
    fn is_unlogged(&self) -> bool {
        self.config.disable_log && !self.config.tty
    }

    fn watch(&mut self) -> io::Result<()> {
        loop {
            self.flush();
            let busy = self.daemon.as_ref().is_some_and(|daemon| daemon.peer.has_output());
            if self.released && !busy {
                return Ok(());
            }
            for source in self.wait()? {
                match source {
                    Source::Process => self.process_ended(),
                    Source::Init => self.serve_init(),
                    Source::Stream(index) => self.read_stream(index),
                    Source::Listener => self.accept(),
                    Source::Daemon => self.serve_daemon(),
                    Source::Oom => self.oom.noticed(),
                }
            }
            self.spool.retry();
            self.note_out_of_memory();
            self.insist();
            self.finish();
        }
    }

    /// Sources that have something for us; none when it is time to look around.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut sources = Vec::with_capacity(8);
        let mut fds = Vec::with_capacity(8);
        let mut watch = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        watch(Source::Listener, self.listener.as_fd(), PollFlags::IN);
        if let Some(pidfd) = self.process.running() {
            watch(Source::Process, pidfd, PollFlags::IN);
        }
        if let Some(init) = &self.init {
            watch(Source::Init, init.fd(), sys::interest(true, init.has_output()));
        }
        if let Some(daemon) = &self.daemon {
            let congested = daemon.peer.is_congested() || self.init.as_ref().is_some_and(Peer::is_congested);
            let input = daemon.greeted && !congested;
            watch(Source::Daemon, daemon.peer.fd(), sys::interest(input, daemon.peer.has_output()));
        }
        if let Some((fd, flags)) = self.oom.source() {
            watch(Source::Oom, fd, flags);
        }
        for (index, stream) in self.streams.iter().enumerate().filter(|_| !self.is_unlogged()) {
            if let Some(stream) = stream {
                watch(Source::Stream(index), stream.as_fd(), PollFlags::IN);
            }
        }
        sys::wait(&mut fds, self.next_look())?;
        let ready = fds.iter().zip(sources).filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(_, source)| source).collect())
    }

    /// How long nothing may happen before we look around by ourselves.
    fn next_look(&self) -> Option<Duration> {
        let ending = self.process.ended().is_some() && !self.exit_saved;
        let impatient = ending || self.oom.is_looking() || self.spool.is_behind();
        let until_kill = self.kill_at.map(|at| at.saturating_duration_since(Instant::now()));
        match (impatient, until_kill) {
            (true, until_kill) => Some(until_kill.map_or(RETRY, |left| left.min(RETRY))),
            (false, until_kill) => until_kill,
        }
    }

    fn process_ended(&mut self) {
        if self.process.reap() {
            self.kill_at = None;
            self.serve_init(); // its last words are in the socket already
            self.init_gone();
        }
    }

    fn serve_init(&mut self) {
        while let Some(init) = &mut self.init {
            let connected = init.flush().and_then(|()| init.receive());
            let mut events = Vec::new();
            let parsed = loop {
                match init.next::<FromInit>() {
                    Ok(Some(FromInit::Pty)) => {
                        self.pty = init.take_fd();
                        events.push(FromInit::Pty);
                    }
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break Ok(()),
                    Err(err) => break Err(err),
                }
            };
            let quiet = events.is_empty();
            for event in events {
                self.note(event);
            }
            if let Err(err) = &parsed {
                log::write(log::Level::Error, format_args!("the job's init speaks nonsense: {err}"));
            }
            if !matches!((connected, parsed), (Ok(true), Ok(()))) {
                self.init_gone();
            } else if quiet {
                return;
            }
        }
    }

    fn note(&mut self, event: FromInit) {
        match event {
            FromInit::State(state) => {
                if matches!(state, InitState::Exited { .. } | InitState::Failed { .. }) {
                    self.kill_no_later_than(END_PATIENCE);
                }
                self.heard = true;
                self.state = state.clone();
                if let Some(daemon) = &mut self.daemon {
                    daemon.say(Report::State { state });
                }
            }
            FromInit::Reply { id, error } => {
                if let Some((generation, id)) = self.calls.end(id) {
                    self.report_to(generation, Report::Reply { id, error });
                }
            }
            FromInit::Pty => self.hand_out_pty(),
        }
    }

    /// Answers the calls that init will not answer any more.
    fn init_gone(&mut self) {
        self.init = None;
        for (generation, id) in self.calls.end_all() {
            self.report_to(generation, Report::Reply { id, error: Some(ENDED.into()) });
        }
        self.hand_out_pty();
    }

    fn call_init(&mut self, generation: u64, call: ToInit) {
        if matches!(call, ToInit::Kill { .. }) {
            self.kill_requested = true;
            self.kill_no_later_than(KILL_PATIENCE);
        }
        let id = calls::id(&call);
        let Some(init) = &mut self.init else {
            return self.report_to(generation, Report::Reply { id, error: Some(ENDED.into()) });
        };
        let call = self.calls.begin(generation, call);
        if init.queue(&call, Vec::new()).and_then(|()| init.flush()).is_err() {
            self.serve_init(); // it may have said something before it hung up
            self.init_gone();
        }
    }

    fn kill_no_later_than(&mut self, patience: Duration) {
        if self.process.ended().is_none() {
            let at = Instant::now() + patience;
            self.kill_at = Some(self.kill_at.map_or(at, |planned| planned.min(at)));
        }
    }

    /// Kills a container that should have ended by now.
    fn insist(&mut self) {
        if self.kill_at.is_some_and(|at| at <= Instant::now()) {
            self.process.kill();
            self.kill_at = Some(Instant::now() + RETRY);
        }
    }

    fn read_stream(&mut self, index: usize) {
        for _ in 0..READS_PER_TURN {
            let Some(stream) = self.streams.get(index).and_then(Option::as_ref) else { return };
            match self.record.fill(|buffer| rustix::io::read(stream, buffer)) {
                Ok(1..) => {
                    let kind = STREAMS.get(index).copied().unwrap_or(INIT);
                    self.spool.append(&mut self.record, kind, micros());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Ok(0) | Err(_) => {
                    if let Some(stream) = self.streams.get_mut(index) {
                        *stream = None;
                    }
                    return;
                }
            }
        }
    }

    fn note_out_of_memory(&mut self) {
        self.oom.look();
        self.report_out_of_memory();
    }

    fn report_out_of_memory(&mut self) {
        for _ in 0..self.oom.take_new() {
            if !self.is_unlogged() {
                self.record.set(oom::LINE.as_bytes());
                self.spool.append(&mut self.record, INIT, micros());
            }
        }
    }

    /// Records the exit once the container is gone and its output is on disk.
    fn finish(&mut self) {
        if let Some(record) = &self.exit {
            if !self.exit_saved && exit::save(&self.run_dir, record).is_ok() {
                self.exit_saved = true;
            }
            return;
        }
        let Some((at, ending)) = self.process.ended() else { return };
        let drained = self.is_unlogged() || (self.streams.iter().all(Option::is_none) && !self.spool.is_behind());
        let alone = self.process.kill_rest();
        if !(drained && alone) && at.elapsed() < DRAIN_PATIENCE {
            return;
        }
        self.oom.look_now();
        self.report_out_of_memory();
        self.spool.close();
        let oom_kills = self.oom.kills();
        let state = exit::judge(&self.state, ending, oom_kills, self.kill_requested);
        self.state = state.clone();
        let at_micros = i64::try_from(micros()).unwrap_or(i64::MAX);
        let record = ExitRecord { state, at_micros, oom_kills, spool: self.spool.progress() };
        match exit::save(&self.run_dir, &record) {
            Ok(()) => self.exit_saved = true,
            Err(err) => log::write(log::Level::Error, format_args!("the exit record cannot be saved yet: {err}")),
        }
        self.exit = Some(record);
    }
}

/// Why a call has no effect any more.
const ENDED: &str = "the container has ended";

fn micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
