//! Waiting for conditions.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::bail;

const POLL: Duration = Duration::from_millis(20);

/// Calls `look` until it gives `Ok`, and fails with what it saw last when `limit` has passed, stretched by
/// [`flynn_patience::factor`].
pub fn wait_until<T, E: Debug>(
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, E>,
) -> anyhow::Result<T> {
    let limit = limit * flynn_patience::factor();
    let end = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(seen) if Instant::now() >= end => bail!("waited {limit:?} until {what}; last seen: {seen:?}"),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// How often a fault test repeats: `script/test --repeat N` sets it, ten by default.
pub fn repeats() -> usize {
    std::env::var("FLYNN_TEST_REPEAT").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}
