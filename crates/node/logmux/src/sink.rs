//! Sinks: where log lines go besides the files.
//!
//! A sink reads the log files, so what it has not taken yet waits on disk as long as the files are kept, and nobody waits
//! for it. What was rotated away before it could be sent is counted.

mod config;
mod cursors;
mod feed;
mod merge;
mod render;
mod store;
mod transport;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use flynn_types::host::{SinkCursor, SinkInfo, SinkKind};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::config::Target;
use self::store::Store;
use crate::config::{MuxConfig, OpenError, SinkError};
use crate::mux::Core;
use crate::published::Published;
use crate::tail::Position;

/// A sink and its condition, as shown by `GET /sinks`.
#[derive(Clone, Debug, Serialize)]
pub struct SinkStatus {
    pub id: String,
    pub kind: SinkKind,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub host_managed: bool,
    /// As it was given, byte for byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Box<RawValue>>,
    pub state: SinkState,
}

/// How a sink is doing (ours: other hosts of the API do not show it).
#[derive(Clone, Debug, Serialize)]
pub struct SinkState {
    pub connection: Connection,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Why the last attempt or connection failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Messages in the logs that were not sent yet.
    pub lag_messages: u64,
    /// Messages sent and messages lost since the sink was added.
    pub sent_messages: u64,
    pub dropped_messages: u64,
    /// The last message sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<SinkCursor>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    Connecting,
    Connected,
    /// Until the next attempt.
    Waiting,
}

/// What a sink's task tells, and what is recorded.
#[derive(Debug)]
pub(crate) struct Progress {
    connection: Connection,
    since: DateTime<Utc>,
    error: Option<String>,
    /// Places in the logs behind what was sent, by app.
    positions: BTreeMap<String, Position>,
    sent: u64,
    dropped: u64,
    cursor: Option<SinkCursor>,
    /// Something was not recorded yet.
    changed: bool,
}

impl Progress {
    fn restored(record: store::Record) -> Self {
        Self {
            connection: Connection::Connecting,
            since: Utc::now(),
            error: None,
            positions: record.positions,
            sent: record.sent,
            dropped: record.dropped,
            cursor: record.cursor,
            changed: false,
        }
    }
}

/// A running sink.
#[derive(Debug)]
struct Running {
    info: SinkInfo,
    progress: Arc<Mutex<Progress>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug)]
pub(crate) struct Sinks {
    running: Mutex<BTreeMap<String, Running>>,
    store: Store,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
    recorder: (CancellationToken, TaskTracker),
}

impl Sinks {
    pub(crate) fn open(config: &MuxConfig) -> Result<Self, OpenError> {
        let store = Store::open(config)?;
        Ok(Self {
            running: Mutex::default(),
            store,
            changing: tokio::sync::Mutex::new(()),
            recorder: (CancellationToken::new(), TaskTracker::new()),
        })
    }

    /// Starts the recorded sinks.
    pub(crate) fn start(&self, core: &Arc<Core>) {
        for info in self.store.recorded_sinks() {
            match Target::of(&info) {
                Ok(target) => self.run(core, info, target),
                Err(err) => {
                    tracing::error!(sink = info.id, err = &err as &dyn std::error::Error, "recorded sink is invalid")
                }
            }
        }
        let (stop, tasks) = &self.recorder;
        let weak = Arc::downgrade(core);
        let stopped = stop.clone();
        tasks.spawn(async move {
            while stopped.run_until_cancelled(tokio::time::sleep(store::PERIOD)).await.is_some() {
                let Some(core) = weak.upgrade() else { return };
                core.sinks.record_progress().await;
            }
        });
    }

