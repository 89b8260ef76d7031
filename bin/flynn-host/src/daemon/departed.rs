//! Instances of jobs that have ended leave discovery at once. A job withdraws its own; one that was killed, or that ended
//! with its machine, cannot, and whoever waits for a leader would wait until the instance expires.

use std::sync::Arc;
use std::time::Duration;

use flynn_discoverd::RegistryHandle;
use flynn_discoverd_client::Client;
use flynn_host::Host;
use flynn_types::error::with_causes;
use flynn_types::host::JobEvent;
use flynn_types::id::JobId;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tracing::{debug, info};

/// What an instance says of its job.
const JOB_ID: &str = "FLYNN_JOB_ID";
/// After the end of a job: it withdraws its instances itself if it can, and jobs end in groups.
const GRACE: Duration = Duration::from_millis(200);
/// Between two comparisons when no job ends: news may have been missed, or discovery had no leader.
const INTERVAL: Duration = Duration::from_secs(5);

/// Withdraws what ended jobs of this host have left. Does not end.
pub(super) async fn withdraw(
    mut events: broadcast::Receiver<Arc<JobEvent>>,
    host: Arc<Host>,
    registry: RegistryHandle,
    client: Client,
) {
    loop {
        let ended = async {
            loop {
                match events.recv().await {
                    Ok(event) if !event.job.status.is_active() => return,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        if tokio::time::timeout(INTERVAL, ended).await.is_ok() {
            tokio::time::sleep(GRACE).await;
            // What else has ended by now is seen by the same comparison.
            events = events.resubscribe();
        }
        for (service, id, job) in left(&host, &registry) {
            match client.remove_instance(&service, &id).await {
                Ok(()) => info!(service, %job, "withdrew an instance of a job that has ended"),
                Err(err) => debug!(service, %job, err = with_causes(&err), "an instance of an ended job stays for now"),
            }
        }
    }
}

/// Service, instance and job of what jobs that do not run on this host any more have registered.
fn left(host: &Host, registry: &RegistryHandle) -> Vec<(String, String, JobId)> {
    if !registry.is_filled() {
        return Vec::new();
    }
    let mut left = Vec::new();
    for service in registry.service_names() {
        for instance in registry.instances(&service) {
            let job = instance.meta.get(JOB_ID).and_then(|id| id.parse::<JobId>().ok());
            if let Some(job) = job.filter(|job| host.has_ended(job)) {
                left.push((service.clone(), instance.id.clone(), job));
            }
        }
    }
    left
}
