//! The client of the HTTP API of database peers (spec appliances section 4).
//!
//! [`Client::of`] a registered instance asks the peer on the port after the database's.
//!
//! **Invariant:** a wait ends: with what was waited for, with the server's refusal, or when its time is over.

#![forbid(unsafe_code)]

use std::time::Duration;

use flynn_http::ClientError;
use flynn_types::discoverd::Instance;
use flynn_types::sirenia::{IdKey, Status, Tunables};
use http::Method;
use tokio::time::Instant;

/// Longest time for one request: stopping a database takes its time.
const TIMEOUT: Duration = Duration::from_secs(180);
/// Between two looks at a status that is waited for.
const POLL: Duration = Duration::from_millis(100);

/// Why a peer gave no result.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("address {0:?} of a database peer has no host and port")]
    Address(String),
    #[error("timeout waiting for expected status")]
    Timeout,
    #[error(transparent)]
    Request(#[from] ClientError),
}

/// A client of one peer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: flynn_http::Client,
}

impl Client {
    /// The peer whose database is registered so: its API has the same host and the next port.
    pub fn of(instance: &Instance) -> Result<Self, PeerError> {
        let address = || PeerError::Address(instance.addr.clone());
        let (host, port) = instance.host_port().ok_or_else(address)?;
        let port = port.checked_add(1).ok_or_else(address)?;
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        Ok(Self { http: flynn_http::Client::new(&format!("http://{host}:{port}")).with_timeout(TIMEOUT) })
    }

    /// URL of the API.
    pub fn base(&self) -> &str {
        self.http.base()
    }

    pub async fn status(&self) -> Result<Status, PeerError> {
        Ok(self.http.get_json("/status").await?)
    }

    /// Stops the peer's database and takes it out of its cluster. The same again is fine.
    pub async fn stop(&self) -> Result<(), PeerError> {
        Ok(self.http.send(Method::POST, "/stop").await?)
    }

    pub async fn tunables(&self) -> Result<Tunables, PeerError> {
        Ok(self.http.get_json("/tunables").await?)
    }

    /// Changes the cluster's tunables. Only the primary does it, and only to a higher version.
    pub async fn set_tunables(&self, tunables: &Tunables) -> Result<Tunables, PeerError> {
        Ok(self.http.send_json(Method::POST, "/tunables", tunables).await?)
    }

    /// Waits until `downstream` has everything that this peer has. Peers are told apart by `key`, or without one by
    /// the id of their instance.
    pub async fn wait_for_sync(
        &self,
        downstream: &Instance,
        key: Option<&IdKey>,
        limit: Duration,
    ) -> Result<(), PeerError> {
        let wanted = |synced: &Instance| match key {
            Some(key) => key.same(synced, downstream),
            None => synced.id == downstream.id,
        };
        self.wait(limit, |status| {
            let database = status.database.as_ref();
            database.and_then(|database| database.synced_downstream.as_ref()).is_some_and(wanted)
        })
        .await
    }

    /// Waits until the database accepts writes.
    pub async fn wait_for_read_write(&self, limit: Duration) -> Result<(), PeerError> {
        self.wait(limit, |status| status.database.as_ref().is_some_and(|database| database.read_write)).await
    }

    /// Asks until the status is as expected. A peer that cannot be reached may be about to start; one that refuses
    /// will go on doing so.
    async fn wait(&self, limit: Duration, expected: impl Fn(&Status) -> bool) -> Result<(), PeerError> {
        let deadline = Instant::now() + limit;
        loop {
            // A peer that accepts and never answers must not make this wait longer than its limit.
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.status()).await {
                Ok(Ok(status)) if expected(&status) => return Ok(()),
                Ok(Err(PeerError::Request(err))) if err.status().is_some() => return Err(err.into()),
                Ok(_) if Instant::now() + POLL < deadline => tokio::time::sleep(POLL).await,
                Ok(_) | Err(_) => return Err(PeerError::Timeout),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B2
    #[test]
    fn the_api_is_on_the_port_after_the_databases() {
        let of = |addr: &str| Client::of(&Instance::new("tcp", addr, Default::default()));
        assert_eq!(of("10.0.0.1:5432").unwrap().base(), "http://10.0.0.1:5433");
        assert_eq!(of("[::1]:3306").unwrap().base(), "http://[::1]:3307");
        for wrong in ["10.0.0.1", "10.0.0.1:x", "10.0.0.1:65535"] {
            assert!(matches!(of(wrong), Err(PeerError::Address(_))), "{wrong}");
        }
    }
}
