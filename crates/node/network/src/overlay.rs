//! The overlay between hosts: a VXLAN device and, for each other host, a route, a neighbour and a forwarding entry.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use nix::errno::Errno;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVxlan};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage};
use rtnetlink::{LinkVxlan, RouteMessageBuilder};

use crate::bridge::missing;
use crate::kernel::{Link, Netlink, change, listed, netlink_error};
use crate::lease::Peer;
use crate::{Config, Ipv4Net, KernelError, Lease, MacAddr, proc_sys};

/// Bytes that VXLAN over IPv4 adds to a packet: Ethernet 14, IPv4 20, UDP 8, VXLAN 8 (RFC 7348).
const OVERHEAD: u32 = 50;

/// The interface that carries the overlay's packets.
pub(crate) struct Underlay {
    pub(crate) index: u32,
    /// What is left of its packets for containers.
    pub(crate) overlay_mtu: u32,
}

/// Finds the interface that has this host's address.
pub(crate) async fn underlay(netlink: &Netlink, external_ip: Ipv4Addr) -> Result<Underlay, KernelError> {
    let addresses = netlink.addresses(None).await?;
    let index = addresses.iter().find(|(address, ..)| *address == external_ip).map(|(.., found)| found.header.index);
    let link = match index {
        Some(index) => netlink.links().await?.into_iter().find(|link| link.index == index),
        None => None,
    };
    let link = link.ok_or_else(|| {
        let attempt = format!("find the interface with the external address {external_ip} (see --external-ip)");
        KernelError::new(attempt, Errno::EADDRNOTAVAIL)
    })?;
    // Loopback's 64 KiB are more than a VXLAN device takes.
    Ok(Underlay { index: link.index, overlay_mtu: link.mtu.saturating_sub(OVERHEAD).clamp(576, 65_000) })
}

/// Brings the VXLAN device into being. An existing one stays if it is the same in everything that cannot be changed.
pub(crate) async fn ensure_device(
    netlink: &Netlink,
    config: &Config,
    lease: &Lease,
    underlay: &Underlay,
) -> Result<(Link, bool), KernelError> {
    let (name, what) = (&config.vxlan_name, format!("VXLAN device {}", config.vxlan_name));
    let wanted = [
        InfoVxlan::Id(lease.vni),
        InfoVxlan::Link(underlay.index),
        InfoVxlan::Local(config.external_ip),
        InfoVxlan::Port(lease.vxlan_port),
        InfoVxlan::Learning(false),
    ];
    let mut changed = false;
    let device = match netlink.link(name).await? {
        Some(link) if is_same(&link, &wanted) => link,
        existing => {
            if let Some(other) = existing {
                netlink.delete_link(other.index).await?;
            }
            // The hardware address from the beginning: udev gives devices without one another (addr_assign_type).
            let message = LinkVxlan::new(name, lease.vni)
                .dev(underlay.index)
                .local(config.external_ip)
                .port(lease.vxlan_port)
                .append_info_data(InfoVxlan::Learning(false))
                .address(lease.vtep_mac().0.to_vec())
                .mtu(underlay.overlay_mtu)
                .build();
            netlink.add_link(&what, message).await?;
            proc_sys::disable_ipv6(name);
            changed = true;
            netlink.link(name).await?.ok_or_else(|| missing(&what))?
        }
    };
    if device.mac != Some(lease.vtep_mac()) {
        let message = change(device.index).address(lease.vtep_mac().0.to_vec()).build();
        netlink.set_link(&what, message).await?;
        changed = true;
    }
    if device.mtu != underlay.overlay_mtu {
        netlink.set_link(&what, change(device.index).mtu(underlay.overlay_mtu).build()).await?;
        changed = true;
    }
    if !device.is_up {
        netlink.set_link(&what, change(device.index).up().build()).await?;
        changed = true;
    }
    changed |= netlink.set_only_address(&device, lease.overlay_address(), 32).await?;
    Ok((device, changed))
}

fn is_same(link: &Link, wanted: &[InfoVxlan]) -> bool {
    match (&link.kind, &link.data) {
        (Some(InfoKind::Vxlan), Some(InfoData::Vxlan(have))) => wanted.iter().all(|info| have.contains(info)),
        _ => false,
    }
}

/// Makes the entries for all peers and removes those of others; gives the number of changes. Only what differs is
/// written, so that packets under way meet no gap.
pub(crate) async fn apply_peers(netlink: &Netlink, device: &Link, peers: &[Peer]) -> Result<usize, KernelError> {
    let forwarding: BTreeMap<MacAddr, Ipv4Addr> = peers.iter().map(|peer| (peer.vtep_mac, peer.public_ip)).collect();
    let neighbours: BTreeMap<Ipv4Addr, MacAddr> =
        peers.iter().map(|peer| (peer.subnet.address(), peer.vtep_mac)).collect();
    let routes: BTreeMap<Ipv4Net, Ipv4Addr> = peers.iter().map(|peer| (peer.subnet, peer.subnet.address())).collect();
    // In this order a route never leads to a neighbour that is not known.
    let mut changes = apply_forwarding(netlink, device, &forwarding).await?;
    changes += apply_neighbours(netlink, device, &neighbours).await?;
    changes += apply_routes(netlink, device, &routes).await?;
    Ok(changes)
}

