//! The bridge of this host's containers.

use rtnetlink::LinkBridge;
use rtnetlink::packet_route::link::InfoKind;

use crate::kernel::{Link, Netlink, change};
use crate::{KernelError, Lease, MacAddr, proc_sys};

/// Brings the bridge into being; what is right already is not touched. Gives the bridge and whether anything changed.
pub(crate) async fn ensure(
    netlink: &Netlink,
    name: &str,
    lease: &Lease,
    mtu: u32,
) -> Result<(Link, bool), KernelError> {
    let what = format!("bridge {name}");
    let mut changed = false;
    let existing = netlink.link(name).await?;
    let bridge = match existing {
        Some(link) if link.kind == Some(InfoKind::Bridge) => link,
        existing => {
            if let Some(other) = existing {
                netlink.delete_link(other.index).await?;
            }
            // Without an address of its own, a bridge takes the lowest of its ports, which come and go. The same after
            // somebody removed the bridge: containers go on with the neighbour that they know.
            let message = LinkBridge::new(name).address(mac(lease).0.to_vec()).mtu(mtu).build();
            netlink.add_link(&what, message).await?;
            proc_sys::disable_ipv6(name);
            changed = true;
            netlink.link(name).await?.ok_or_else(|| missing(&what))?
        }
    };
    if bridge.mtu != mtu {
        netlink.set_link(&what, change(bridge.index).mtu(mtu).build()).await?;
        changed = true;
    }
    if !bridge.is_up || !bridge.is_promiscuous {
        netlink.set_link(&what, change(bridge.index).up().promiscuous(true).build()).await?;
        changed = true;
    }
    changed |= netlink.set_only_address(&bridge, lease.gateway(), lease.subnet.prefix_len()).await?;
    Ok((bridge, changed))
}

pub(crate) fn missing(what: &str) -> KernelError {
    KernelError::new(format!("find {what}, which was just created"), nix::errno::Errno::ENODEV)
}

/// The bridge's hardware address, from its IP address. Not more than this host's containers ever see it.
fn mac(lease: &Lease) -> MacAddr {
    let [a, b, c, d] = lease.gateway().octets();
    MacAddr([0xfe, 0x42, a, b, c, d])
}
