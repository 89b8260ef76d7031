//! Notices a worker whose loop stands still, and tells where.
//!
//! Each worker's runtime counts up a number; a thread of its own looks whether the numbers change. What it knows of a
//! stalled thread is what the worker noted last, and what the kernel tells (proc(5)).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// Pause between two beats.
pub(crate) const BEAT: Duration = Duration::from_millis(250);

/// What a worker noted last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Activity {
    Nothing,
    Accepting,
    Handshake,
    Request,
    Response,
    Tcp,
}

impl Activity {
    const ALL: [Self; 6] = [Self::Nothing, Self::Accepting, Self::Handshake, Self::Request, Self::Response, Self::Tcp];
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing yet",
            Self::Accepting => "took in a connection",
            Self::Handshake => "began a TLS handshake",
            Self::Request => "began a request",
            Self::Response => "got a backend's response",
            Self::Tcp => "began a TCP connection",
        })
    }
}

/// A worker's signs of life.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    beats: AtomicU64,
    activity: AtomicU8,
    /// 0 until the thread runs.
    thread: AtomicI32,
}

impl Pulse {
    /// Beats for as long as this thread's runtime goes on.
    pub(crate) async fn beat(&self) {
        self.thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
        let mut times = tokio::time::interval(BEAT);
        times.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            times.tick().await;
            self.beats.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn note(&self, activity: Activity) {
        self.activity.store(activity as u8, Ordering::Relaxed);
    }

    fn activity(&self) -> Activity {
        Activity::ALL[usize::from(self.activity.load(Ordering::Relaxed)).min(Activity::ALL.len() - 1)]
    }

    /// What is known of a thread that stands still.
    fn report(&self) -> String {
        let thread = self.thread.load(Ordering::Relaxed);
        let known = |file: &str| {
            let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/{file}")).unwrap_or_default();
            text.trim().replace('\n', " ← ")
        };
        // After the name in parentheses: the state and ten others, then its processor time.
        let stat = known("stat");
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let field = |index: usize| fields.get(index).copied().unwrap_or("?").to_owned();
        format!(
            "last it {}; thread {thread} has the state {}, user and system ticks {} and {}, waits in {:?}, system call {:?}, kernel stack {:?}",
            self.activity(),
            field(0),
            field(11),
            field(12),
            known("wchan"),
            known("syscall"),
            known("stack"),
        )
    }
}

/// Watches until it is dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    _stop: mpsc::Sender<()>,
    /// Cancelled when a worker stands still.
    pub(crate) stalled: CancellationToken,
}

impl Watchdog {
    /// Watches these workers. A `limit` of zero is for ever.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(workers: Vec<Arc<Pulse>>, limit: Duration) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let stalled = CancellationToken::new();
        if !limit.is_zero() {
            let told = stalled.clone();
            let watch = move || watch(&workers, limit, &stopped, &told);
            std::thread::Builder::new().name("router-watchdog".to_owned()).spawn(watch)?;
        }
        Ok(Self { _stop: stop, stalled })
    }
}

fn watch(workers: &[Arc<Pulse>], limit: Duration, stopped: &mpsc::Receiver<()>, stalled: &CancellationToken) {
    let pause = (limit / 4).clamp(BEAT, Duration::from_secs(1));
    let mut looks: Vec<Look> = workers.iter().map(|_| Look::default()).collect();
    let mut last = Instant::now();
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(pause) {
        let now = Instant::now();
        // Whoever stopped this thread stopped the others too: a frozen machine is no stall.
        let all_paused = now.duration_since(last) > pause + limit / 2;
        last = now;
        for (number, (worker, look)) in workers.iter().zip(&mut looks).enumerate() {
            match look.at(worker.beats.load(Ordering::Relaxed), now, limit, all_paused) {
                Seen::Stalled => {
                    error!(worker = number, "worker stands still for {limit:?}: {}", worker.report());
                    stalled.cancel();
                }
                Seen::Recovered => warn!(worker = number, "worker goes on"),
                Seen::Nothing => {}
            }
        }
    }
}

/// What is known of a worker's beats.
#[derive(Debug, Default)]
struct Look {
    beats: u64,
    since: Option<Instant>,
    is_stalled: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    /// For the first time.
    Stalled,
    Recovered,
}

impl Look {
    fn at(&mut self, beats: u64, now: Instant, limit: Duration, all_paused: bool) -> Seen {
        let since = *self.since.get_or_insert(now);
        if beats != self.beats || all_paused {
            (self.beats, self.since) = (beats, Some(now));
            return if std::mem::take(&mut self.is_stalled) { Seen::Recovered } else { Seen::Nothing };
        }
        if now.duration_since(since) < limit || self.is_stalled {
            return Seen::Nothing;
        }
        self.is_stalled = true;
        Seen::Stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_does_not_beat_is_told_once() {
        let (begin, limit) = (Instant::now(), Duration::from_secs(10));
        let mut look = Look::default();
        for (second, beats, all_paused, expected) in [
            (0, 1, false, Seen::Nothing),
            (9, 1, false, Seen::Nothing),
            (10, 1, false, Seen::Stalled),
            (20, 1, false, Seen::Nothing),
            (21, 2, false, Seen::Recovered),
            (22, 3, false, Seen::Nothing),
            // The whole process was stopped for an hour.
            (3622, 3, true, Seen::Nothing),
            (3631, 3, false, Seen::Nothing),
            (3632, 3, false, Seen::Stalled),
        ] {
            let now = begin + Duration::from_secs(second);
            assert_eq!(look.at(beats, now, limit, all_paused), expected, "{second}");
        }
    }

    #[test]
    fn a_report_tells_of_the_thread() {
        let pulse = Pulse::default();
        pulse.thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
        pulse.note(Activity::Response);
        let report = pulse.report();
        assert!(report.contains("got a backend's response") && report.contains("state R"), "{report}");
    }
}
