//! Requests that are made all the time while something else is done.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::Platform;

/// How many ask at the same time.
const ASKERS: usize = 4;
/// Between two requests of one: a rate.
const PAUSE: Duration = Duration::from_millis(10);

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Load {
    pub answered: usize,
    /// Each with what came instead of 200.
    pub failed: Vec<Failure>,
}

/// A request without the answer that it should have had.
#[derive(Debug)]
pub struct Failure {
    pub at: Instant,
    pub seen: String,
}

impl Load {
    /// From the first failure to the last.
    pub fn outage(&self) -> Duration {
        let times = || self.failed.iter().map(|failure| failure.at);
        times().max().zip(times().min()).map_or(Duration::ZERO, |(last, first)| last.duration_since(first))
    }
}

/// Asks the app of this name all the time while `work` is done.
pub fn under_load<T: Send>(platform: &Platform, name: &str, work: impl FnOnce() -> T + Send) -> (T, Load) {
    let (ended, load) = (AtomicBool::new(false), Mutex::new(Load::default()));
    let ask = || {
        while !ended.load(Ordering::Relaxed) {
            let answer = platform.get(name, "/");
            let at = Instant::now();
            let mut load = load.lock().unwrap_or_else(PoisonError::into_inner);
            match answer {
                Ok(answer) if answer.status == StatusCode::OK => load.answered += 1,
                Ok(answer) => {
                    load.failed.push(Failure { at, seen: format!("{} {}", answer.status, answer.text()) });
                }
                Err(err) => load.failed.push(Failure { at, seen: format!("{err:#}") }),
            }
            drop(load);
            std::thread::sleep(PAUSE);
        }
    };
    let done = std::thread::scope(|scope| {
        for _ in 0..ASKERS {
            scope.spawn(ask);
        }
        // Also when `work` panics.
        let _end = End(&ended);
        work()
    });
    (done, load.into_inner().unwrap_or_else(PoisonError::into_inner))
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
