//! Trying again.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Backoff;

/// Repeats `work` while it fails in a way that may pass, for at most `limit` and until cancelled; then gives the last
/// error. Work in flight is not cut off: it has limits of its own.
pub async fn retry<T, E, F>(
    mut backoff: Backoff,
    limit: Duration,
    cancel: &CancellationToken,
    may_pass: impl Fn(&E) -> bool,
    mut work: impl FnMut() -> F,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let deadline = Instant::now() + limit;
    loop {
        let err = match work().await {
            Ok(done) => return Ok(done),
            Err(err) => err,
        };
        let pause = backoff.pause();
        if !may_pass(&err) || Instant::now() + pause >= deadline {
            return Err(err);
        }
        if cancel.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Err(err);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn only_what_may_pass_is_tried_again_and_not_for_ever() {
        let tries = Cell::new(0);
        let run = async |succeeds_at: u32, may_pass: bool, cancel: &CancellationToken| {
            tries.set(0);
            let backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(2));
            let work = || {
                tries.set(tries.get() + 1);
                std::future::ready(if tries.get() >= succeeds_at { Ok("done") } else { Err(tries.get()) })
            };
            retry(backoff, Duration::from_millis(300), cancel, |_| may_pass, work).await
        };
        let token = CancellationToken::new();
        assert_eq!(run(3, true, &token).await, Ok("done"));
        assert_eq!(run(3, false, &token).await, Err(1));
        assert!(run(u32::MAX, true, &token).await.unwrap_err() >= 10);
        token.cancel();
        assert_eq!(run(3, true, &token).await, Err(1));
    }
}
