//! Where the lease document is kept.

use async_trait::async_trait;
use tokio::sync::watch;

use crate::Leases;

/// The cluster's lease document, kept where a compare-and-set is one step for all hosts (the metadata of the service
/// `flannel` in discoverd).
#[async_trait]
pub trait LeaseStore: Send + Sync + 'static {
    /// The document and its index; `(Leases::default(), 0)` while there is none. The answer must not be older than
    /// any [`Self::compare_and_set`] that this host was told has succeeded.
    async fn read(&self) -> Result<(Leases, u64), LeaseStoreError>;

    /// Replaces the document if its index is still `index`; 0 creates it.
    async fn compare_and_set(&self, leases: &Leases, index: u64) -> Result<(), CasError>;

    /// Its value changes whenever the document may have changed; the value itself (the newest index seen) is not used.
    /// It may miss changes: the document is read from time to time anyway.
    fn watch(&self) -> watch::Receiver<u64>;
}

/// The lease document could not be read or written; the next attempt may succeed.
#[derive(Debug, thiserror::Error)]
#[error("reach the lease document")]
pub struct LeaseStoreError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

#[derive(Debug, thiserror::Error)]
pub enum CasError {
    #[error("the lease document was changed by another host meanwhile")]
    Conflict,
    #[error(transparent)]
    Store(#[from] LeaseStoreError),
}
