//! Requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use flynn_http::{ClientError, path_segment};
use flynn_types::discoverd::{Event, Instance, LeaderChange, RaftLeader, ServiceConfig, ServiceMeta};
use futures_util::Stream;
use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

/// The server of this host, for where `DISCOVERD` says nothing.
const LOCAL: &str = "http://127.0.0.1:1111";
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long all servers are tried in turn (spec discoverd-and-network section 9.1).
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// Why discovery gave no result.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverdError {
    #[error("invalid discoverd URL {0:?}")]
    Url(String),
    #[error("no discoverd server answers: {0}")]
    Unreachable(String),
    /// The answer to a write was lost, and a later try was refused: it may have been applied and then overwritten.
    #[error("metadata of {service} may or may not have been written: {reason}")]
    Uncertain { service: String, reason: String },
    #[error("discoverd: timed out waiting for instances")]
    NoInstances,
    #[error("metadata of {service} is not what was expected: {reason}")]
    Document { service: String, reason: String },
    #[error(transparent)]
    Refused(#[from] ClientError),
}

impl DiscoverdError {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(err) if err.is_not_found())
    }

    /// A write with an index that is no longer the current one.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused(err) if matches!(err.status(), Some(409 | 412)))
    }
}

/// A client of the discoverd servers of one cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    servers: Arc<[flynn_http::Client]>,
    /// Which server answered last.
    preferred: Arc<AtomicUsize>,
    patience: Duration,
}

impl Client {
    /// From the value of the variable `DISCOVERD`; unset, empty and `none` are the server of this host.
    pub fn from_var(value: Option<&str>) -> Result<Self, DiscoverdError> {
        let value = value.map(str::trim).filter(|text| !text.is_empty() && *text != "none");
        Self::from_list(value.unwrap_or(LOCAL))
    }

