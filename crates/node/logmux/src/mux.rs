//! The entry point.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use flynn_types::host::{Job, SinkInfo, metadata};
use flynn_types::id::JobId;
use flynn_types::init::SpoolProgress;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::applog::{Rotation, app_key};
use crate::config::{JobLogInfo, MuxConfig, OpenError, SinkError};
use crate::follow::Follow;
use crate::line::{History, LogLine, ReadError, StreamOptions};
use crate::message::Source;
use crate::sink::{SinkStatus, Sinks};
use crate::stream::Reader;
use crate::tail::{Position, Tail};
use crate::writer::Writer;

/// Jobs whose spools are read at the same moment.
const WORKERS: u32 = 4;
/// Jobs remembered after their end for the sake of sinks that replay their lines.
const REMEMBERED_JOBS: usize = 1000;
/// How often files are looked through for those that are too old.
const SWEEP: Duration = Duration::from_secs(3600);
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// All job logs of a host. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogMux {
    core: Arc<Core>,
}

/// What followers, readers and sinks share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: MuxConfig,
    pub(crate) writer: Arc<Writer>,
    permits: Arc<Semaphore>,
    /// Followed jobs, and whether their output is complete.
    following: Mutex<BTreeMap<JobId, watch::Receiver<bool>>>,
    known: Mutex<KnownJobs>,
    pub(crate) stop: CancellationToken,
    tasks: TaskTracker,
    pub(crate) sinks: Sinks,
    /// Held until the mux is shut down.
    lock: Mutex<Option<File>>,
}

#[derive(Debug, Default)]
struct KnownJobs {
    jobs: BTreeMap<String, Arc<Job>>,
    order: VecDeque<String>,
}

impl LogMux {
    /// Recovers the logs in `log_dir` and starts to feed the recorded sinks. Waits for a predecessor to leave.
    pub async fn open(config: MuxConfig) -> Result<Self, OpenError> {
        let lock = lock(&config).await?;
        let (log_dir, state_dir) = (config.log_dir.clone(), config.state_dir.clone());
        let rotation = Rotation { file_bytes: config.limits.file_bytes, max_age: config.limits.max_age };
        let path = log_dir.clone();
        let opened = tokio::task::spawn_blocking(move || Writer::open(log_dir, state_dir, rotation)).await;
        let writer = opened.unwrap_or_else(|err| Err(io::Error::other(err))).map_err(|err| OpenError::Io {
            action: "recover job logs in",
            path,
            err,
        })?;
        let sinks = Sinks::open(&config)?;
        let core = Arc::new(Core {
            config,
            writer: Arc::new(writer),
            permits: Arc::new(Semaphore::new(WORKERS as usize)),
            following: Mutex::default(),
            known: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            sinks,
            lock: Mutex::new(Some(lock)),
        });
        core.sinks.start(&core);
        core.tasks.spawn(core.stop.clone().run_until_cancelled_owned(sweep(Arc::clone(&core.writer))));
        Ok(Self { core })
    }

    /// Starts, or resumes after a restart, to move a job's output from its spool into its app's log. A progress channel
    /// that is closed before the streams' end counts as the end, two seconds later.
    pub fn follow_job(&self, job: JobLogInfo, progress: watch::Receiver<SpoolProgress>) -> JobLog {
        let core = &self.core;
        let app_id = job.job.meta(metadata::APP);
        let app = app_key(app_id).to_owned();
        let process_type = job.job.meta(metadata::TYPE);
        let host = core.config.host_id.as_str();
        let source = Source::new(host, app_id, process_type, job.job_id.as_str());
        let app_name = job.job.meta(metadata::APP_NAME).to_owned();
        core.remember(&job);
        let (acked_tx, acked) = watch::channel(0);
        let (done_tx, done) = watch::channel(false);
        lock_of(&core.following).insert(job.job_id.clone(), done.clone());
        let cancel = core.stop.child_token();
        let job_id = job.job_id.clone();
        let follow = Follow {
            writer: Arc::clone(&core.writer),
            permits: Arc::clone(&core.permits),
            app: app.clone(),
            app_name,
            source,
            info: job,
            progress,
            acked: acked_tx,
        };
        let (core, token, finished) = (Arc::clone(core), cancel.clone(), done.clone());
        self.core.tasks.spawn(async move {
            let completed = token.run_until_cancelled(follow.run()).await.is_some();
            if completed {
                done_tx.send_replace(true);
            }
            let mut following = lock_of(&core.following);
            // A later follower of the same job stays.
            if following.get(&job_id).is_some_and(|current| current.same_channel(&finished)) {
                following.remove(&job_id);
                drop(following);
                core.writer.end(&app, &job_id);
            }
        });
        JobLog { acked, done, _cancel: cancel.drop_guard() }
    }

    /// Makes ready for a job that is started once more under its id, with a new spool: its output so far stays in the log,
    /// and the new spool is followed from its begin.
    pub async fn forget_job(&self, job: &JobLogInfo) -> io::Result<()> {
        let writer = Arc::clone(&self.core.writer);
        let (app, job_id) = (app_key(job.job.meta(metadata::APP)).to_owned(), job.job_id.clone());
        let forgotten = tokio::task::spawn_blocking(move || writer.forget(&app, &job_id)).await;
        forgotten.unwrap_or_else(|err| Err(io::Error::other(err)))
    }

