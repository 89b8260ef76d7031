//! What the leader has, fetched by one that starts (spec operations section 11.3).
//!
//! A snapshot is a stream of the frames that hosts send, so it is read as they are, and every version reads it.

use std::time::Duration;

use flynn_discoverd_client::DiscoverdError;
use flynn_http::{Client, ClientError};
use futures_util::StreamExt as _;
use http::HeaderMap;
use tracing::{info, warn};

use crate::frames::Broken;
use crate::ingest::Frames;
use crate::serve::{Config, Discovery};
use crate::store::Store;

/// Longest silence of the leader.
const SILENCE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
enum SnapshotError {
    #[error("ask discoverd for the leader")]
    Discoverd(#[from] DiscoverdError),
    #[error("read its snapshot")]
    Read(#[from] ClientError),
    #[error("its snapshot is none of ours: {0}")]
    Broken(#[from] Broken),
    #[error("its snapshot is cut off")]
    Cut,
    #[error("its snapshot takes longer than {0:?}")]
    Slow(Duration),
}

/// Fills the store with all that the leader has, or leaves it empty: hosts then send what their files hold.
pub(crate) async fn load(config: &Config, discovery: &Discovery, store: &Store) {
    let loading = tokio::time::timeout(config.snapshot_limit, load_leaders(config, discovery, store));
    match loading.await.unwrap_or(Err(SnapshotError::Slow(config.snapshot_limit))) {
        Ok(None) => info!("no other log aggregator lives, hosts send what they have"),
        Ok(Some((leader, messages))) => info!(leader, messages, "the leader's messages are here"),
        Err(err) => {
            // A part would do harm: hosts would go on behind messages of channels that had not come yet.
            store.clear();
            let reason = flynn_types::error::with_causes(&err);
            warn!(reason, "the leader's messages cannot be had, hosts send what they have");
        }
    }
}

async fn load_leaders(
    config: &Config,
    discovery: &Discovery,
    store: &Store,
) -> Result<Option<(String, usize)>, SnapshotError> {
    let leader = discovery.client.leader(&config.service).await?;
    // At our own address is what was here before us.
    let Some(leader) = leader.filter(|leader| leader.addr != discovery.instance.addr) else { return Ok(None) };
    let Some((host, _)) = leader.addr.rsplit_once(':') else { return Ok(None) };
    let client = Client::new(&format!("http://{host}:{}", config.peer_api_port)).with_stall_limit(SILENCE);
    let mut download = client.open("/snapshot", &HeaderMap::new()).await?;
    let (mut frames, mut messages) = (Frames::default(), 0);
    while let Some(bytes) = download.bytes.next().await {
        frames.extend(&bytes?);
        let taken = frames.take();
        if let Some(broken) = taken.broken {
            return Err(broken.into());
        }
        messages += taken.messages.len();
        store.insert(taken.messages);
    }
    if frames.is_cut() { Err(SnapshotError::Cut) } else { Ok(Some((leader.addr, messages))) }
}
