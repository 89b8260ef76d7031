//! Writing a job's output to disk (format: `flynn_types::init::spool`).

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use flynn_types::init::SpoolProgress;
use flynn_types::init::spool::{HEADER_LEN, MAX_PAYLOAD, SEGMENT_LEN, header, segment_name};

/// Limit for monitors whose configuration names none, in bytes.
const DEFAULT_LIMIT: u64 = 64 << 20;
/// Smallest size at which a segment is followed by a new one, however small the limit is.
const MIN_SEGMENT_LEN: u64 = 64 << 10;

/// One record on its way from a pipe to the disk: a buffer with room for the header before the payload, so that both
/// are written at once.
#[derive(Debug)]
pub(super) struct Record {
    buffer: Vec<u8>,
    len: usize,
}

impl Record {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; HEADER_LEN + MAX_PAYLOAD], len: 0 }
    }

    /// Fills the payload by `read`; gives what that gave.
    pub(super) fn fill<E>(&mut self, read: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<usize, E> {
        self.len = 0;
        let payload = self.buffer.get_mut(HEADER_LEN..).unwrap_or_default();
        self.len = read(payload)?.min(MAX_PAYLOAD);
        Ok(self.len)
    }

    pub(super) fn set(&mut self, payload: &[u8]) {
        let result: Result<usize, std::convert::Infallible> = self.fill(|buffer| {
            let len = payload.len().min(buffer.len());
            buffer[..len].copy_from_slice(&payload[..len]);
            Ok(len)
        });
        let Ok(_) = result;
    }

    fn bytes(&mut self, stream: u8, micros: u64) -> &[u8] {
        let len = u32::try_from(self.len).unwrap_or(0);
        self.buffer[..HEADER_LEN].copy_from_slice(&header(stream, len, micros));
        &self.buffer[..HEADER_LEN + self.len]
    }
}

/// Most bytes of records that wait in memory while the disk takes none.
const PENDING_LIMIT: usize = 1 << 20;

/// A job's spool. The job never waits for it: what cannot be written for lack of space waits in memory up to
/// [`PENDING_LIMIT`]; what is beyond that or the spool's own limit leaves a gap in the offsets, which readers notice.
#[derive(Debug)]
pub(super) struct Spool {
    dir: PathBuf,
    limit: u64,
    segment_len: u64,
    /// Oldest first; only the last one grows.
    segments: VecDeque<Segment>,
    /// The last segment, unless something was lost behind it.
    file: Option<File>,
    /// Records behind [`Self::progress`] that could not be written yet.
    pending: VecDeque<Vec<u8>>,
    progress: SpoolProgress,
}

#[derive(Debug)]
struct Segment {
    start: u64,
    len: u64,
}

impl Spool {
    pub(super) fn new(dir: PathBuf, limit: u64) -> Self {
        let limit = if limit == 0 { DEFAULT_LIMIT } else { limit };
        Self {
            dir,
            limit,
            segment_len: (limit / 4).clamp(MIN_SEGMENT_LEN, SEGMENT_LEN),
            segments: VecDeque::new(),
            file: None,
            pending: VecDeque::new(),
            progress: SpoolProgress::default(),
        }
    }

    /// Whether records wait for space: then [`Self::retry`] from time to time.
    pub(super) fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn progress(&self) -> SpoolProgress {
        self.progress
    }

    /// Nothing follows. What still waits for space is lost.
    pub(super) fn close(&mut self) {
        self.retry();
        while self.is_behind() {
            self.skip_oldest_pending();
        }
        self.file = None;
        self.progress.closed = true;
    }

    /// Appends a record, at once or when there is space.
    pub(super) fn append(&mut self, record: &mut Record, stream: u8, micros: u64) {
        self.retry();
        let bytes = record.bytes(stream, micros);
        if self.is_behind() || self.write(bytes).is_err() {
            self.pending.push_back(bytes.to_vec());
            while self.pending.iter().map(Vec::len).sum::<usize>() > PENDING_LIMIT {
                self.skip_oldest_pending();
            }
        }
        self.enforce_limit();
    }

    /// Writes what waits, as far as the disk takes it.
    pub(super) fn retry(&mut self) {
        while let Some(bytes) = self.pending.pop_front() {
            if self.write(&bytes).is_err() {
                self.pending.push_front(bytes);
                return;
            }
        }
    }

    fn skip_oldest_pending(&mut self) {
        if let Some(lost) = self.pending.pop_front() {
            self.progress.written += lost.len() as u64;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.try_append(bytes);
        match &written {
            Ok(()) => self.progress.written += bytes.len() as u64,
            // What follows begins a segment of its own, at its offset.
            Err(_) => self.file = None,
        }
        written
    }

    fn try_append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let full = self.segments.back().is_none_or(|last| last.len >= self.segment_len);
        if full || self.file.is_none() {
            self.begin_segment()?;
        }
        let (Some(file), Some(last)) = (&mut self.file, self.segments.back_mut()) else { return Ok(()) };
        if let Err(err) = file.write_all(bytes) {
            let _ = file.set_len(last.len); // half a record may stay: readers see that it is none
            if last.len == 0 {
                let _ = std::fs::remove_file(self.dir.join(segment_name(last.start)));
                self.segments.pop_back();
            }
            return Err(err);
        }
        last.len += bytes.len() as u64;
        Ok(())
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let start = self.progress.written;
        let path = self.dir.join(segment_name(start));
        let open = || OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = open().or_else(|err| match err.kind() {
            io::ErrorKind::NotFound => {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
                open()
            }
            _ => Err(err),
        })?;
        self.file = Some(file);
        self.segments.push_back(Segment { start, len: 0 });
        Ok(())
    }

    fn enforce_limit(&mut self) {
        while self.segments.len() > 1 && self.segments.iter().map(|segment| segment.len).sum::<u64>() > self.limit {
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        if let Some(oldest) = self.segments.pop_front() {
            let _ = std::fs::remove_file(self.dir.join(segment_name(oldest.start))); // gone is as good
        }
    }

    /// Everything before `offset` is safe elsewhere. The last segment stays until it is worth the work.
    pub(super) fn ack(&mut self, offset: u64) {
        while let Some(oldest) = self.segments.front() {
            let last = self.segments.len() == 1;
            let small = oldest.len < MIN_SEGMENT_LEN && !self.progress.closed;
            if oldest.start + oldest.len > offset || (last && small) {
                break;
            }
            if last {
                self.file = None;
            }
            self.remove_oldest();
        }
    }
}

#[cfg(test)]
mod tests;
