//! Leases: which subnet belongs to which host. Pure: no clock, no I/O; chance comes in as an argument.
//!
//! The document is the Go implementation's (spec discoverd-and-network 13.3) with `HostID` added to every lease, so that
//! a restored backup keeps its subnets.

mod document;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use flynn_types::id::HostId;
use serde::{Deserialize, Serialize};

pub use document::{InvalidSettings, LeaseEntry, Leases, Settings};

use crate::{Ipv4Net, MacAddr};

/// Free subnets that are considered when choosing one (spec 13.4). One of many is taken by chance, so that hosts that
/// start together rarely want the same.
const CANDIDATES: usize = 100;

/// A host's part of the network, as the host itself remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub host_id: HostId,
    pub subnet: Ipv4Net,
    /// Network of all hosts.
    pub network: Ipv4Net,
    pub vni: u32,
    /// UDP port of the overlay.
    pub vxlan_port: u16,
}

impl Lease {
    fn new(host_id: &HostId, subnet: Ipv4Net, settings: &Settings) -> Self {
        Self {
            host_id: host_id.clone(),
            subnet,
            network: settings.network,
            vni: settings.vni,
            vxlan_port: settings.vxlan_port,
        }
    }

    /// The bridge's address: the subnet's first.
    pub fn gateway(&self) -> Ipv4Addr {
        self.subnet.first_host()
    }

    /// The overlay device's address: the subnet's base.
    pub fn overlay_address(&self) -> Ipv4Addr {
        self.subnet.address()
    }

    /// The overlay device's hardware address. It follows from the subnet and not from the host's IP address: when that
    /// changes, the other hosts' neighbour entries stay right.
    pub fn vtep_mac(&self) -> MacAddr {
        vtep_mac(self.subnet)
    }
}

pub(crate) fn vtep_mac(subnet: Ipv4Net) -> MacAddr {
    let [a, b, c, d] = subnet.address().octets();
    MacAddr([0x02, 0x42, a, b, c, d])
}

/// What a host asks for.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    pub host_id: &'a HostId,
    pub external_ip: Ipv4Addr,
    pub status_port: u16,
    /// Taken if it is free: the subnet that the host remembers.
    pub preferred: Option<Ipv4Net>,
    /// Written if the document has no settings yet.
    pub settings: &'a Settings,
}

/// What to do about a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The document already says so.
    Keep(Lease),
    /// The lease holds once this document is written.
    Write(Lease, Leases),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    #[error(transparent)]
    OutOfSubnets(#[from] OutOfSubnets),
}

/// The network is full. Leases never end by themselves.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "out of subnets: all {leases} subnets of {network} are leased; remove hosts that are gone for good with \
     `flynn-host remove`"
)]
pub struct OutOfSubnets {
    pub network: Ipv4Net,
    pub leases: usize,
}

/// Decides which subnet the claiming host has. `choose` picks an index below its argument.
///
/// In this order: the lease with its host id; a lease of the Go implementation (without host id) with its address; the
/// preferred subnet; any free one.
pub fn decide(leases: &Leases, claim: &Claim<'_>, choose: impl FnOnce(usize) -> usize) -> Result<Decision, ClaimError> {
    let mut document = leases.clone();
    if document.config.is_empty() {
        document.config = claim.settings.to_config();
    }
    let settings = document.settings()?;
    let subnet = match leases.of_host(claim.host_id).or_else(|| leases.of_unnamed_host(claim.external_ip)) {
        Some(subnet) => subnet,
        None => free_subnet(leases, &settings, claim.preferred, choose)?,
    };
    document.set(subnet, LeaseEntry::new(claim, subnet));
    // A second lease of the same host: written by two daemons with one id, or by hand. One is enough.
    document.retain(|other, entry| other == subnet || entry.host_id.as_ref() != Some(claim.host_id));
    let lease = Lease::new(claim.host_id, subnet, &settings);
    Ok(if document == *leases { Decision::Keep(lease) } else { Decision::Write(lease, document) })
}

fn free_subnet(
    leases: &Leases,
    settings: &Settings,
    preferred: Option<Ipv4Net>,
    choose: impl FnOnce(usize) -> usize,
) -> Result<Ipv4Net, OutOfSubnets> {
    let taken: Vec<Ipv4Net> = leases.iter().map(|(subnet, _)| subnet).collect();
    let free = |subnet: &Ipv4Net| !taken.iter().any(|other| other.overlaps(*subnet));
    if let Some(preferred) = preferred.filter(|subnet| settings.allows(*subnet) && free(subnet)) {
        return Ok(preferred);
    }
    let candidates: Vec<Ipv4Net> = settings.subnets().filter(free).take(CANDIDATES).collect();
    match candidates.len() {
        0 => Err(OutOfSubnets { network: settings.network, leases: taken.len() }),
        count => Ok(candidates[choose(count) % count]),
    }
}

/// Another host, as seen from one that sends it packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Peer {
    pub(crate) subnet: Ipv4Net,
    pub(crate) public_ip: Ipv4Addr,
    pub(crate) vtep_mac: MacAddr,
    pub(crate) status_port: u16,
}

/// The hosts that `mine` shares the overlay with. Left out: leases of other kinds of overlay, outside of the network,
/// overlapping mine, or with my address (a host that had it before me and has not come back yet).
pub(crate) fn peers(leases: &Leases, mine: &Lease, external_ip: Ipv4Addr) -> Vec<Peer> {
    leases
        .iter()
        .filter(|(subnet, entry)| {
            entry.backend_type.eq_ignore_ascii_case(LeaseEntry::VXLAN)
                && mine.network.contains_net(*subnet)
                && !mine.subnet.overlaps(*subnet)
                && entry.public_ip != external_ip
        })
        .filter_map(|(subnet, entry)| {
            Some(Peer {
                subnet,
                public_ip: entry.public_ip,
                vtep_mac: entry.vtep_mac()?,
                status_port: entry.status_port().unwrap_or(5002),
            })
        })
        .collect()
}
