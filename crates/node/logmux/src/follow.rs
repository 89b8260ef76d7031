//! Following one job: spool → lines → log.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use flynn_types::id::JobId;
use flynn_types::init::spool::{INIT, SEGMENT_LEN};
use flynn_types::init::{SpoolProgress, files};
use tokio::sync::{Semaphore, watch};

use crate::applog::{Batch, micros_now};
use crate::config::JobLogInfo;
use crate::journal::{JobCursor, JobEntry, PartialCursor};
use crate::lines::Partial;
use crate::message::Source;
use crate::spool::{Progress, SpoolReader};
use crate::writer::{Committed, Writer};

/// A line's beginning is kept in the cursor when the spool has gone on so far behind it.
const CARRY_AFTER: u64 = 256 * 1024;
/// Most bytes of lines that are written at once.
const BATCH_LEN: usize = 1 << 20;
/// Smallest advance that is acknowledged before the end.
const ACK_STEP: u64 = SEGMENT_LEN / 4;
/// Pauses between tries while the log cannot be written.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How long a progress channel that was closed without the streams' end is taken for a daemon that is leaving.
const LEAVING: Duration = Duration::from_secs(2);

/// What a follower needs and tells.
pub(crate) struct Follow {
    pub(crate) writer: Arc<Writer>,
    /// Bounds the threads that read spools and write logs.
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) app: String,
    pub(crate) app_name: String,
    pub(crate) source: Source,
    pub(crate) info: JobLogInfo,
    pub(crate) progress: watch::Receiver<SpoolProgress>,
    pub(crate) acked: watch::Sender<u64>,
}

