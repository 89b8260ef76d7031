//! A store in a folder, for routers on one file system.
//!
//! ```text
//! lock                        held (flock) by the process that orders; the kernel frees it when that ends
//! accounts/<hash>.json        one for each directory's URL
//! certificates/<domain>.json  certificate, key, open order, last failure
//! challenges/<domain>.json    what routers answer now
//! wanted/<uuid>.json          the domains of one process, and when it told them
//! ```
//!
//! Files are replaced as a whole and synced first, so that readers and crashes see the old or the new one. Readers look at
//! the folders a few times per second, and read only what has changed.

mod files;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use self::files::{Cache, Stamp};
use super::{Account, Contents, Lease, Store, StoreError, WANT_AGAIN};
use crate::challenge::Challenge;
use crate::domain::Domain;
use crate::managed::Managed;

/// Pause between looks at the folders.
const LOOK: Duration = Duration::from_millis(200);
/// Several looks, and the time that a router takes to publish what it saw.
const PROPAGATION: Duration = Duration::from_secs(1);

const ACCOUNTS: &str = "accounts";
const CERTIFICATES: &str = "certificates";
const CHALLENGES: &str = "challenges";
const WANTED: &str = "wanted";

/// A folder that several processes share.
pub struct FolderStore {
    folder: PathBuf,
    /// Names this process's file of wanted domains.
    process: String,
    seen: Arc<Mutex<Seen>>,
}

/// What was read so far.
#[derive(Default)]
struct Seen {
    certificates: Cache<Managed>,
    challenges: Cache<Challenge>,
    wanted: Cache<Wanted>,
    stamps: Option<[Stamp; 3]>,
}

/// The domains that one process wants.
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    told_at: DateTime<Utc>,
    domains: BTreeSet<Domain>,
}

impl FolderStore {
    /// Opens a folder, and makes it where it is missing.
    ///
    /// # Errors
    /// When it cannot be made or is not writable.
    pub async fn open(folder: PathBuf) -> Result<Self, StoreError> {
        let store = Self { folder, process: uuid::Uuid::new_v4().to_string(), seen: Arc::default() };
        let folder = store.folder.clone();
        let made = blocking(move || {
            [ACCOUNTS, CERTIFICATES, CHALLENGES, WANTED].iter().try_for_each(|part| files::make(&folder.join(part)))
        });
        made.await.map_err(|source| failed("make", &store.folder, source))?;
        Ok(store)
    }

    fn wanted_file(&self) -> PathBuf {
        self.folder.join(WANTED).join(format!("{}.json", self.process))
    }
}

/// The process does not want anything any more.
impl Drop for FolderStore {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.wanted_file()); // or it is ignored when it is old
    }
}

#[async_trait]
impl Store for FolderStore {
    async fn read(&self) -> Result<Contents, StoreError> {
        let (folder, seen) = (self.folder.clone(), Arc::clone(&self.seen));
        let read = blocking(move || {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.read(&folder)
        });
        read.await.map_err(|source| failed("read", &self.folder, source))
    }

    async fn changed(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let (folder, seen) = (self.folder.clone(), Arc::clone(&self.seen));
            let now = blocking(move || {
                let before = seen.lock().unwrap_or_else(PoisonError::into_inner).stamps;
                stamps(&folder).map(|now| before.is_none_or(|before| before != now || now.iter().any(Stamp::is_young)))
            });
            // What cannot be looked at is for `read` to tell.
            if now.await.unwrap_or(true) {
                return;
            }
        }
    }

    async fn want(&self, domains: &BTreeSet<Domain>) -> Result<(), StoreError> {
        write(self.wanted_file(), &Wanted { told_at: Utc::now(), domains: domains.clone() }).await
    }

    async fn lead(&self) -> Result<Option<Arc<dyn Lease>>, StoreError> {
        let (folder, path) = (self.folder.clone(), self.folder.join("lock"));
        let locked = blocking({
            let path = path.clone();
            move || {
                let lock = files::lock(&path)?;
                if lock.is_some() {
                    files::remove_leftovers([ACCOUNTS, CERTIFICATES, CHALLENGES, WANTED].map(|part| folder.join(part)));
                }
                Ok(lock)
            }
        });
        let lock = locked.await.map_err(|source| failed("lock", &path, source))?;
        let folder = self.folder.clone();
        Ok(lock.map(|lock| Arc::new(FolderLease { folder, _lock: lock }) as Arc<dyn Lease>))
    }

    fn propagation(&self) -> Duration {
        PROPAGATION
    }
}