    /// Lines of an app (empty: of jobs without one). A read error is the last item. Whoever reads slowly holds nobody
    /// up; what is rotated away twice before it is read is lost to this reader.
    pub fn stream(&self, app_id: &str, options: StreamOptions) -> BoxStream<'static, Result<LogLine, ReadError>> {
        let core = &self.core;
        // First the job, then the log's end: a job that ends in between is complete in the log.
        let job_done = options.job.as_ref().and_then(|job| lock_of(&core.following).get(job).cloned());
        let app = app_key(app_id);
        let follow = options.follow && (options.job.is_none() || job_done.is_some());
        let Some(end) = core.writer.published.app(app, follow) else { return futures_util::stream::empty().boxed() };
        let now = end.borrow().clone();
        let history_end = Position::newest(&now);
        let position = if options.history == History::None { history_end } else { Position::oldest(&now) };
        let reader = Reader {
            tail: Tail::new(&core.config.log_dir, app, position),
            job_done,
            options: StreamOptions { follow, ..options },
            end,
            history_end,
            stop: core.stop.clone(),
            lines: VecDeque::new(),
        };
        reader.stream()
    }

    /// A job's output as `(stream, line with its newline)`: `history` gives what was logged so far, `live` goes on until
    /// the job's streams have ended (at once, if they have).
    pub fn attach(
        &self,
        job: &JobId,
        app_id: &str,
        history: bool,
        live: bool,
    ) -> BoxStream<'static, Result<(u8, Bytes), ReadError>> {
        let options = StreamOptions {
            job: Some(job.clone()),
            history: if history { History::All } else { History::None },
            follow: live,
            ..StreamOptions::default()
        };
        let lines = self.stream(app_id, options);
        lines
            .map(|line| {
                line.map(|line| {
                    let mut text = BytesMut::with_capacity(line.text.len() + 1);
                    text.put_slice(&line.text);
                    text.put_u8(b'\n');
                    (line.stream, text.freeze())
                })
            })
            .boxed()
    }

    /// Adds a sink, or gives an existing one a changed configuration. It is recorded when this returns.
    pub async fn add_sink(&self, sink: SinkInfo) -> Result<(), SinkError> {
        self.core.sinks.add(&self.core, sink).await
    }

    /// Whether there was one.
    pub async fn remove_sink(&self, id: &str) -> bool {
        self.core.sinks.remove(id).await
    }

    /// Sinks as shown by `GET /sinks`, ordered by id.
    pub fn sinks(&self) -> Vec<SinkStatus> {
        self.core.sinks.list(&self.core.writer.published)
    }

    /// Where an app's current log file is.
    pub fn log_path(&self, app_id: &str) -> PathBuf {
        self.core.writer.place(app_key(app_id)).log()
    }

    /// Stops following jobs and feeding sinks, records cursors and releases the lock. Output that is not yet logged stays
    /// in the spools for the next mux.
    pub async fn shutdown(&self) {
        let core = &self.core;
        core.stop.cancel();
        core.sinks.stop().await;
        core.tasks.close();
        core.tasks.wait().await;
        // A step that was under way holds a permit.
        let _ = core.permits.acquire_many(WORKERS).await.map(|permits| permits.forget());
        lock_of(&core.lock).take();
    }
}

impl Core {
    fn remember(&self, info: &JobLogInfo) {
        let mut known = lock_of(&self.known);
        let id = info.job_id.to_string();
        let mut job = info.job.clone();
        job.id.clone_from(&id);
        if known.jobs.insert(id.clone(), Arc::new(job)).is_none() {
            known.order.push_back(id);
        }
        while known.order.len() > REMEMBERED_JOBS {
            // Live jobs that are this old are put in line again.
            let Some(oldest) = known.order.pop_front() else { break };
            let live = oldest.parse::<JobId>().is_ok_and(|id| lock_of(&self.following).contains_key(&id));
            if live && known.order.len() < 10 * REMEMBERED_JOBS {
                known.order.push_back(oldest);
                break;
            }
            known.jobs.remove(&oldest);
        }
    }

    /// The job, as far as it is remembered.
    pub(crate) fn job(&self, id: &str) -> Option<Arc<Job>> {
        lock_of(&self.known).jobs.get(id).cloned()
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A job being followed; ends when dropped.
#[derive(Debug)]
pub struct JobLog {
    acked: watch::Receiver<u64>,
    done: watch::Receiver<bool>,
    _cancel: DropGuard,
}

impl JobLog {
    /// Up to which offset the spool is no longer needed. Closed when the follower has ended.
    pub fn acked(&self) -> watch::Receiver<u64> {
        self.acked.clone()
    }

    /// Returns when all output up to the end of the job's streams is in the log; never, if the mux is shut down before.
    pub async fn finished(&self) {
        if self.done.clone().wait_for(|done| *done).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn sweep(writer: Arc<Writer>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let writer = Arc::clone(&writer);
        let _ = tokio::task::spawn_blocking(move || writer.delete_expired()).await;
    }
}

/// One process at a time writes the logs; the kernel releases the lock of a process that was killed.
async fn lock(config: &MuxConfig) -> Result<File, OpenError> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |err| OpenError::Io { action, path, err }
    };
    for dir in [&config.log_dir, &config.state_dir] {
        fs::create_dir_all(dir).map_err(io("create directory", dir))?;
    }
    let path = config.state_dir.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(io("open", &path))?;
    let deadline = tokio::time::Instant::now() + config.limits.lock_patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            Err(fs::TryLockError::WouldBlock) => return Err(OpenError::Locked { path }),
            Err(fs::TryLockError::Error(err)) => return Err(io("lock", &path)(err)),
        }
    }
}

fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
