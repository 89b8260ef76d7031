//! Drops what nobody confirms. Runs on every node, acts on the leader.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::node::Node;
use crate::registry::Command;

const LONG_WRITE: Duration = Duration::from_secs(1);

/// Looks for leases that have run out, until it is cancelled.
pub(crate) async fn expire(node: Arc<Node>) {
    let interval = node.config.timing.expiry_interval;
    let mut leading: Option<(u64, Instant)> = None;
    loop {
        tokio::time::sleep(interval).await;
        let (leads, term) = {
            let status = node.status.borrow();
            (status.leads, status.view.term)
        };
        let now = Instant::now();
        if !leads {
            // What was remembered of this term is kept: the lapse is forgiven if it goes on.
            continue;
        }
        match leading {
            Some((before, last)) if before == term => {
                // Longer than planned: we were stopped, starved or cut off, and heard nobody.
                let lost = now.saturating_duration_since(last).saturating_sub(interval);
                if lost > interval {
                    tracing::warn!(
                        lost_ms = lost.as_millis(),
                        "heartbeats were not heard for a while: leases are extended"
                    );
                    node.leases().forgive(lost);
                }
            }
            _ => node.leases().begin(now),
        }
        leading = Some((term, now));
        let ended = node.replica.with(|state| {
            let mut leases = node.leases();
            leases.follow(&state.registry, now);
            leases.run_out(now)
        });
        if ended.is_empty() {
            continue;
        }
        tracing::info!(instances = ended.len(), "instances without heartbeat are dropped");
        let Some(consensus) = node.consensus() else { continue };
        if let Err(err) = consensus.write(Command::Expire { instances: ended.clone() }).await {
            tracing::warn!(%err, "instances without heartbeat could not be dropped");
            node.leases().keep(&ended);
        }
        // Heartbeats were heard while it was written, unless it took so long that we may have been stopped.
        if now.elapsed() < LONG_WRITE {
            leading = Some((term, Instant::now()));
        }
    }
}
