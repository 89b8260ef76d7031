//! Where accounts, certificates and challenges are kept, for all routers together.
//!
//! Everybody reads; writing is for the holder of the lease, and so its methods are on the lease. A store that can lose a
//! lease without its holder's doing (a connection to a database that breaks) refuses writes from then on.

pub mod folder;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::challenge::Challenge;
use crate::domain::Domain;
use crate::managed::{KeyPem, Managed};

/// Why a store does not answer.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct StoreError {
    /// What was attempted, and on what.
    pub what: String,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// All that a store has for readers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    pub certificates: BTreeMap<Domain, Arc<Managed>>,
    pub challenges: BTreeMap<Domain, Arc<Challenge>>,
    /// Domains that routes name, of any router that told so not long ago.
    pub wanted: BTreeSet<Domain>,
}

/// An account with an authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// URL of the authority's directory.
    pub directory: String,
    /// PKCS#8 of a P-256 key. It is kept before it is registered, so that no crash leaves an account without its key.
    pub key: KeyPem,
    /// The account's URL; `None` until it is registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The address that the authority has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
}

/// What routers share.
#[async_trait]
pub trait Store: Send + Sync {
    /// Everything as it is now. A record that cannot be read fails itself and nothing else.
    async fn read(&self) -> Result<Contents, StoreError>;

    /// Waits until something may have changed since the last [`Store::read`] began.
    async fn changed(&self);

    /// Tells which domains the routes of this process name. To be told again before [`WANT_AGAIN`] has passed.
    async fn want(&self, domains: &BTreeSet<Domain>) -> Result<(), StoreError>;

    /// Takes the lease, unless another process has it. It ends when it is dropped, and when the process does.
    async fn lead(&self) -> Result<Option<Arc<dyn Lease>>, StoreError>;

    /// Within this time a write is seen by all readers, and answered by all routers.
    fn propagation(&self) -> Duration;
}

/// How often a process tells what it wants.
pub const WANT_AGAIN: Duration = Duration::from_secs(10 * 60);

/// The right to order and to write.
#[async_trait]
pub trait Lease: Send + Sync {
    /// Whether writes are still taken.
    fn is_held(&self) -> bool;

    /// The account with an authority.
    async fn account(&self, directory: &str) -> Result<Option<Account>, StoreError>;

    async fn put_account(&self, account: &Account) -> Result<(), StoreError>;

    async fn put(&self, managed: &Managed) -> Result<(), StoreError>;

    async fn remove(&self, domain: &Domain) -> Result<(), StoreError>;

    /// A domain has one challenge at a time.
    async fn put_challenge(&self, challenge: &Challenge) -> Result<(), StoreError>;

    async fn remove_challenge(&self, domain: &Domain) -> Result<(), StoreError>;
}
