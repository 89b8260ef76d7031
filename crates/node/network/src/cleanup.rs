//! Removing what containers or a whole daemon left behind.

use std::collections::BTreeSet;
use std::path::PathBuf;

use flynn_types::error::with_causes;
use flynn_types::id::JobId;
use rtnetlink::packet_route::link::InfoKind;
use tracing::{info, warn};

use crate::kernel::Netlink;
use crate::{Config, FirewallError, KernelError, Network, firewall, namespace};

#[derive(Debug, thiserror::Error)]
pub enum CleanUpError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Firewall(#[from] FirewallError),
}

impl Network {
    /// Removes bridge, containers' interfaces, VXLAN device (with it routes, neighbours and forwarding entries),
    /// firewall table, and pinned namespaces. The lease stays in the cluster, and forwarding stays on: others may rely
    /// on it. Does all it can; the first error is given.
    pub async fn clean_up(config: &Config) -> Result<(), CleanUpError> {
        let mut first: Option<CleanUpError> = None;
        let mut note = |result: Result<(), CleanUpError>| {
            if let Err(err) = result {
                first.get_or_insert(err);
            }
        };
        let netlink = Netlink::open()?;
        let links = netlink.links().await?;
        let named = |name: &str| links.iter().find(|link| link.name == name).map(|link| link.index);
        let bridge = named(&config.bridge_name);
        let ports = links
            .iter()
            .filter(|link| link.kind == Some(InfoKind::Veth) && bridge.is_some() && link.controller == bridge);
        let indexes = ports.map(|port| port.index).chain(bridge).chain(named(&config.vxlan_name));
        for index in indexes {
            note(netlink.delete_link(index).await.map_err(Into::into));
        }
        note(firewall::remove(&config.nft_table).await.map_err(Into::into));
        match namespace::pins_below(&config.pins_dir) {
            Ok(pins) => pins.iter().for_each(|pin| note(namespace::remove_pin(pin).map_err(Into::into))),
            Err(err) => note(Err(err.into())),
        }
        first.map_or(Ok(()), Err)
    }

    /// Removes interfaces and pinned namespaces of jobs that are not in `live`, as a killed daemon may leave them, and
    /// gives the number of things removed. A pin is the job's whose id is the name of the directory around it.
    pub async fn leftovers(&self, live: &BTreeSet<JobId>) -> usize {
        match self.remove_leftovers(live).await {
            Ok(removed) => {
                if removed > 0 {
                    info!(removed, "removed interfaces and namespaces of jobs that are gone");
                }
                removed
            }
            Err(err) => {
                warn!(err = %with_causes(&err), "cannot remove what jobs that are gone left in the network");
                0
            }
        }
    }

    async fn remove_leftovers(&self, live: &BTreeSet<JobId>) -> Result<usize, KernelError> {
        let netlink = &self.shared.netlink;
        let bridge = self.shared.state().bridge;
        let is_live = |text: &str| live.iter().any(|job| job.as_str() == text);
        let mut removed = 0;
        for link in netlink.links().await? {
            let ours = link.kind == Some(InfoKind::Veth) && link.controller == Some(bridge);
            if ours && !link.alias.as_deref().is_some_and(is_live) {
                netlink.delete_link(link.index).await?;
                removed += 1;
            }
        }
        let gone = |pin: &PathBuf| {
            let job = pin.parent().and_then(|dir| dir.file_name()).and_then(|name| name.to_str());
            job.is_some_and(|job| job.parse::<JobId>().is_ok() && !is_live(job))
        };
        for pin in namespace::pins_below(&self.shared.config.pins_dir)?.iter().filter(|pin| gone(pin)) {
            namespace::remove_pin(pin)?;
            removed += 1;
        }
        Ok(removed)
    }
}
