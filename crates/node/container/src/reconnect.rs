//! Finding a container again after the daemon was restarted.

use std::path::Path;
use std::time::Duration;

use flynn_types::init::ExitRecord;
use tracing::debug;

use crate::bundle::{self, MonitorProcess};
use crate::client::Container;
use crate::runtime::Runtime;

/// Longest wait for a monitor that lives but does not answer yet: its container may just be in the making.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(20);

/// What has become of a container.
#[derive(Debug)]
pub enum Reconnect {
    Running(Container),
    /// It has ended. If the monitor is still there, it waits to be released.
    Ended(ExitRecord, Option<Container>),
    /// There is neither monitor nor record: the container was never started, or the machine was.
    /// [`Runtime::destroy`] removes what may be left of it.
    Lost,
}

impl Runtime {
    /// Connects to the monitor of `run_dir`, or finds out how its container ended.
    pub async fn reconnect(&self, run_dir: &Path) -> Reconnect {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            // Asked before the connection attempt: a monitor that ends in between has written its record by then.
            let monitor = MonitorProcess::find(run_dir);
            let ended = bundle::exit_record(run_dir).await;
            match (Container::connect(run_dir).await, ended) {
                (container, Some(record)) => return Reconnect::Ended(record, container.ok()),
                (Ok(container), None) => return Reconnect::Running(container),
                (Err(err), None) => {
                    debug!(run_dir = %run_dir.display(), %err, "no connection to the job's monitor");
                    if monitor.is_none() || tokio::time::Instant::now() > deadline {
                        return match bundle::exit_record(run_dir).await {
                            Some(record) => Reconnect::Ended(record, None),
                            None => Reconnect::Lost,
                        };
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}
