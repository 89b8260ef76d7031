//! Spools to follow, and what is expected of logs.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flynn_logmux::{JobLogInfo, LogMux, MuxConfig};
use flynn_types::host::{Job, metadata};
use flynn_types::init::{SpoolProgress, spool};
use tokio::sync::watch;

pub(crate) fn patience() -> Duration {
    flynn_patience::seconds(30)
}
pub(crate) const APP: &str = "5f2c6f0e-8f2b-4a3e-9d0a-3f6f3c1f7b11";

/// A directory with room for logs, state and run directories.
pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn config(&self) -> MuxConfig {
        config(self.dir.path())
    }

    pub(crate) async fn mux(&self) -> LogMux {
        LogMux::open(self.config()).await.unwrap()
    }

    pub(crate) fn spool(&self, job: &str) -> Spool {
        Spool::new(&self.dir.path().join("run").join(job))
    }

    pub(crate) fn job(&self, id: &str, app: &str) -> JobLogInfo {
        job(self.dir.path(), id, app)
    }

    /// Stream, process and text of every message in an app's current file, which holds nothing else.
    pub(crate) fn logged(&self, app: &str) -> Vec<(char, String, String)> {
        read_log(&self.dir.path().join("log").join(format!("{app}.log")))
    }
}

pub(crate) fn config(dir: &Path) -> MuxConfig {
    MuxConfig::new(dir.join("log"), dir.join("state"), "host1".parse().unwrap())
}

pub(crate) fn job(dir: &Path, id: &str, app: &str) -> JobLogInfo {
    let mut job = Job { id: id.into(), ..Job::default() };
    for (key, value) in [(metadata::APP, app), (metadata::APP_NAME, "shop"), (metadata::TYPE, "web")] {
        if !app.is_empty() {
            job.metadata.insert(key.into(), value.into());
        }
    }
    JobLogInfo { job_id: id.parse().unwrap(), job, run_dir: dir.join("run").join(id) }
}

/// The messages of a file, up to one that is just being written.
pub(crate) fn read_log(path: &Path) -> Vec<(char, String, String)> {
    let bytes = fs::read(path).unwrap_or_default();
    let (mut rest, mut found) = (bytes.as_slice(), Vec::new());
    while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
        let len: usize = std::str::from_utf8(&rest[..space]).unwrap().parse().expect("a length");
        if rest.len() < space + 2 + len {
            break;
        }
        let message = String::from_utf8_lossy(&rest[space + 1..space + 1 + len]).into_owned();
        assert_eq!(rest[space + 1 + len], b'\n');
        rest = &rest[space + 2 + len..];
        let mut fields = message.splitn(7, ' ');
        assert_eq!(fields.next(), Some("<190>1"));
        let process = fields.clone().nth(3).unwrap().to_owned();
        let stream = fields.clone().nth(4).unwrap().chars().last().unwrap();
        let (_, text) = message.split_once("\"]").unwrap();
        found.push((stream, process, text.strip_prefix(' ').unwrap_or(text).to_owned()));
    }
    found
}

/// Writes a spool as a monitor does it.
pub(crate) struct Spool {
    dir: PathBuf,
    written: u64,
    segment: Option<(u64, File)>,
    segment_len: u64,
    progress: watch::Sender<SpoolProgress>,
}

impl Spool {
    pub(crate) fn new(run_dir: &Path) -> Self {
        let dir = run_dir.join("spool");
        fs::create_dir_all(&dir).unwrap();
        let progress = watch::channel(SpoolProgress::default()).0;
        Self { dir, written: 0, segment: None, segment_len: spool::SEGMENT_LEN, progress }
    }

    /// Small segments, so that there are many.
    pub(crate) fn segment_len(mut self, len: u64) -> Self {
        self.segment_len = len;
        self
    }

    pub(crate) fn write(&mut self, stream: u8, payload: &[u8]) {
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
        let full = self.segment.as_ref().is_none_or(|(start, _)| self.written - start >= self.segment_len);
        if full {
            let path = self.dir.join(spool::segment_name(self.written));
            let file = OpenOptions::new().create_new(true).append(true).open(path).unwrap();
            self.segment = Some((self.written, file));
        }
        let record = [&spool::header(stream, payload.len() as u32, micros)[..], payload].concat();
        self.segment.as_mut().unwrap().1.write_all(&record).unwrap();
        self.written += record.len() as u64;
        self.progress.send_replace(SpoolProgress { written: self.written, closed: false });
    }

    pub(crate) fn close(&self) {
        self.progress.send_replace(SpoolProgress { written: self.written, closed: true });
    }

    pub(crate) fn progress(&self) -> watch::Receiver<SpoolProgress> {
        self.progress.subscribe()
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Deletes segments that end at `offset` or before.
    pub(crate) fn delete_before(&self, offset: u64) {
        let mut starts: Vec<u64> = fs::read_dir(&self.dir)
            .unwrap()
            .filter_map(|entry| spool::segment_offset(entry.unwrap().file_name().to_str().unwrap()))
            .collect();
        starts.sort_unstable();
        for pair in starts.windows(2).filter(|pair| pair[1] <= offset) {
            fs::remove_file(self.dir.join(spool::segment_name(pair[0]))).unwrap();
        }
    }
}

/// Waits until `condition` gives a value.
pub(crate) async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + patience();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(patience(), future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}