    pub(crate) async fn add(&self, core: &Arc<Core>, info: SinkInfo) -> Result<(), SinkError> {
        if info.id.is_empty() {
            return Err(SinkError::NoId);
        }
        let target = Target::of(&info)?;
        let _changing = self.changing.lock().await;
        let same = self.lock().get(&info.id).is_some_and(|running| same_config(&running.info, &info));
        if same {
            return Ok(());
        }
        let mut infos: Vec<SinkInfo> = self.lock().values().map(|running| running.info.clone()).collect();
        infos.retain(|other| other.id != info.id);
        infos.push(info.clone());
        self.store.write_sinks(infos).await?;
        // A changed sink goes on where it was.
        let before = self.lock().remove(&info.id);
        if let Some(before) = before {
            before.end().await;
        }
        self.run(core, info, target);
        Ok(())
    }

    pub(crate) async fn remove(&self, id: &str) -> bool {
        let _changing = self.changing.lock().await;
        let Some(running) = self.lock().remove(id) else { return false };
        running.end().await;
        let infos = self.lock().values().map(|running| running.info.clone()).collect();
        if let Err(err) = self.store.write_sinks(infos).await {
            tracing::error!(sink = id, err = &err as &dyn std::error::Error, "removal of a sink is not recorded");
        }
        self.store.forget(id);
        self.record_progress().await;
        true
    }

    pub(crate) fn list(&self, published: &Published) -> Vec<SinkStatus> {
        let ends = published.all();
        let running = self.lock();
        let statuses = running.values().map(|sink| {
            let progress = lock_of(&sink.progress);
            let lag = ends.iter().map(|(app, end)| {
                let sent = progress.positions.get(app).map_or(0, |position| position.messages);
                end.messages.saturating_sub(sent)
            });
            SinkStatus {
                id: sink.info.id.clone(),
                kind: sink.info.kind.clone(),
                host_managed: sink.info.host_managed,
                config: sink.info.config.clone(),
                state: SinkState {
                    connection: progress.connection,
                    since: progress.since,
                    error: progress.error.clone(),
                    lag_messages: lag.sum(),
                    sent_messages: progress.sent,
                    dropped_messages: progress.dropped,
                    cursor: progress.cursor,
                },
            }
        });
        statuses.collect()
    }

    /// Ends all sinks and records how far they got.
    pub(crate) async fn stop(&self) {
        let _changing = self.changing.lock().await;
        let (stop, tasks) = &self.recorder;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        let ends: Vec<_> = self.lock().values().map(|sink| (sink.stop.clone(), sink.tasks.clone())).collect();
        for (stop, tasks) in ends {
            stop.cancel();
            tasks.close();
            tasks.wait().await;
        }
        self.record_progress().await;
    }

    fn run(&self, core: &Arc<Core>, info: SinkInfo, target: Target) {
        let mut record = self.store.record(&info.id).unwrap_or_else(|| {
            // A new sink gets what is still there, or what lies behind its cursor. What is lost is counted from now on.
            let oldest = |(app, end): (String, _)| (app, Position::oldest(&end));
            let positions = match info.cursor {
                None => core.writer.published.all().into_iter().map(oldest).collect(),
                Some(_) => BTreeMap::new(),
            };
            store::Record { positions, cursor: info.cursor, ..store::Record::default() }
        });
        if record.positions.is_empty() && record.cursor.is_none() {
            record.cursor = info.cursor;
        }
        let progress = Arc::new(Mutex::new(Progress::restored(record)));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let feed = feed::Feed::new(core, &info.id, target, Arc::clone(&progress));
        tasks.spawn(stop.clone().run_until_cancelled_owned(feed.run()));
        self.lock().insert(info.id.clone(), Running { info, progress, stop, tasks });
    }

    async fn record_progress(&self) {
        let mut changed = false;
        for (id, sink) in self.lock().iter() {
            let mut progress = lock_of(&sink.progress);
            if std::mem::take(&mut progress.changed) {
                changed = true;
                self.store.set(id, &progress);
            }
        }
        if changed || self.store.is_dirty() {
            self.store.write_records().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        lock_of(&self.running)
    }
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn same_config(one: &SinkInfo, other: &SinkInfo) -> bool {
    let config = |info: &SinkInfo| info.config.as_ref().map(|config| config.get().to_owned());
    one.kind == other.kind && one.host_managed == other.host_managed && config(one) == config(other)
}

pub(crate) fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