async fn apply_forwarding(
    netlink: &Netlink,
    device: &Link,
    wanted: &BTreeMap<MacAddr, Ipv4Addr>,
) -> Result<usize, KernelError> {
    let mut right = BTreeMap::new();
    let mut changes = 0;
    for entry in entries(netlink, device, AddressFamily::Bridge).await? {
        let (Some(mac), Some(destination)) = (hardware_address(&entry), destination(&entry)) else { continue };
        let is_permanent = entry.header.state == NeighbourState::Permanent;
        if wanted.get(&mac) == Some(&destination) && is_permanent {
            right.insert(mac, destination);
        } else if wanted.get(&mac).is_none() {
            delete_entry(netlink, entry).await?;
            changes += 1;
        }
    }
    for (mac, destination) in wanted.iter().filter(|(mac, _)| !right.contains_key(mac)) {
        netlink
            .handle
            .neighbours()
            .add_bridge(device.index, &mac.0)
            .flags(NeighbourFlags::Own)
            .state(NeighbourState::Permanent)
            .destination(IpAddr::V4(*destination))
            .replace()
            .execute()
            .await
            .map_err(|err| netlink_error(format!("forward {mac} to host {destination}"), err))?;
        changes += 1;
    }
    Ok(changes)
}

async fn apply_neighbours(
    netlink: &Netlink,
    device: &Link,
    wanted: &BTreeMap<Ipv4Addr, MacAddr>,
) -> Result<usize, KernelError> {
    let mut right = BTreeMap::new();
    let mut changes = 0;
    for entry in entries(netlink, device, AddressFamily::Inet).await? {
        let (Some(address), mac) = (destination(&entry), hardware_address(&entry)) else { continue };
        let is_permanent = entry.header.state == NeighbourState::Permanent;
        match (wanted.get(&address), mac) {
            (Some(wanted), Some(mac)) if *wanted == mac && is_permanent => _ = right.insert(address, mac),
            (None, _) if is_permanent => {
                delete_entry(netlink, entry).await?;
                changes += 1;
            }
            _ => {} // replaced below, or the kernel's own
        }
    }
    for (address, mac) in wanted.iter().filter(|(address, _)| !right.contains_key(address)) {
        netlink
            .handle
            .neighbours()
            .add(device.index, IpAddr::V4(*address))
            .link_layer_address(&mac.0)
            .state(NeighbourState::Permanent)
            .replace()
            .execute()
            .await
            .map_err(|err| netlink_error(format!("make {address} the neighbour {mac}"), err))?;
        changes += 1;
    }
    Ok(changes)
}

async fn apply_routes(
    netlink: &Netlink,
    device: &Link,
    wanted: &BTreeMap<Ipv4Net, Ipv4Addr>,
) -> Result<usize, KernelError> {
    let mut right = BTreeMap::new();
    let mut changes = 0;
    for route in netlink.routes().await? {
        let Some((to, via, index)) = route_parts(&route) else { continue };
        if index != device.index {
            continue;
        }
        if via.is_some() && wanted.get(&to) == via.as_ref() {
            right.insert(to, via);
        } else if !wanted.contains_key(&to) {
            netlink.delete_route(route).await?;
            changes += 1;
        }
    }
    for (to, via) in wanted.iter().filter(|(to, _)| !right.contains_key(to)) {
        let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to.address(), to.prefix_len())
            .gateway(*via)
            .output_interface(device.index)
            .build();
        message.header.flags |= RouteFlags::Onlink;
        netlink.add_route(message, *to).await?;
        changes += 1;
    }
    Ok(changes)
}

fn route_parts(route: &RouteMessage) -> Option<(Ipv4Net, Option<Ipv4Addr>, u32)> {
    let (mut to, mut via, mut index) = (None, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = Some(*address),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(*address),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            _ => {}
        }
    }
    Some((Ipv4Net::containing(to?, route.header.destination_prefix_length)?, via, index?))
}

async fn entries(
    netlink: &Netlink,
    device: &Link,
    family: AddressFamily,
) -> Result<Vec<NeighbourMessage>, KernelError> {
    let list = || netlink.handle.neighbours().get().set_address_family(family).execute();
    let mut entries = listed("neighbours", list).await?;
    entries.retain(|entry| entry.header.ifindex == device.index);
    Ok(entries)
}

async fn delete_entry(netlink: &Netlink, entry: NeighbourMessage) -> Result<(), KernelError> {
    match netlink.handle.neighbours().del(entry).execute().await {
        Ok(()) => Ok(()),
        Err(err) => match netlink_error("delete a neighbour", err) {
            err if err.is_absent() => Ok(()),
            err => Err(err),
        },
    }
}

fn hardware_address(entry: &NeighbourMessage) -> Option<MacAddr> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok().map(MacAddr),
        _ => None,
    })
}

fn destination(entry: &NeighbourMessage) -> Option<Ipv4Addr> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
        // Forwarding entries: the family `bridge` does not say what the bytes are.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Ipv4Addr::from)
        }
        _ => None,
    })
}
