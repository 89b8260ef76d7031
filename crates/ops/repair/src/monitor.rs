//! The monitor that every daemon runs. One acts: the one that leads its service.

use std::time::Duration;

use flynn_types::discoverd::Instance;
use flynn_types::error::with_causes;
use serde::Deserialize;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::cluster::{Cluster, View};
use crate::error::Result;
use crate::patience::{Circumstances, Patience};
use crate::plan::missing;

/// Service of the monitors; its metadata, which bootstrap writes, says whether they repair (spec flynn-host 13.3).
pub const SERVICE: &str = "cluster-monitor";
/// From one look at the cluster to the next.
const LOOK: Duration = Duration::from_secs(1);
/// From one look at the settings to the next (spec flynn-host 13.3).
const SETTINGS: Duration = Duration::from_secs(5);

/// Metadata of [`SERVICE`].
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    enabled: bool,
    /// How many the cluster has.
    hosts: usize,
}

/// Repairs the cluster whenever this host, registered as `own`, is the one to do it. Does not end.
pub async fn monitor(cluster: Cluster, own: Instance) {
    let mut settings = Settings::default();
    while !settings.enabled {
        tokio::time::sleep(SETTINGS).await;
        settings = read(&cluster).await.unwrap_or_default();
    }
    let _registration = cluster.discoverd().register(SERVICE, own.clone());
    let mut leaders = cluster.discoverd().watch_leader(SERVICE);
    let (mut leads, mut patience) = (false, Patience::default());
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut read_at = Instant::now();
    loop {
        tokio::select! {
            leader = leaders.next() => {
                leads = leader.is_some_and(|leader| leader.id == own.id);
                patience = Patience::default();
                continue;
            }
            _ = looks.tick() => {}
        }
        if read_at.elapsed() >= SETTINGS {
            settings = read(&cluster).await.unwrap_or(settings);
            read_at = Instant::now();
        }
        if leads
            && settings.enabled
            && let Err(err) = look(&cluster, settings, &mut patience).await
        {
            // Discovery without a leader is told by discovery itself.
            debug!(err = with_causes(&err), "the cluster cannot be looked at");
        }
    }
}

/// `None` when discovery does not answer.
async fn read(cluster: &Cluster) -> Option<Settings> {
    let meta = match cluster.discoverd().meta(SERVICE).await {
        Ok(meta) => meta,
        Err(err) if err.is_not_found() => None,
        Err(_) => return None,
    };
    let text = meta.and_then(|meta| meta.data);
    Some(text.and_then(|text| serde_json::from_str(text.get()).ok()).unwrap_or_default())
}

async fn look(cluster: &Cluster, settings: Settings, patience: &mut Patience) -> Result<()> {
    let view = if cluster.is_well().await? {
        View { controller: true, scheduler: true, ..View::default() }
    } else {
        cluster.look().await?
    };
    let seen = Circumstances { scheduler: view.scheduler, incomplete: view.hosts.len() < settings.hosts, now: false };
    for (part, start) in patience.due(missing(&view), Instant::now(), seen) {
        let Some(start) = start else {
            let silent = view.silent.join("; ");
            error!(%part, silent, "does not run, and no host that answers remembers a job of it");
            continue;
        };
        let (host, lost) = (&start.host, &start.job.job.id);
        match cluster.start(&start).await {
            Ok(job_id) => info!(%part, host_id = %host, %lost, %job_id, "nobody runs it: started again"),
            Err(err) => warn!(%part, host_id = %host, %lost, err = with_causes(&err), "cannot be started again"),
        }
    }
    Ok(())
}
