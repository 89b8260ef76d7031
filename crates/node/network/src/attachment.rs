//! A container's interface: a namespace, and a veth pair between it and the bridge.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use flynn_types::id::JobId;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{LinkUnspec, LinkVeth};

use crate::kernel::{Netlink, change, default_route};
use crate::{KernelError, MacAddr, namespace};

/// A container's place in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub mac: MacAddr,
    pub ip: Ipv4Addr,
    pub prefix_len: u8,
    pub gateway: Ipv4Addr,
    /// In bytes.
    pub mtu: u32,
    /// Name of the host's end of the veth pair.
    pub veth_host: String,
}

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("connect job {job} to the network")]
    Kernel {
        job: JobId,
        #[source]
        source: KernelError,
    },
    #[error("connect job {job} to the network: interface {name} exists and is not ours; remove it")]
    NameTaken { job: JobId, name: String },
}

/// What an attachment is made from.
pub(crate) struct Plan<'a> {
    pub(crate) job: &'a JobId,
    pub(crate) ip: Ipv4Addr,
    pub(crate) prefix_len: u8,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) mtu: u32,
    pub(crate) bridge: u32,
    pub(crate) netns: &'a Path,
}

/// The host's end of the pair of the container with this address: unlike a random name it needs no memory. Unique, as
/// two containers of a host never share the last two bytes (a host's subnet is a /16 at most).
pub(crate) fn veth_name(ip: Ipv4Addr) -> String {
    let [_, _, c, d] = ip.octets();
    format!("veth{c:02x}{d:02x}")
}

/// Makes namespace and interface. After an error neither is left.
pub(crate) async fn attach(netlink: &Netlink, plan: &Plan<'_>) -> Result<Attachment, AttachError> {
    match build(netlink, plan).await {
        Ok(attachment) => Ok(attachment),
        Err(err) if matches!(err, AttachError::NameTaken { .. }) => {
            let _ = namespace::remove_pin(plan.netns);
            Err(err)
        }
        Err(err) => {
            // The first error says more than what the removal may add.
            let _ = detach(netlink, plan.job, Some(plan.ip), plan.netns).await;
            Err(err)
        }
    }
}

async fn build(netlink: &Netlink, plan: &Plan<'_>) -> Result<Attachment, AttachError> {
    let kernel = |source| AttachError::Kernel { job: plan.job.clone(), source };
    let name = veth_name(plan.ip);
    let inside = namespace::create(plan.netns).await.map_err(kernel)?;
    let mac = MacAddr::random();
    // One request makes both ends complete: nothing has to be moved or renamed.
    let pair = || veth_pair(&name, plan, mac, inside.file.as_raw_fd());
    match netlink.add_link(&name, pair()).await {
        Err(err) if err.is_present_already() => {
            // Left by a job that had the address before and was not taken down.
            let old = netlink.link(&name).await.map_err(kernel)?;
            if let Some(old) = old {
                if old.kind != Some(InfoKind::Veth) || (old.alias.is_none() && old.controller != Some(plan.bridge)) {
                    return Err(AttachError::NameTaken { job: plan.job.clone(), name });
                }
                netlink.delete_link(old.index).await.map_err(kernel)?;
            }
            netlink.add_link(&name, pair()).await.map_err(kernel)?;
        }
        added => added.map_err(kernel)?,
    }
    let configured = async {
        let loopback = inside.netlink.set_link("loopback", change(1).up().build());
        let eth0 = async {
            let link = inside.netlink.link("eth0").await?.ok_or_else(|| crate::bridge::missing("eth0"))?;
            inside.netlink.add_address(link.index, plan.ip, plan.prefix_len).await?;
            inside.netlink.set_link("eth0", change(link.index).up().build()).await?;
            let route = default_route(plan.gateway, link.index);
            inside.netlink.add_default_route(route).await
        };
        // The creation of an interface takes no alias.
        let alias = async {
            let message = LinkUnspec::new_with_name(&name).alias(plan.job.as_str()).build();
            netlink.set_link(&name, message).await
        };
        tokio::try_join!(loopback, eth0, alias)
    };
    configured.await.map_err(kernel)?;
    Ok(Attachment {
        mac,
        ip: plan.ip,
        prefix_len: plan.prefix_len,
        gateway: plan.gateway,
        mtu: plan.mtu,
        veth_host: name,
    })
}

fn veth_pair(name: &str, plan: &Plan<'_>, mac: MacAddr, netns: i32) -> LinkMessage {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName("eth0".to_owned()),
        LinkAttribute::Address(mac.0.to_vec()),
        LinkAttribute::Mtu(plan.mtu),
        LinkAttribute::NetNsFd(netns),
    ];
    let mut message = LinkVeth::new(name, "eth0").mtu(plan.mtu).controller(plan.bridge).up().build();
    for attribute in &mut message.attributes {
        if let LinkAttribute::LinkInfo(infos) = attribute {
            infos.retain(|info| !matches!(info, LinkInfo::Data(_)));
            infos.push(LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer.clone()))));
        }
    }
    message
}

/// Removes interface and namespace; what is absent is fine. `ip` is the job's address if it is known.
pub(crate) async fn detach(
    netlink: &Netlink,
    job: &JobId,
    ip: Option<Ipv4Addr>,
    netns: &Path,
) -> Result<(), KernelError> {
    let link = match ip {
        Some(ip) => netlink.link(&veth_name(ip)).await?,
        None => netlink.links().await?.into_iter().find(|link| link.alias.as_deref() == Some(job.as_str())),
    };
    // An interface without alias was left half-made by ourselves; one with another alias is another job's.
    if let Some(link) = link
        && link.kind == Some(InfoKind::Veth)
        && link.alias.as_deref().is_none_or(|alias| alias == job.as_str())
    {
        netlink.delete_link(link.index).await?;
    }
    namespace::remove_pin(netns)
}
