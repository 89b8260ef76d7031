//! Settings of one node's network.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use flynn_types::id::HostId;

use crate::Ipv4Net;
use crate::lease::Settings;

/// Settings of one node's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub host_id: HostId,
    /// Address that the other hosts reach this one by. Its interface carries the overlay.
    pub external_ip: Ipv4Addr,
    pub bridge_name: String,
    /// At most 15 bytes, the kernel's limit, as the bridge's.
    pub vxlan_name: String,
    /// Network of all containers of the cluster. Counts only on the cluster's first host; later ones use what the
    /// lease document says.
    pub network: Ipv4Net,
    /// Prefix length of a host's part; counts only on the first host.
    pub subnet_len: u8,
    /// UDP port of the overlay; counts only on the first host.
    pub vxlan_port: u16,
    /// VXLAN network identifier; counts only on the first host.
    pub vni: u32,
    /// TCP port where [`crate::Network::serve_status`] listens, published to the other hosts.
    pub status_port: u16,
    /// Name of our nftables table (family `ip`).
    pub nft_table: String,
    /// Directory below which every network namespace is pinned. [`crate::Network::clean_up`] removes all pins there.
    pub pins_dir: PathBuf,
}

impl Config {
    /// The settings of DESIGN sections 5 and 7 and spec discoverd-and-network section 13.
    pub fn new(host_id: HostId, external_ip: Ipv4Addr) -> Self {
        Self {
            host_id,
            external_ip,
            bridge_name: "flynnbr0".to_owned(),
            vxlan_name: "flannel.1".to_owned(),
            network: Settings::default().network,
            subnet_len: Settings::default().subnet_len,
            vxlan_port: 5002,
            vni: 1,
            status_port: 5002,
            nft_table: "flynn".to_owned(),
            pins_dir: PathBuf::from("/run/flynn"),
        }
    }

    /// What this host writes into the document if it is the cluster's first.
    pub(crate) fn settings(&self) -> Settings {
        Settings::new(self.network, self.subnet_len, self.vni, self.vxlan_port)
    }
}
