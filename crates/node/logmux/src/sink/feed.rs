//! The task that feeds one sink.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use flynn_types::host::SinkCursor;
use flynn_types::time::GoTime;
use rand::Rng as _;
use tokio::time::{Instant, timeout};

use super::config::Target;
use super::merge::{Key, Merger, Taken};
use super::render::Renderer;
use super::transport::{Connection as Wire, Outgoing, connect};
use super::{Connection, Progress, cursors, lock_of};
use crate::config::Limits;
use crate::mux::Core;
use crate::writer::Writer;

/// Most bytes that are sent at once.
const BATCH_LEN: usize = 64 * 1024;
/// Lines that come one after the other are gathered for so long.
const GATHER: Duration = Duration::from_millis(5);
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// A connection that lasted so long is not counted as a failed attempt when it ends.
const LASTING: Duration = Duration::from_secs(5);

pub(super) struct Feed {
    id: String,
    host_id: String,
    log_dir: std::path::PathBuf,
    limits: Limits,
    writer: Arc<Writer>,
    target: Target,
    renderer: Option<Renderer>,
    progress: Arc<Mutex<Progress>>,
}

impl Feed {
    pub(super) fn new(core: &Arc<Core>, id: &str, target: Target, progress: Arc<Mutex<Progress>>) -> Self {
        Self {
            id: id.to_owned(),
            host_id: core.config.host_id.to_string(),
            log_dir: core.config.log_dir.clone(),
            limits: core.config.limits.clone(),
            writer: Arc::clone(&core.writer),
            renderer: Some(Renderer::new(Arc::downgrade(core), target.clone())),
            target,
            progress,
        }
    }

    pub(super) async fn run(mut self) {
        let mut failures = 0;
        loop {
            self.report(Connection::Connecting, None);
            let opened = timeout(self.limits.connect_timeout, self.open()).await;
            let err = match opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok((wire, merger)) => {
                    merger.positions().clone_into(&mut lock_of(&self.progress).positions);
                    tracing::info!(sink = self.id, "log sink is connected");
                    self.report(Connection::Connected, None);
                    let since = Instant::now();
                    let err = self.pump(wire, merger).await;
                    if since.elapsed() >= LASTING {
                        failures = 0;
                    }
                    err
                }
                Err(err) => err,
            };
            let pause = (RETRY_FIRST * 2u32.saturating_pow(failures)).min(self.limits.retry_max);
            let pause = pause.mul_f64(rand::rng().random_range(0.5..1.0));
            failures += 1;
            if failures == 1 {
                tracing::warn!(sink = self.id, %err, "log sink is not connected, its lines wait in the logs");
            }
            self.report(Connection::Waiting, Some(err.to_string()));
            tokio::time::sleep(pause).await;
        }
    }

    /// Connects, and finds the place to go on.
    async fn open(&self) -> io::Result<(Wire, Merger)> {
        let (positions, sent_last) = {
            let progress = lock_of(&self.progress);
            (progress.positions.clone(), progress.cursor)
        };
        let log_dir = self.log_dir.clone();
        let Target::Aggregator { addr } = &self.target else {
            let wire = connect(&self.target).await?;
            if positions.is_empty() && sent_last.is_some() {
                return Ok((wire, self.merger_after(sent_last).await?));
            }
            return Ok((wire, Merger::resume(&log_dir, positions)));
        };
        let host = addr.rsplit_once(':').map_or(addr.as_str(), |(host, _)| host);
        let received = cursors::cursor_of(host, self.limits.aggregator_http_port, &self.host_id).await?;
        let wire = connect(&self.target).await?;
        // When the last message sent arrived, all arrived, and our own places are the surest.
        let merger = if received.is_some() && received == sent_last && !positions.is_empty() {
            Merger::resume(&log_dir, positions)
        } else {
            self.merger_after(received).await?
        };
        Ok((wire, merger))
    }

    async fn merger_after(&self, cursor: Option<SinkCursor>) -> io::Result<Merger> {
        let key = cursor.and_then(|cursor| Some((cursor.time.0?.timestamp_micros(), u32::try_from(cursor.seq).ok()?)));
        let (log_dir, ends) = (self.log_dir.clone(), self.writer.published.all());
        tokio::task::spawn_blocking(move || Merger::after(&log_dir, key, &ends)).await.map_err(io::Error::other)
    }

    /// Sends messages as they are logged, until that fails.
    async fn pump(&mut self, mut wire: Wire, mut merger: Merger) -> io::Error {
        let mut ticks = self.writer.published.ticks();
        loop {
            ticks.borrow_and_update();
            let (taken, outgoing);
            (merger, taken, outgoing) = match self.take(merger).await {
                Ok(read) => read,
                Err(err) => return err,
            };
            if !outgoing.ends.is_empty()
                && let Err(err) = wire.send(&outgoing, self.limits.write_timeout).await
            {
                return err;
            }
            let idle = taken.messages == 0;
            self.advance(taken);
            if idle {
                tokio::select! {
                    err = wire.closed() => return err,
                    changed = ticks.changed() => if changed.is_err() {
                        std::future::pending::<()>().await;
                    },
                }
                tokio::time::sleep(GATHER).await;
            }
        }
    }

    /// Reads and renders the next messages.
    async fn take(&mut self, mut merger: Merger) -> io::Result<(Merger, Taken, Outgoing)> {
        let ends = self.writer.published.all();
        let Some(mut renderer) = self.renderer.take() else { return Err(io::Error::other("renderer is lost")) };
        let work = tokio::task::spawn_blocking(move || {
            let mut outgoing = Outgoing::default();
            let taken = merger.take(&ends, |app, bytes, message| {
                let app_name = ends.get(app).map_or("", |end| end.app_name.as_str());
                renderer.write(bytes, message, app_name, &mut outgoing.bytes);
                outgoing.ends.push(outgoing.bytes.len());
                outgoing.bytes.len() < BATCH_LEN
            });
            (renderer, merger, taken, outgoing)
        });
        let (renderer, merger, taken, outgoing) = work.await.map_err(io::Error::other)?;
        self.renderer = Some(renderer);
        Ok((merger, taken?, outgoing))
    }

    fn advance(&self, taken: Taken) {
        if taken.positions.is_empty() && taken.dropped == 0 {
            return;
        }
        if taken.dropped > 0 {
            tracing::warn!(
                sink = self.id,
                messages = taken.dropped,
                "log lines were rotated away before they were sent"
            );
        }
        let mut progress = lock_of(&self.progress);
        progress.positions.extend(taken.positions);
        progress.sent += taken.messages;
        progress.dropped += taken.dropped;
        progress.cursor = taken.last.map(cursor).or(progress.cursor);
        progress.changed = true;
    }

    fn report(&self, connection: Connection, error: Option<String>) {
        let mut progress = lock_of(&self.progress);
        if progress.connection != connection {
            progress.since = Utc::now();
        }
        progress.connection = connection;
        // While it is tried again, the last failure stays visible.
        if error.is_some() || connection == Connection::Connected {
            progress.error = error;
        }
    }
}

fn cursor((micros, seq): Key) -> SinkCursor {
    SinkCursor { time: GoTime(DateTime::<Utc>::from_timestamp_micros(micros)), seq: seq.into() }
}
