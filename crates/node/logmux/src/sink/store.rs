//! Sinks and how far they got, on disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use flynn_types::host::{SinkCursor, SinkInfo};
use serde::{Deserialize, Serialize};

use super::{Progress, lock_of};
use crate::config::{MuxConfig, OpenError, SinkError};
use crate::tail::Position;

/// How often changed places are written: what was sent since then is sent again after a crash.
pub(super) const PERIOD: Duration = Duration::from_secs(1);
const VERSION: u32 = 1;

#[derive(Debug, Default, Serialize, Deserialize)]
struct SinkFile {
    version: u32,
    sinks: Vec<SinkInfo>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct RecordFile {
    version: u32,
    sinks: BTreeMap<String, Record>,
}

/// How far a sink got.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    pub(super) positions: BTreeMap<String, Position>,
    pub(super) sent: u64,
    pub(super) dropped: u64,
    pub(super) cursor: Option<SinkCursor>,
}

#[derive(Debug)]
pub(super) struct Store {
    sinks_path: PathBuf,
    records_path: PathBuf,
    sinks: Vec<SinkInfo>,
    /// The records, and whether they differ from the file's.
    records: Mutex<(BTreeMap<String, Record>, bool)>,
}

impl Store {
    pub(super) fn open(config: &MuxConfig) -> Result<Self, OpenError> {
        let records_path = config.state_dir.join("sink-positions.json");
        let sinks: SinkFile = read(&config.sink_state)?;
        let records: RecordFile = read(&records_path)?;
        Ok(Self {
            sinks_path: config.sink_state.clone(),
            records_path,
            sinks: sinks.sinks,
            records: Mutex::new((records.sinks, false)),
        })
    }

    pub(super) fn recorded_sinks(&self) -> Vec<SinkInfo> {
        self.sinks.clone()
    }

    pub(super) fn record(&self, id: &str) -> Option<Record> {
        lock_of(&self.records).0.get(id).cloned()
    }

    pub(super) fn set(&self, id: &str, progress: &Progress) {
        let record = Record {
            positions: progress.positions.clone(),
            sent: progress.sent,
            dropped: progress.dropped,
            cursor: progress.cursor,
        };
        let mut records = lock_of(&self.records);
        records.0.insert(id.to_owned(), record);
        records.1 = true;
    }

    pub(super) fn forget(&self, id: &str) {
        let mut records = lock_of(&self.records);
        records.1 |= records.0.remove(id).is_some();
    }

    pub(super) fn is_dirty(&self) -> bool {
        lock_of(&self.records).1
    }

    pub(super) async fn write_sinks(&self, mut sinks: Vec<SinkInfo>) -> Result<(), SinkError> {
        sinks.sort_by(|a, b| a.id.cmp(&b.id));
        let path = self.sinks_path.clone();
        let file = SinkFile { version: VERSION, sinks };
        write(path.clone(), &file).await.map_err(|err| SinkError::Store { path, err })
    }

    /// Failures are logged and made up for by the next call.
    pub(super) async fn write_records(&self) {
        let file = {
            let mut records = lock_of(&self.records);
            records.1 = false;
            RecordFile { version: VERSION, sinks: records.0.clone() }
        };
        if let Err(err) = write(self.records_path.clone(), &file).await {
            lock_of(&self.records).1 = true;
            tracing::warn!(path = %self.records_path.display(), %err, "places of log sinks cannot be recorded");
        }
    }
}

/// An unreadable file is moved aside: sinks are given again by whoever configured them.
fn read<T: Default + serde::de::DeserializeOwned>(path: &Path) -> Result<T, OpenError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
        Err(err) => return Err(OpenError::Io { action: "read", path: path.to_owned(), err }),
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(value),
        Err(err) => {
            let aside = path.with_extension("json.corrupt");
            tracing::error!(path = %path.display(), aside = %aside.display(), %err, "state of log sinks is corrupt, moved aside");
            fs::rename(path, &aside).map_err(|err| OpenError::Io {
                action: "move aside",
                path: path.to_owned(),
                err,
            })?;
            Ok(T::default())
        }
    }
}

async fn write<T: Serialize>(path: PathBuf, value: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    let written = tokio::task::spawn_blocking(move || {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let temporary = path.with_extension("json.new");
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        fs::rename(&temporary, &path)?;
        match path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    });
    written.await.map_err(io::Error::other)?
}