    /// From a comma separated list of URLs or addresses, as in the variable `DISCOVERD`.
    pub fn from_list(list: &str) -> Result<Self, DiscoverdError> {
        let mut servers = Vec::new();
        for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let full = if text.starts_with("http") { text.to_owned() } else { format!("http://{text}") };
            let url = url::Url::parse(&full).map_err(|_| DiscoverdError::Url(text.to_owned()))?;
            if url.host_str().is_none() {
                return Err(DiscoverdError::Url(text.to_owned()));
            }
            servers.push(flynn_http::Client::new(&full).with_timeout(REQUEST_TIMEOUT));
        }
        if servers.is_empty() {
            return Err(DiscoverdError::Url(list.to_owned()));
        }
        Ok(Self { servers: servers.into(), preferred: Arc::default(), patience: PATIENCE })
    }

    /// How long a request goes on trying before it fails.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How long one server may take to answer; 5 s unless told.
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.servers = self.servers.iter().map(|server| server.clone().with_timeout(timeout)).collect();
        self
    }

    /// Tries all servers in turn until one answers or refuses.
    async fn ask<T, F>(&self, request: impl Fn(flynn_http::Client) -> F) -> Result<T, DiscoverdError>
    where
        F: Future<Output = Result<T, ClientError>> + Send,
    {
        let deadline = Instant::now() + self.patience;
        loop {
            let first = self.preferred.load(Ordering::Relaxed);
            let mut errors = Vec::new();
            for turn in 0..self.servers.len() {
                let index = (first + turn) % self.servers.len();
                match request(self.servers[index].clone()).await {
                    Ok(answer) => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Err(err) if err.is_retryable() => errors.push(err.to_string()),
                    Err(err) => return Err(err.into()),
                }
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(DiscoverdError::Unreachable(errors.join("; ")));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn get<T: DeserializeOwned + Send>(&self, path: &str) -> Result<T, DiscoverdError> {
        self.ask(|server| async move { server.get_json(path).await }).await
    }

    async fn put<B: Serialize + Sync>(&self, path: &str, body: &B) -> Result<(), DiscoverdError> {
        self.ask(|server| async move { server.put_json(Method::PUT, path, body).await }).await
    }

    async fn send(&self, method: &Method, path: &str) -> Result<(), DiscoverdError> {
        self.ask(|server| async move { server.send(method.clone(), path).await }).await
    }

    /// Instances of a service, oldest first; empty when there is none.
    pub async fn instances(&self, service: &str) -> Result<Vec<Instance>, DiscoverdError> {
        let path = format!("{}/instances", of(service));
        match self.get(&path).await {
            Err(err) if err.is_not_found() => Ok(Vec::new()),
            other => other,
        }
    }

    pub async fn leader(&self, service: &str) -> Result<Option<Instance>, DiscoverdError> {
        let path = format!("{}/leader", of(service));
        optional(self.get(&path).await)
    }

    pub async fn meta(&self, service: &str) -> Result<Option<ServiceMeta>, DiscoverdError> {
        let path = format!("{}/meta", of(service));
        optional(self.get(&path).await)
    }

    /// Writes metadata if its index is still the current one (0: if there is none); gives it with its new index.
    ///
    /// # Errors
    /// A conflict when it certainly was not written, [`DiscoverdError::Uncertain`] or [`DiscoverdError::Unreachable`]
    /// when it may have been.
    pub async fn set_meta(&self, service: &str, meta: &ServiceMeta) -> Result<ServiceMeta, DiscoverdError> {
        let path = format!("{}/meta", of(service));
        // An answer that was lost leaves open whether the write was applied.
        let lost = AtomicBool::new(false);
        let (path, lost) = (&path, &lost);
        let written = self
            .ask(|server| async move {
                let written = server.send_json(Method::PUT, path, meta).await;
                // A 503 as well: a leader that was just deposed cannot know what becomes of its last entries.
                if written.as_ref().is_err_and(|err| err.is_retryable() && !matches!(err, ClientError::Connect { .. }))
                {
                    lost.store(true, Ordering::Relaxed);
                }
                written
            })
            .await;
        match written {
            Err(err) if err.is_conflict() && lost.load(Ordering::Relaxed) => {
                let found = self.meta(service).await?;
                let text = |meta: &ServiceMeta| meta.data.as_ref().map(|data| data.get().to_owned());
                let ours = found.filter(|found| found.index > meta.index && text(found) == text(meta));
                ours.ok_or_else(|| DiscoverdError::Uncertain { service: service.to_owned(), reason: err.to_string() })
            }
            other => other,
        }
    }

    /// Names of all services.
    pub async fn services(&self) -> Result<Vec<String>, DiscoverdError> {
        self.get("/services").await
    }

    /// Waits until a service has at least `count` instances, and gives them oldest first.
    ///
    /// # Errors
    /// [`DiscoverdError::NoInstances`] when it has fewer for all of `limit`.
    pub async fn wait_for_instances(
        &self,
        service: &str,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<Instance>, DiscoverdError> {
        let mut watch = self.watch(service);
        let enough = async {
            while watch.view().instances.len() < count {
                watch.next().await;
            }
        };
        let reached = tokio::time::timeout(limit, enough).await;
        reached.map_err(|_| DiscoverdError::NoInstances)?;
        let mut instances: Vec<Instance> = watch.view().instances.values().cloned().collect();
        instances.sort_by_key(|instance| instance.index);
        Ok(instances)
    }

    /// Creates a service; an existing one is fine.
    pub async fn add_service(&self, service: &str, config: &ServiceConfig) -> Result<(), DiscoverdError> {
        let path = of(service);
        match self.put(&path, config).await {
            Err(err) if err.is_conflict() => Ok(()),
            other => other,
        }
    }

    pub async fn remove_service(&self, service: &str) -> Result<(), DiscoverdError> {
        let path = of(service);
        self.send(&Method::DELETE, &path).await
    }

    pub async fn set_leader(&self, service: &str, id: &str) -> Result<(), DiscoverdError> {
        let (path, body) = (format!("{}/leader", of(service)), LeaderChange { id: id.to_owned() });
        self.put(&path, &body).await
    }

    /// One heartbeat.
    pub async fn put_instance(&self, service: &str, instance: &Instance) -> Result<(), DiscoverdError> {
        let path = format!("{}/instances/{}", of(service), path_segment(&instance.id));
        self.put(&path, instance).await
    }

    pub async fn remove_instance(&self, service: &str, id: &str) -> Result<(), DiscoverdError> {
        let path = format!("{}/instances/{}", of(service), path_segment(id));
        self.send(&Method::DELETE, &path).await
    }

    /// Opens one connection to a service's event stream; see [`Client::watch`] for one that resumes.
    pub(crate) async fn events(
        &self,
        service: &str,
    ) -> Result<impl Stream<Item = Result<Event, ClientError>> + Send + Unpin + use<>, DiscoverdError> {
        let path = of(service);
        let path = &path;
        self.ask(|server| async move { server.events::<Event>(path).await }).await
    }

    pub async fn ping(&self) -> Result<(), DiscoverdError> {
        self.send(&Method::GET, "/ping").await
    }

    /// Addresses of the consensus members.
    pub async fn raft_peers(&self) -> Result<Vec<String>, DiscoverdError> {
        self.get("/raft/peers").await
    }

    /// Address of the consensus leader.
    pub async fn raft_leader(&self) -> Result<String, DiscoverdError> {
        let leader: RaftLeader = self.get("/raft/leader").await?;
        Ok(leader.host)
    }

    /// Makes the server a member of the consensus. For a client of one server: it acts on the one that answers.
    pub async fn promote(&self) -> Result<(), DiscoverdError> {
        self.send(&Method::POST, "/raft/promote").await
    }

    /// Takes the server out of the consensus. For a client of one server, as above.
    pub async fn demote(&self) -> Result<(), DiscoverdError> {
        self.send(&Method::POST, "/raft/demote").await
    }

    pub async fn remove_raft_peer(&self, address: &str) -> Result<(), DiscoverdError> {
        let path = format!("/raft/peers/{}", path_segment(address));
        self.send(&Method::DELETE, &path).await
    }
}

/// Path of a service.
fn of(service: &str) -> String {
    format!("/services/{}", path_segment(service))
}

fn optional<T>(answer: Result<T, DiscoverdError>) -> Result<Option<T>, DiscoverdError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(err) if err.is_not_found() => Ok(None),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_servers_are_checked() {
        assert!(Client::from_list("http://10.0.0.1:1111,10.0.0.2:1111").is_ok());
        for bad in ["", ",", "http://", "::"] {
            assert!(Client::from_list(bad).is_err(), "{bad:?}");
        }
        for (value, servers) in [
            (None, vec![LOCAL]),
            (Some("none"), vec![LOCAL]),
            (Some("a:1111,http://b:1111"), vec!["http://a:1111", "http://b:1111"]),
        ] {
            let client = Client::from_var(value).unwrap();
            assert_eq!(client.servers.iter().map(flynn_http::Client::base).collect::<Vec<_>>(), servers);
        }
    }
}
