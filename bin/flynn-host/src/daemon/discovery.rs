//! This node in service discovery: what it registers, and what DNS answers from.

use std::collections::BTreeMap;
use std::sync::Arc;

use flynn_discoverd::RegistryHandle;
use flynn_discoverd_client::{Client, Registration};
use flynn_dns::{Directory, Instance as DnsInstance, ServiceView};
use flynn_host::Host;
use flynn_types::discoverd::Instance;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::setup::Setup;

/// Service of the daemons (spec flynn-host 13.2).
pub(super) const HOST_SERVICE: &str = "flynn-host";

/// The registry as DNS wants it.
pub(super) struct RegistryDirectory(pub(super) RegistryHandle);

impl Directory for RegistryDirectory {
    fn service(&self, name: &str) -> Option<ServiceView> {
        self.0.leader_type(name)?;
        let instances: Arc<[DnsInstance]> =
            self.0.instances(name).iter().map(|instance| DnsInstance::from(instance.as_ref())).collect();
        let leader = self.0.leader(name).map(|leader| Arc::new(DnsInstance::from(leader.as_ref())));
        Some(ServiceView { instances, leader })
    }

    fn is_complete(&self) -> bool {
        self.0.is_filled()
    }
}

/// What the node says of itself, besides what discoverd does. Kept up until dropped, and then left to expire or to be
/// taken over by the next daemon.
pub(super) struct Registrations {
    host: Option<Registration>,
    network: Option<Registration>,
    client: Client,
}

impl Registrations {
    pub(super) fn begin(
        client: &Client,
        setup: &Setup,
        host: &Arc<Host>,
        stop: CancellationToken,
    ) -> Arc<tokio::sync::Mutex<Self>> {
        let ip = setup.external_ip;
        let address = format!("{ip}:{}", setup.options.http_port);
        let mut metadata = host.metadata();
        let instance = host_instance(&address, &mut metadata);
        let this = Arc::new(tokio::sync::Mutex::new(Self {
            host: Some(client.register(HOST_SERVICE, instance)),
            network: None,
            client: client.clone(),
        }));
        let registrations = Arc::clone(&this);
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            while metadata.changed().await.is_ok() {
                let instance = host_instance(&address, &mut metadata);
                if let Some(host) = &registrations.lock().await.host {
                    host.update(instance);
                }
            }
        }));
        this
    }

    /// The network is up.
    pub(super) fn network_is_up(&mut self, setup: &Setup, port: u16) {
        self.network = Some(self.client.register(super::leases::SERVICE, own_instance(setup, port)));
    }

    /// Withdraws everything: the machine goes down.
    pub(super) async fn withdraw(&mut self) {
        let all = [self.host.take(), self.network.take()];
        futures_util::future::join_all(all.into_iter().flatten().map(Registration::deregister)).await;
    }
}

fn host_instance(address: &str, metadata: &mut watch::Receiver<BTreeMap<String, String>>) -> Instance {
    Instance::new("tcp", address, metadata.borrow_and_update().clone())
}

/// This node, at one of its ports, for a service of daemons.
pub(super) fn own_instance(setup: &Setup, port: u16) -> Instance {
    Instance::new("tcp", &format!("{}:{port}", setup.external_ip), node_metadata(setup))
}

fn node_metadata(setup: &Setup) -> BTreeMap<String, String> {
    BTreeMap::from([("id".to_owned(), setup.id.to_string())])
}