impl Seen {
    fn read(&mut self, folder: &Path) -> io::Result<Contents> {
        // Before the files: a change in between is seen by the next look.
        self.stamps = Some(stamps(folder)?);
        let certificates = self.certificates.read(&folder.join(CERTIFICATES))?;
        let challenges = self.challenges.read(&folder.join(CHALLENGES))?;
        let old = Utc::now() - TimeDelta::from_std(WANT_AGAIN * 3).unwrap_or_default();
        let wanted = self.wanted.read(&folder.join(WANTED))?;
        let wanted = wanted.iter().filter(|wanted| wanted.told_at >= old);
        Ok(Contents {
            certificates: certificates.into_iter().map(|managed| (managed.domain.clone(), managed)).collect(),
            challenges: challenges.into_iter().map(|challenge| (challenge.domain.clone(), challenge)).collect(),
            wanted: wanted.flat_map(|wanted| wanted.domains.iter().cloned()).collect(),
        })
    }
}

fn stamps(folder: &Path) -> io::Result<[Stamp; 3]> {
    let stamp = |part| Stamp::of(&folder.join(part));
    Ok([stamp(CERTIFICATES)?, stamp(CHALLENGES)?, stamp(WANTED)?])
}

/// The lock on a folder. Nobody can take it from us while we live.
struct FolderLease {
    folder: PathBuf,
    _lock: std::fs::File,
}

impl FolderLease {
    fn certificate(&self, domain: &Domain) -> PathBuf {
        self.folder.join(CERTIFICATES).join(format!("{domain}.json"))
    }

    fn challenge(&self, domain: &Domain) -> PathBuf {
        self.folder.join(CHALLENGES).join(format!("{domain}.json"))
    }

    fn account_of(&self, directory: &str) -> PathBuf {
        self.folder.join(ACCOUNTS).join(format!("{}.json", hex::encode(&Sha256::digest(directory)[..16])))
    }
}

#[async_trait]
impl Lease for FolderLease {
    fn is_held(&self) -> bool {
        true
    }

    async fn account(&self, directory: &str) -> Result<Option<Account>, StoreError> {
        let path = self.account_of(directory);
        let read = blocking({
            let path = path.clone();
            move || files::read::<Account>(&path)
        });
        read.await.map_err(|source| failed("read", &path, source))
    }

    async fn put_account(&self, account: &Account) -> Result<(), StoreError> {
        write(self.account_of(&account.directory), account).await
    }

    async fn put(&self, managed: &Managed) -> Result<(), StoreError> {
        write(self.certificate(&managed.domain), managed).await
    }

    async fn remove(&self, domain: &Domain) -> Result<(), StoreError> {
        remove(self.certificate(domain)).await
    }

    async fn put_challenge(&self, challenge: &Challenge) -> Result<(), StoreError> {
        write(self.challenge(&challenge.domain), challenge).await
    }

    async fn remove_challenge(&self, domain: &Domain) -> Result<(), StoreError> {
        remove(self.challenge(domain)).await
    }
}

async fn write(path: PathBuf, value: &(impl Serialize + Sync)) -> Result<(), StoreError> {
    let text = serde_json::to_vec(value).map_err(|err| failed("write", &path, io::Error::other(err)))?;
    let written = blocking({
        let path = path.clone();
        move || files::replace(&path, &text)
    });
    written.await.map_err(|source| failed("write", &path, source))
}

async fn remove(path: PathBuf) -> Result<(), StoreError> {
    let removed = blocking({
        let path = path.clone();
        move || files::remove(&path)
    });
    removed.await.map_err(|source| failed("remove", &path, source))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn failed(what: &str, path: &Path, source: io::Error) -> StoreError {
    StoreError { what: format!("{what} {}", path.display()), source: Box::new(source) }
}

#[cfg(test)]
mod tests;