impl Follow {
    /// Returns when all of the job's output is in the log. Cancel safe: what was not recorded is done again by the next
    /// follower.
    pub(crate) async fn run(mut self) {
        let mut steps = self.begin().await;
        let (mut pause, mut left) = (RETRY_FIRST, false);
        loop {
            let mut seen = *self.progress.borrow_and_update();
            if self.progress.has_changed().is_err() && !seen.closed {
                if !left {
                    tokio::time::sleep(LEAVING).await;
                }
                left = true;
                seen.closed = true;
            }
            let permits = Arc::clone(&self.permits);
            let Ok(permit) = permits.acquire_owned().await else { return };
            let stepped = tokio::task::spawn_blocking(move || {
                let outcome = steps.step(seen);
                drop(permit);
                (steps, outcome)
            });
            let outcome;
            (steps, outcome) = match stepped.await {
                Ok(stepped) => stepped,
                Err(err) => {
                    tracing::error!(job_id = %self.info.job_id, %err, "following a job's output failed");
                    return;
                }
            };
            match outcome {
                Ok(step) => {
                    if steps.failing {
                        tracing::info!(job_id = %self.info.job_id, "the job's log is written again");
                    }
                    (steps.failing, pause) = (false, RETRY_FIRST);
                    let needed = steps.cursor.needed_from();
                    if needed >= *self.acked.borrow() + ACK_STEP || steps.cursor.closed {
                        self.acked.send_replace(needed);
                    }
                    match step {
                        Step::More => {}
                        Step::Wait => {
                            steps.spool.rest();
                            let _ = self.progress.changed().await; // closed: seen above
                        }
                        Step::Stale => steps = self.begin().await,
                        Step::Finished => return,
                    }
                }
                Err(err) => {
                    if !steps.failing {
                        tracing::warn!(job_id = %self.info.job_id, %err, "the job's log cannot be written, its output waits in the spool");
                    }
                    steps.failing = true;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    async fn begin(&self) -> Steps {
        let mut failing = false;
        loop {
            let (writer, app, name, job) =
                (Arc::clone(&self.writer), self.app.clone(), self.app_name.clone(), self.info.job_id.clone());
            let begun = tokio::task::spawn_blocking(move || writer.begin(&app, &name, &job)).await;
            match begun.unwrap_or_else(|err| Err(io::Error::other(err))) {
                Ok(cursor) => {
                    self.acked.send_replace(cursor.needed_from());
                    return Steps::new(self, cursor, failing);
                }
                Err(err) => {
                    if !failing {
                        tracing::warn!(job_id = %self.info.job_id, %err, "the job's log cannot be opened");
                    }
                    failing = true;
                    tokio::time::sleep(RETRY_MAX).await;
                }
            }
        }
    }
}

enum Step {
    More,
    Wait,
    Stale,
    Finished,
}

/// The follower's state between steps; a step runs on a thread that may block.
struct Steps {
    writer: Arc<Writer>,
    app: String,
    source: Source,
    job_id: JobId,
    run_dir: std::path::PathBuf,
    spool: SpoolReader,
    partials: [Partial; 3],
    /// Time of the last output, for lines that end without one.
    micros: i64,
    /// What is recorded.
    cursor: JobCursor,
    /// What is to be written next, and the cursor behind it. Kept until it is written.
    pending: Option<(Batch, JobCursor)>,
    failing: bool,
}

impl Steps {
    fn new(follow: &Follow, cursor: JobCursor, failing: bool) -> Self {
        let restored = |partial: &Option<PartialCursor>| match partial {
            Some(partial) => Partial::restored(partial.carry.clone(), partial.from, partial.skip),
            None => Partial::restored(Vec::new(), cursor.next, 0),
        };
        Self {
            writer: Arc::clone(&follow.writer),
            app: follow.app.clone(),
            source: follow.source.clone(),
            job_id: follow.info.job_id.clone(),
            run_dir: follow.info.run_dir.clone(),
            spool: SpoolReader::new(follow.info.run_dir.join(files::SPOOL), cursor.needed_from()),
            partials: cursor.partials.each_ref().map(restored),
            micros: 0,
            cursor,
            pending: None,
            failing,
        }
    }

    fn step(&mut self, seen: SpoolProgress) -> io::Result<Step> {
        if self.cursor.closed {
            return Ok(Step::Finished);
        }
        if self.pending.is_none() {
            self.pending = Some(self.gather(seen)?);
        }
        let Some((batch, cursor)) = &self.pending else { return Ok(Step::Wait) };
        if *cursor != self.cursor {
            let job = JobEntry { id: self.job_id.clone(), cursor: cursor.clone(), run_dir: self.run_dir.clone() };
            if self.writer.commit(&self.app, &self.source, batch, &self.cursor, &job)? == Committed::Stale {
                return Ok(Step::Stale);
            }
        }
        let Some((_, cursor)) = self.pending.take() else { return Ok(Step::Wait) };
        self.cursor = cursor;
        Ok(match () {
            () if self.cursor.closed => Step::Finished,
            () if self.spool.offset() < seen.written || seen.closed => Step::More,
            () => Step::Wait,
        })
    }

    /// Reads on, up to a batch.
    fn gather(&mut self, seen: SpoolProgress) -> io::Result<(Batch, JobCursor)> {
        let mut batch = Batch::default();
        let mut closed = false;
        while batch.len_bytes() < BATCH_LEN {
            let Self { spool, partials, cursor, micros, .. } = self;
            let progress = spool.read(seen.written, |record| {
                let Some(partial) = partials.get_mut(usize::from(record.stream.wrapping_sub(1))) else { return };
                let time = i64::try_from(record.micros).unwrap_or(i64::MAX);
                *micros = time;
                let mut start = 0;
                if record.offset < cursor.next {
                    // Read again, for the sake of a line that had not ended.
                    let (_, from, skip) = partial.origin();
                    match record.offset.cmp(&from) {
                        std::cmp::Ordering::Less => return,
                        std::cmp::Ordering::Equal => start = skip,
                        std::cmp::Ordering::Greater => {}
                    }
                }
                partial.feed(record.offset, start, record.payload, |line| batch.push(record.stream, time, line));
            });
            match progress {
                Ok(Progress::Read) => {}
                Ok(Progress::Gap { bytes }) => {
                    self.end_lines(&mut batch);
                    // What is read again was logged but for the lines that just ended.
                    let begin = (self.spool.offset() - bytes).max(self.cursor.next);
                    let bytes = self.spool.offset().saturating_sub(begin);
                    if bytes > 0 {
                        tracing::warn!(job_id = %self.job_id, bytes, "output was dropped before it could be logged");
                        let notice =
                            format!("flynn-host: {bytes} bytes of output were dropped before they could be logged");
                        batch.push(INIT, micros_now(), notice.as_bytes());
                    }
                }
                Ok(Progress::End) => {
                    closed = seen.closed;
                    if closed {
                        self.end_lines(&mut batch);
                    }
                    break;
                }
                // What was read so far is worth writing; the error comes again.
                Err(err) if batch.len_bytes() == 0 => return Err(err),
                Err(_) => break,
            }
        }
        let cursor = self.cursor_behind(closed);
        Ok((batch, cursor))
    }

    fn end_lines(&mut self, batch: &mut Batch) {
        let micros = if self.micros == 0 { micros_now() } else { self.micros };
        for (stream, partial) in (1..).zip(&mut self.partials) {
            partial.end(|line| batch.push(stream, micros, line));
        }
    }

    fn cursor_behind(&mut self, closed: bool) -> JobCursor {
        let next = self.spool.offset().max(self.cursor.next);
        let partials = self.partials.each_mut().map(|partial| {
            if partial.is_empty() {
                return None;
            }
            if next - partial.origin().1.min(next) > CARRY_AFTER {
                partial.carry(next);
            }
            let (carry, from, skip) = partial.origin();
            Some(PartialCursor { carry: carry.to_vec(), from, skip })
        });
        JobCursor { next, partials, closed }
    }
}
