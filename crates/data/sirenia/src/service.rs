//! A discoverd service as the place of the cluster's state and of the registration.

use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use flynn_discoverd_client::{Client, DiscoverdError, Registration, Watch};
use flynn_types::discoverd::{EventKind, Instance, LeaderType, ServiceConfig, ServiceMeta};
use flynn_types::sirenia::ClusterState;
use tokio::sync::Mutex;
use tracing::error;

use crate::driver::{Discovery, Views};
use crate::{View, WriteFailure};

/// Longest time for a write: a database is fenced meanwhile.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// The service that a peer is part of.
#[derive(Debug)]
pub struct Service {
    client: Client,
    name: String,
    registration: Mutex<Option<Registration>>,
}

impl Service {
    /// Makes the service if there is none (who leads is told, not elected), and registers the peer.
    pub async fn join(client: &Client, name: &str, instance: Instance) -> Result<Self, DiscoverdError> {
        client.add_service(name, &ServiceConfig { leader_type: LeaderType::Manual }).await?;
        let registration = Mutex::new(Some(client.register(name, instance)));
        let client = client.clone().with_patience(WRITE_PATIENCE);
        Ok(Self { client, name: name.to_owned(), registration })
    }

    /// What is seen of the service.
    pub fn views(&self) -> ServiceViews {
        ServiceViews { watch: self.client.watch(&self.name), complete: false, last: View::default() }
    }
}

#[async_trait]
impl Discovery for Service {
    async fn write(&self, index: u64, cluster: &ClusterState, leader: &str) -> Result<u64, WriteFailure> {
        let data = serde_json::value::to_raw_value(cluster).map_err(|err| {
            error!(%err, "the cluster state cannot be encoded");
            WriteFailure::Refused
        })?;
        let meta = ServiceMeta { data: Some(data), index, leader_id: leader.to_owned() };
        match self.client.set_meta(&self.name, &meta).await {
            Ok(written) => Ok(written.index),
            Err(err) if err.is_conflict() => Err(WriteFailure::Refused),
            Err(err) => {
                // Also what discoverd certainly refused for other reasons: to call that uncertain costs one more write.
                error!(service = self.name, err = &err as &dyn std::error::Error, "the cluster state was not written");
                Err(WriteFailure::Uncertain)
            }
        }
    }

    async fn withdraw(&self) {
        let registration = self.registration.lock().await.take();
        if let Some(registration) = registration {
            registration.deregister().await;
        }
    }
}

/// Views of a service, as its event stream tells them.
pub struct ServiceViews {
    watch: Watch,
    /// Whether the first replay is over.
    complete: bool,
    last: View,
}

#[async_trait]
impl Views for ServiceViews {
    async fn next(&mut self) -> View {
        loop {
            let event = self.watch.next().await;
            self.complete |= event.kind == EventKind::Current;
            if self.complete && event.kind != EventKind::Leader {
                return self.view();
            }
        }
    }
}

impl ServiceViews {
    fn view(&mut self) -> View {
        let seen = self.watch.view();
        self.last.peers = seen.instances.values().cloned().collect();
        self.last.at = Utc::now().into();
        if let Some(meta) = &seen.meta {
            match ClusterState::from_meta(meta) {
                Ok(cluster) => (self.last.index, self.last.cluster) = (meta.index, cluster),
                // The last good one stays in force; writes are refused until somebody repairs the document.
                Err(err) => error!(index = meta.index, %err, "the service's metadata is no cluster state, repair it"),
            }
        }
        self.last.clone()
    }
}
