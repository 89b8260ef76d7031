//! What is done from time to time for all jobs: a warning before their memory ends, and forgetting those that ended long
//! ago.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use flynn_types::error::with_causes;
use flynn_types::id::JobId;
use tracing::{info, warn};

use super::Runner;

/// Spec flynn-host section 9.2.
const MEMORY_INTERVAL: Duration = Duration::from_secs(5);
const EXPIRY_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Share of the memory limit in percent at which is warned, and below which a new warning becomes possible.
const WARN_PERCENT: u64 = 90;
const CALM_PERCENT: u64 = 80;

/// Warns once when a job comes close to its memory limit.
pub(crate) async fn watch_memory(runner: Arc<Runner>) {
    let mut warned = BTreeSet::new();
    loop {
        tokio::time::sleep(MEMORY_INTERVAL).await;
        let reading = Arc::clone(&runner);
        let read = tokio::task::spawn_blocking(move || {
            let ids = reading.live.ids().into_iter();
            ids.filter_map(|id| Some((reading.runtime.memory(&reading.run_dir(&id)).ok()?, id))).collect::<Vec<_>>()
        });
        for id in judge(&read.await.unwrap_or_default(), &mut warned) {
            warn!(job_id = %id, "job uses {WARN_PERCENT} % of its memory limit or more");
            let _ = runner.memory_warnings.send(id); // nobody may listen
        }
    }
}

/// Who is to be warned, given use and limit of each job in bytes; `warned` remembers who was.
fn judge(jobs: &[((u64, u64), JobId)], warned: &mut BTreeSet<JobId>) -> Vec<JobId> {
    warned.retain(|id| jobs.iter().any(|(_, other)| other == id));
    let mut news = Vec::new();
    for ((used, limit), id) in jobs {
        let (used, limit) = (u128::from(*used) * 100, u128::from(*limit));
        if limit > 0 && used >= limit * u128::from(WARN_PERCENT) {
            if warned.insert(id.clone()) {
                news.push(id.clone());
            }
        } else if used < limit * u128::from(CALM_PERCENT) {
            warned.remove(id);
        }
    }
    news
}

/// Removes the records of old ended jobs once a day.
pub(crate) async fn forget_expired(runner: Arc<Runner>) {
    loop {
        tokio::time::sleep(EXPIRY_INTERVAL).await;
        let forgetting = Arc::clone(&runner);
        match tokio::task::spawn_blocking(move || forgetting.book.forget_expired(Utc::now())).await {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(jobs)) => info!(jobs, "forgot jobs that ended long ago"),
            Ok(Err(err)) => warn!(err = with_causes(&err), "jobs that ended long ago cannot be forgotten yet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_warned_once_until_it_has_calmed_down() {
        let id: JobId = "h-1".parse().unwrap();
        let mut warned = BTreeSet::new();
        for (used, warnings) in [(89, 0), (90, 1), (99, 0), (85, 0), (95, 0), (79, 0), (95, 1)] {
            assert_eq!(judge(&[((used, 100), id.clone())], &mut warned).len(), warnings, "{used}");
        }
        assert!(judge(&[], &mut warned).is_empty() && warned.is_empty());
    }
}
