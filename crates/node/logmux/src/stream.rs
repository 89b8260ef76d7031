//! Readers: an app's lines as a stream, history first, then as they are logged.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::line::{History, LogLine, ReadError, StreamOptions};
use crate::message::{Message, frames};
use crate::published::AppEnd;
use crate::tail::{Position, Read, Tail};

/// How much of a file is read at once, in bytes.
const CHUNK: usize = 128 * 1024;
/// Looks at a log whose announced files are not there, before giving up, and the pause between them.
const ATTEMPTS: u32 = 100;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// A reader between two items.
pub(crate) struct Reader {
    pub(crate) tail: Tail,
    pub(crate) options: StreamOptions,
    pub(crate) end: watch::Receiver<AppEnd>,
    /// Whether the job's output is complete; closed when nobody follows it any more. `None`: there is no end.
    pub(crate) job_done: Option<watch::Receiver<bool>>,
    /// Where history ends.
    pub(crate) history_end: Position,
    pub(crate) stop: CancellationToken,
    pub(crate) lines: VecDeque<LogLine>,
}

impl Reader {
    pub(crate) fn stream(self) -> BoxStream<'static, Result<LogLine, ReadError>> {
        stream::unfold(Some(self), |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(line)) => Some((Ok(line), Some(reader))),
                Ok(None) => None,
                Err(err) => Some((Err(ReadError { path: reader.tail.path(), err }), None)),
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> io::Result<Option<LogLine>> {
        loop {
            // The last lines of history are known only at its end.
            let holding = matches!(self.options.history, History::Last(_)) && !self.is_past(self.history_end);
            if !holding && let Some(line) = self.lines.pop_front() {
                return Ok(Some(line));
            }
            // First whether the job has ended, then the log's end: so nothing lies between.
            let done = self.job_done.as_ref().is_some_and(|done| *done.borrow() || done.has_changed().is_err());
            let end = self.end.borrow_and_update().clone();
            if self.read(&end).await? {
                continue;
            }
            if holding {
                // Files that vanished took the end of history with them.
                self.history_end = Position::default();
                continue;
            }
            if !self.options.follow || done || self.stop.is_cancelled() {
                return Ok(None);
            }
            self.tail.rest();
            let Self { end, job_done, stop, .. } = self;
            let job_ends = async {
                match job_done {
                    Some(done) => drop(done.wait_for(|done| *done).await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = end.changed() => if changed.is_err() {
                    return Ok(None); // the log was deleted
                },
                () = job_ends => {}
                () = stop.cancelled() => {}
            }
        }
    }

    fn is_past(&self, place: Position) -> bool {
        let here = self.tail.position;
        (here.generation, here.offset) >= (place.generation, place.offset)
    }

    /// Reads a chunk, which does not go over the end of history; `false` when there is nothing more.
    async fn read(&mut self, end: &AppEnd) -> io::Result<bool> {
        if !self.options.follow && self.is_past(self.history_end) {
            return Ok(false);
        }
        let here = self.tail.position;
        let before_end = self.history_end.offset.saturating_sub(here.offset);
        let most = match usize::try_from(before_end) {
            Ok(most @ 1..) if here.generation == self.history_end.generation => most.min(CHUNK),
            _ => CHUNK,
        };
        for _ in 0..ATTEMPTS {
            if self.tail.position.is_at(end) {
                return Ok(false);
            }
            let nowhere = Tail::new(std::path::Path::new(""), "", Position::default());
            let mut tail = std::mem::replace(&mut self.tail, nowhere);
            let announced = end.clone();
            let read;
            (self.tail, read) = tokio::task::spawn_blocking(move || {
                let read = tail.read(&announced, most);
                (tail, read)
            })
            .await
            .map_err(io::Error::other)?;
            match read? {
                Read::Frames => {
                    self.collect();
                    return Ok(true);
                }
                Read::Gap(messages) => {
                    tracing::warn!(messages, "log lines were rotated away before they were read");
                    return Ok(true);
                }
                Read::End => return Ok(false),
                // The announcement follows a rotation at once.
                Read::Again if self.end.has_changed().unwrap_or(false) => return Ok(true),
                Read::Again => tokio::time::sleep(PAUSE).await,
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "the file is not where it was when it was written last"))
    }

    fn collect(&mut self) {
        let Self { tail, options, lines, .. } = self;
        frames(&tail.buffer, |bytes| {
            let Some(message) = Message::parse(bytes) else { return };
            let wanted = options.job.as_ref().is_none_or(|job| message.is_of_job(job.as_str()))
                && (options.streams.is_empty() || options.streams.contains(&message.stream()))
                && options.since.is_none_or(|since| message.micros >= since.timestamp_micros());
            if wanted {
                lines.push_back(line(&message, options));
            }
        });
        if let History::Last(most) = options.history {
            let here = (tail.position.generation, tail.position.offset);
            if here <= (self.history_end.generation, self.history_end.offset) {
                lines.drain(..lines.len().saturating_sub(most));
            }
        }
    }
}

fn line(message: &Message<'_>, options: &StreamOptions) -> LogLine {
    let (mut job, mut process_type) = message.job();
    // An id that holds a dot is told apart only by who knows it.
    if let Some(id) = &options.job {
        job = id.as_str();
        process_type = message.process.strip_suffix(job).and_then(|rest| rest.strip_suffix('.')).unwrap_or_default();
    }
    LogLine {
        job_id: job.to_owned(),
        process_type: process_type.to_owned(),
        stream: message.stream(),
        timestamp: DateTime::<Utc>::from_timestamp_micros(message.micros).unwrap_or_default(),
        seq: message.seq.into(),
        text: Bytes::copy_from_slice(message.text),
    }
}
