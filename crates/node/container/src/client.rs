//! The daemon's side of the connection to a monitor.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flynn_types::init::{ExitRecord, InitState, Report, Request, SpoolProgress, Stream, ToInit};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use crate::bundle::{self, MonitorProcess};
use crate::wire;

/// Longest wait for a call's answer: init withdraws services for at most 5 s before it answers.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the first report of a monitor.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a released monitor to hang up.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);
/// A monitor that takes no bytes for so long is stuck.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call to a container had no effect.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("the container's monitor does not answer: the container has ended or belongs to another daemon now")]
    Disconnected,
    #[error("the container's monitor gave no answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
    /// In the words of the monitor or init.
    #[error("{0}")]
    Refused(String),
}

/// A connection to the monitor of a container. Clones share it; it ends with the last one.
///
/// The watch channels of a container end (their senders are dropped) when nothing more will be known: after the exit
/// record was received, or when the monitor is gone without one. So `exit().wait_for(Option::is_some)` gives the
/// record, or an error for a lost container. If another daemon took the connection over, the channels stay silent
/// until the monitor ends. They also end when the last clone of the container is dropped.
#[derive(Clone, Debug)]
pub struct Container {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pid: i32,
    run_dir: PathBuf,
    calls: mpsc::Sender<Call>,
    next_id: AtomicU64,
    state: watch::Receiver<InitState>,
    spool: watch::Receiver<SpoolProgress>,
    exit: watch::Receiver<Option<ExitRecord>>,
    connected: watch::Receiver<bool>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Call {
    request: Request,
    /// The id in the request and who waits for its answer; `None` for requests that have none.
    answer: Option<(u64, usize, oneshot::Sender<Answer>)>,
}

type Answer = Result<Vec<OwnedFd>, CallError>;

impl Container {
    /// Connects to the monitor of `run_dir` and waits for its first report.
    pub(crate) async fn connect(run_dir: &Path) -> io::Result<Self> {
        let greeting = async {
            let stream = wire::connect(run_dir).await?;
            let (read, write) = UnixStream::into_split(stream);
            let mut reader = wire::Reader::default();
            match reader.next(&read).await? {
                Some(Report::Hello { pid, state, spool, .. }) => Ok((read, write, reader, pid, state, spool)),
                Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the monitor did not introduce itself")),
                None => Err(io::ErrorKind::ConnectionReset.into()),
            }
        };
        let (read, write, reader, pid, state, spool) = match tokio::time::timeout(HELLO_TIMEOUT, greeting).await {
            Ok(greeted) => greeted?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        let stop = CancellationToken::new();
        let (calls, inbox) = mpsc::channel(64);
        let (state_tx, state) = watch::channel(state);
        let (spool_tx, spool) = watch::channel(spool);
        let (exit_tx, exit) = watch::channel(None);
        let (connected_tx, connected) = watch::channel(true);
        let connection = Connection {
            run_dir: run_dir.to_owned(),
            inbox,
            pending: HashMap::new(),
            state: state_tx,
            spool: spool_tx,
            exit: exit_tx,
            connected: connected_tx,
        };
        tokio::spawn(connection.run(read, write, reader, stop.clone()));
        let inner = Inner {
            pid,
            run_dir: run_dir.to_owned(),
            calls,
            next_id: AtomicU64::new(1),
            state,
            spool,
            exit,
            connected,
            _stop: stop.drop_guard(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The container's process 1 in the host's process namespace.
    pub fn pid(&self) -> i32 {
        self.inner.pid
    }

    pub fn run_dir(&self) -> &Path {
        &self.inner.run_dir
    }

    /// The latest state of the job. States may be skipped when they follow each other quickly.
    pub fn state(&self) -> watch::Receiver<InitState> {
        self.inner.state.clone()
    }

    /// How far the spool was written.
    pub fn spool(&self) -> watch::Receiver<SpoolProgress> {
        self.inner.spool.clone()
    }

    /// How the container ended, once it has.
    pub fn exit(&self) -> watch::Receiver<Option<ExitRecord>> {
        self.inner.exit.clone()
    }

    /// Starts the job's process.
    pub async fn resume(&self) -> Result<(), CallError> {
        self.call_init(|id| ToInit::Resume { id }).await
    }

    /// Withdraws the job's services (at most 5 s), then sends SIGTERM to its main process.
    pub async fn stop(&self) -> Result<(), CallError> {
        self.call_init(|id| ToInit::Stop { id }).await
    }

    /// Kills the job's main process; counts as a requested stop.
    pub async fn kill(&self) -> Result<(), CallError> {
        self.call_init(|id| ToInit::Kill { id }).await
    }

    /// Withdraws the job's services; the process goes on.
    pub async fn deregister(&self) -> Result<(), CallError> {
        self.call_init(|id| ToInit::Deregister { id }).await
    }

    /// Sends a signal to the job's main process.
    pub async fn signal(&self, signal: i32) -> Result<(), CallError> {
        self.call_init(|id| ToInit::Signal { id, signal }).await
    }

    /// Sets the size of the job's terminal in characters.
    pub async fn resize(&self, height: u16, width: u16) -> Result<(), CallError> {
        self.call_init(|id| ToInit::Resize { id, height, width }).await
    }

    /// Write end of the job's stdin; given out once.
    pub async fn take_stdin(&self) -> Result<OwnedFd, CallError> {
        self.take_one(Stream::Stdin).await
    }

    /// A duplicate of the master side of the job's terminal.
    pub async fn take_pty(&self) -> Result<OwnedFd, CallError> {
        self.take_one(Stream::Pty).await
    }

    /// Read ends of stdout, stderr and init log of a job without log; given out once.
    pub async fn take_output(&self) -> Result<[OwnedFd; 3], CallError> {
        let fds = self.take(Stream::Output, 3).await?;
        fds.try_into().map_err(|_| CallError::Refused("the monitor sent too few descriptors".into()))
    }

    /// Tells that the output before `offset` is safe elsewhere.
    pub async fn ack(&self, offset: u64) -> Result<(), CallError> {
        self.send(Call { request: Request::Ack { offset }, answer: None }).await
    }

    /// Lets the monitor of an ended container go, and waits for it for at most 1 s.
    pub async fn release(&self) {
        if self.send(Call { request: Request::Release, answer: None }).await.is_err() {
            return;
        }
        let mut connected = self.inner.connected.clone();
        let _ = tokio::time::timeout(RELEASE_TIMEOUT, connected.wait_for(|connected| !connected)).await;
    }

    async fn call_init(&self, call: impl FnOnce(u64) -> ToInit) -> Result<(), CallError> {
        let id = self.next_id();
        self.call(id, 0, Request::ToInit(call(id))).await.map(drop)
    }

    async fn take_one(&self, what: Stream) -> Result<OwnedFd, CallError> {
        let mut fds = self.take(what, 1).await?;
        fds.pop().ok_or_else(|| CallError::Refused("the monitor sent no descriptor".into()))
    }

    async fn take(&self, what: Stream, count: usize) -> Result<Vec<OwnedFd>, CallError> {
        let id = self.next_id();
        self.call(id, count, Request::Take { id, what }).await
    }

    fn next_id(&self) -> u64 {
        self.inner.next_id.fetch_add(1, Ordering::Relaxed)
    }

    async fn call(&self, id: u64, fds: usize, request: Request) -> Answer {
        let (sender, answer) = oneshot::channel();
        self.send(Call { request, answer: Some((id, fds, sender)) }).await?;
        match tokio::time::timeout(CALL_TIMEOUT, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(CallError::Disconnected),
            Err(_) => Err(CallError::Timeout),
        }
    }

    async fn send(&self, call: Call) -> Result<(), CallError> {
        if !*self.inner.connected.borrow() {
            return Err(CallError::Disconnected);
        }
        self.inner.calls.send(call).await.map_err(|_| CallError::Disconnected)
    }
}

/// The task that owns the connection.
struct Connection {
    run_dir: PathBuf,
    inbox: mpsc::Receiver<Call>,
    pending: HashMap<u64, (usize, oneshot::Sender<Answer>)>,
    state: watch::Sender<InitState>,
    spool: watch::Sender<SpoolProgress>,
    exit: watch::Sender<Option<ExitRecord>>,
    connected: watch::Sender<bool>,
}

impl Connection {
    async fn run(
        mut self,
        read: OwnedReadHalf,
        mut write: OwnedWriteHalf,
        mut reader: wire::Reader,
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                report = reader.next(&read) => match report {
                    Ok(Some(report)) => self.note(report, &mut reader),
                    Ok(None) => break,
                    Err(err) => {
                        warn!(run_dir = %self.run_dir.display(), %err, "reading from the job's monitor failed");
                        break;
                    }
                },
                call = self.inbox.recv() => {
                    let Some(call) = call else { return };
                    if !self.pass_on(call, &mut write).await {
                        break;
                    }
                }
            }
        }
        drop((read, write));
        self.pending.clear();
        self.inbox.close();
        while self.inbox.try_recv().is_ok() {}
        self.connected.send_replace(false);
        if self.exit.borrow().is_none() {
            tokio::select! {
                () = stop.cancelled() => {}
                record = last_words(&self.run_dir) => self.note_exit(record),
            }
        }
    }

    /// False when the monitor cannot be reached.
    async fn pass_on(&mut self, call: Call, write: &mut OwnedWriteHalf) -> bool {
        if let Some((id, fds, answer)) = call.answer {
            self.pending.retain(|_, (_, waiting)| !waiting.is_closed());
            self.pending.insert(id, (fds, answer));
        }
        matches!(tokio::time::timeout(WRITE_TIMEOUT, wire::send(write, &call.request)).await, Ok(Ok(())))
    }

    fn note(&mut self, report: Report, reader: &mut wire::Reader) {
        match report {
            Report::Hello { state, spool, .. } => {
                self.set_state(state);
                self.spool.send_replace(spool);
            }
            Report::State { state } => self.set_state(state),
            Report::Spool { progress } => drop(self.spool.send_replace(progress)),
            Report::Reply { id, error } => {
                if let Some((_, answer)) = self.pending.remove(&id) {
                    let _ = answer.send(error.map_or(Ok(Vec::new()), |error| Err(CallError::Refused(error))));
                }
            }
            Report::Fds { id, error } => self.note_fds(id, error, reader),
            Report::Exit { record } => self.note_exit(Some(record)),
        }
    }

    /// A waiter that gave up leaves its entry behind until the next call, so that descriptors that arrive late are
    /// taken from the queue and closed.
    fn note_fds(&mut self, id: u64, error: Option<String>, reader: &mut wire::Reader) {
        let Some((count, answer)) = self.pending.remove(&id) else {
            reader.fds.clear();
            return;
        };
        let _ = answer.send(match error {
            Some(error) => Err(CallError::Refused(error)),
            None => {
                let count = count.min(reader.fds.len());
                Ok(reader.fds.drain(..count).collect())
            }
        });
    }

    fn note_exit(&self, record: Option<ExitRecord>) {
        let Some(record) = record else {
            debug!(run_dir = %self.run_dir.display(), "the job's monitor is gone without an exit record");
            return;
        };
        self.spool.send_replace(record.spool);
        self.set_state(record.state.clone());
        self.exit.send_replace(Some(record));
    }

    fn set_state(&self, state: InitState) {
        self.state.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
    }
}

/// What a monitor that hung up has left: its exit record, as soon as there is one; `None` when the monitor ended
/// without. A monitor that lives but hung up serves another daemon now.
async fn last_words(run_dir: &Path) -> Option<ExitRecord> {
    if let Some(record) = bundle::exit_record(run_dir).await {
        return Some(record);
    }
    if let Some(monitor) = MonitorProcess::find(run_dir) {
        monitor.ended().await;
    }
    bundle::exit_record(run_dir).await
}
