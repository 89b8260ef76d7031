//! The network's lease document in discoverd: the metadata of service `flannel` (spec discoverd-and-network 13.3).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use flynn_discoverd_client::{Client, DiscoverdError, Document};
use flynn_network::{CasError, LeaseStore, LeaseStoreError, Leases};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Service whose metadata the document is.
pub(super) const SERVICE: &str = "flannel";

/// The lease document, and who follows it.
pub(super) struct DiscoverdLeases {
    document: Document<Leases>,
    /// The newest index that we wrote: an older answer to a read is behind the times.
    written: AtomicU64,
    changed: watch::Receiver<u64>,
}

impl DiscoverdLeases {
    /// Follows the document until `stop`.
    pub(super) fn follow(client: &Client, stop: CancellationToken) -> Arc<Self> {
        let document = client.document(SERVICE);
        let (sender, changed) = watch::channel(0);
        let mut revisions = document.watch();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            loop {
                match revisions.next().await {
                    Ok(revision) => drop(sender.send_replace(revision.index)),
                    Err(err) => warn!(%err, "the lease document cannot be read"),
                }
            }
        }));
        Arc::new(Self { document, written: AtomicU64::new(0), changed })
    }
}

fn failure(err: DiscoverdError) -> LeaseStoreError {
    LeaseStoreError(Box::new(err))
}

#[async_trait]
impl LeaseStore for DiscoverdLeases {
    async fn read(&self) -> Result<(Leases, u64), LeaseStoreError> {
        let found = self.document.read().await.map_err(failure)?;
        let (leases, index) = found.map_or_else(|| (Leases::default(), 0), |found| (found.value, found.index));
        let written = self.written.load(Ordering::Acquire);
        if index < written {
            let reason = format!("this node's copy is at index {index}, behind our own write {written}");
            return Err(LeaseStoreError(reason.into()));
        }
        Ok((leases, index))
    }

    async fn compare_and_set(&self, leases: &Leases, index: u64) -> Result<(), CasError> {
        match self.document.compare_and_set(index, leases.clone()).await {
            Ok(revision) => {
                self.written.fetch_max(revision.index, Ordering::AcqRel);
                Ok(())
            }
            Err(err) if err.is_conflict() => Err(CasError::Conflict),
            Err(err) => Err(CasError::Store(failure(err))),
        }
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}
