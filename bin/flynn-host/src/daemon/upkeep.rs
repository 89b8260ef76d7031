//! What the daemon does from time to time: log aggregators become sinks, unused layers go.

use std::collections::BTreeSet;
use std::time::Duration;

use flynn_discoverd_client::Client;
use flynn_logmux::LogMux;
use flynn_types::discoverd::EventKind;
use flynn_types::host::{SinkInfo, SinkKind};
use flynn_volume::{GcPolicy, VolumeManager};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Service whose instances get all logs (spec flynn-host 10.4).
const AGGREGATOR: &str = "logaggregator";
const GC_INTERVAL: Duration = Duration::from_secs(600);
/// How long an aggregator that is no longer registered is kept: its cursor saves it a replay when it comes back.
const AGGREGATOR_GRACE: Duration = Duration::from_secs(1);

/// Begins both, until `stop`.
pub(super) fn begin(client: &Client, logs: &LogMux, volumes: &VolumeManager, stop: &CancellationToken) {
    tokio::spawn(stop.clone().run_until_cancelled_owned(feed_aggregators(client.clone(), logs.clone())));
    tokio::spawn(stop.clone().run_until_cancelled_owned(collect_garbage(volumes.clone())));
}

/// Keeps one host-managed sink for each registered log aggregator.
async fn feed_aggregators(client: Client, logs: LogMux) {
    let mut watch = client.watch(AGGREGATOR);
    let mut complete = false;
    loop {
        complete |= watch.next().await.kind == EventKind::Current;
        // What is not known is not removed: only after a whole replay.
        if !complete {
            continue;
        }
        while let Ok(event) = tokio::time::timeout(AGGREGATOR_GRACE, watch.next()).await {
            drop(event); // only what is there in the end counts
        }
        let wanted: BTreeSet<String> = watch.view().instances.values().map(|instance| instance.addr.clone()).collect();
        let present: BTreeSet<String> = logs
            .sinks()
            .into_iter()
            .filter(|sink| sink.host_managed && sink.kind == SinkKind::LogAggregator)
            .map(|sink| sink.id)
            .collect();
        for addr in present.difference(&wanted) {
            logs.remove_sink(addr).await;
        }
        for addr in wanted.difference(&present) {
            let config = serde_json::value::to_raw_value(&serde_json::json!({ "addr": addr })).ok();
            let sink = SinkInfo {
                id: addr.clone(),
                kind: SinkKind::LogAggregator,
                config,
                host_managed: true,
                ..SinkInfo::default()
            };
            match logs.add_sink(sink).await {
                Ok(()) => info!(addr, "logs go to this log aggregator"),
                Err(err) => warn!(addr, %err, "the log aggregator cannot be used"),
            }
        }
    }
}

async fn collect_garbage(volumes: VolumeManager) {
    let mut ticks = tokio::time::interval(GC_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let report = volumes.collect_garbage(&GcPolicy::default()).await;
        if !report.removed.is_empty() {
            info!(layers = report.removed.len(), freed_bytes = report.freed_bytes, "unused layers were removed");
        }
        for (layer, err) in report.failed {
            warn!(layer, err, "an unused layer cannot be removed");
        }
        if let Err(err) = volumes.unmount_idle().await {
            warn!(%err, "unused layers cannot be unmounted");
        }
    }
}
