//! Netlink requests, as few and small as the rest of the crate needs them.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::{Stream, TryStreamExt as _};
use nix::errno::Errno;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use tokio::task::AbortHandle;

use crate::{Ipv4Net, MacAddr};

/// The kernel refused a change, or could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}")]
pub struct KernelError {
    attempt: String,
    #[source]
    source: io::Error,
}

impl KernelError {
    pub(crate) fn new(attempt: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { attempt: attempt.into(), source: source.into() }
    }

    fn from_netlink(attempt: impl Into<String>, err: rtnetlink::Error) -> Self {
        let source = match err {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            err => io::Error::other(err),
        };
        Self::new(attempt, source)
    }

    fn errno(&self) -> Option<Errno> {
        self.source.raw_os_error().map(Errno::from_raw)
    }

    /// Whether the thing that was to be read or changed is not there.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self.errno(), Some(Errno::ENODEV | Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL))
    }

    fn is_busy(&self) -> bool {
        self.errno() == Some(Errno::EBUSY)
    }

    pub(crate) fn is_present_already(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }
}

/// How often in a row a listing is asked for again.
const LIST_TRIES: u32 = 100;

/// A netlink socket in one network namespace. Works from any thread.
pub(crate) struct Netlink {
    pub(crate) handle: Handle,
    connection: AbortHandle,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A network interface as far as we look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: Option<String>,
    pub(crate) mtu: u32,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) is_up: bool,
    pub(crate) is_promiscuous: bool,
    /// Index of the bridge that it is a port of.
    pub(crate) controller: Option<u32>,
    pub(crate) kind: Option<InfoKind>,
    pub(crate) data: Option<InfoData>,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            alias: None,
            mtu: 0,
            mac: None,
            is_up: message.header.flags.contains(LinkFlags::Up),
            is_promiscuous: message.header.flags.contains(LinkFlags::Promisc),
            controller: None,
            kind: None,
            data: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(mac) => link.mac = mac.try_into().ok().map(MacAddr),
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = Some(kind),
                            LinkInfo::Data(data) => link.data = Some(data),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }
}

/// What a change of an interface starts from.
pub(crate) fn change(index: u32) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_index(index)
}

/// A whole listing. The kernel breaks one off with EBUSY when what it lists changes meanwhile; then it is asked again.
pub(crate) async fn listed<T, L: Stream<Item = Result<T, rtnetlink::Error>>>(
    what: &str,
    list: impl Fn() -> L,
) -> Result<Vec<T>, KernelError> {
    let mut tries = 1;
    loop {
        let listed: Result<Vec<T>, _> = list().try_collect().await;
        match listed.map_err(|err| KernelError::from_netlink(format!("list {what}"), err)) {
            Err(err) if err.is_busy() && tries < LIST_TRIES => tries += 1,
            listed => return listed,
        }
    }
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace; the current runtime drives it.
    pub(crate) fn open() -> Result<Self, KernelError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|err| KernelError::new("open a netlink socket", err))?;
        Ok(Self { handle, connection: tokio::spawn(connection).abort_handle() })
    }

    /// All interfaces.
    pub(crate) async fn links(&self) -> Result<Vec<Link>, KernelError> {
        let links = listed("interfaces", || self.handle.link().get().execute()).await?;
        Ok(links.into_iter().map(Link::from).collect())
    }

    pub(crate) async fn link(&self, name: &str) -> Result<Option<Link>, KernelError> {
        let found = self.handle.link().get().match_name(name).execute().try_next().await;
        match found.map_err(|err| KernelError::from_netlink(format!("look up interface {name}"), err)) {
            Err(err) if err.is_absent() => Ok(None),
            found => Ok(found?.map(Link::from)),
        }
    }

    pub(crate) async fn add_link(&self, what: &str, message: LinkMessage) -> Result<(), KernelError> {
        let added = self.handle.link().add(message).execute().await;
        added.map_err(|err| KernelError::from_netlink(format!("create {what}"), err))
    }

    pub(crate) async fn set_link(&self, what: &str, message: LinkMessage) -> Result<(), KernelError> {
        let set = self.handle.link().set(message).execute().await;
        set.map_err(|err| KernelError::from_netlink(format!("change {what}"), err))
    }

    /// Absence is success.
    pub(crate) async fn delete_link(&self, index: u32) -> Result<(), KernelError> {
        let deleted = self.handle.link().del(index).execute().await;
        match deleted.map_err(|err| KernelError::from_netlink(format!("delete interface {index}"), err)) {
            Err(err) if !err.is_absent() => Err(err),
            _ => Ok(()),
        }
    }

    /// The IPv4 addresses of one interface, or of all.
    pub(crate) async fn addresses(
        &self,
        index: Option<u32>,
    ) -> Result<Vec<(Ipv4Addr, u8, AddressMessage)>, KernelError> {
        let all = listed("addresses", || self.handle.address().get().execute()).await?;
        let of_interface = all.into_iter().filter(|message| index.is_none_or(|index| message.header.index == index));
        Ok(of_interface
            .filter_map(|message| {
                let address = message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                    _ => None,
                })?;
                Some((address, message.header.prefix_len, message))
            })
            .collect())
    }

    pub(crate) async fn add_address(&self, index: u32, address: Ipv4Addr, len: u8) -> Result<(), KernelError> {
        let added = self.handle.address().add(index, IpAddr::V4(address), len).replace().execute().await;
        added.map_err(|err| KernelError::from_netlink(format!("give address {address}/{len}"), err))
    }

    /// Gives an interface one IPv4 address and takes away all others. Touches nothing that is right.
    pub(crate) async fn set_only_address(&self, link: &Link, address: Ipv4Addr, len: u8) -> Result<bool, KernelError> {
        let present = self.addresses(Some(link.index)).await?;
        let mut changed = false;
        if !present.iter().any(|(have, have_len, _)| (*have, *have_len) == (address, len)) {
            self.add_address(link.index, address, len).await?;
            changed = true;
        }
        for (have, have_len, message) in present {
            if (have, have_len) != (address, len) {
                let removed = self.handle.address().del(message).execute().await;
                let attempt = || format!("take address {have}/{have_len} from {}", link.name);
                match removed.map_err(|err| KernelError::from_netlink(attempt(), err)) {
                    Err(err) if !err.is_absent() => return Err(err),
                    _ => changed = true,
                }
            }
        }
        Ok(changed)
    }

    /// IPv4 routes of the main table that an administrator's program or we have made.
    pub(crate) async fn routes(&self) -> Result<Vec<RouteMessage>, KernelError> {
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut routes = listed("routes", || self.handle.route().get(query.clone()).execute()).await?;
        routes.retain(|route| route.header.protocol != RouteProtocol::Kernel && route.header.table == 254);
        Ok(routes)
    }

    pub(crate) async fn add_route(&self, message: RouteMessage, to: Ipv4Net) -> Result<(), KernelError> {
        let added = self.handle.route().add(message).replace().execute().await;
        added.map_err(|err| KernelError::from_netlink(format!("route {to}"), err))
    }

    pub(crate) async fn add_default_route(&self, message: RouteMessage) -> Result<(), KernelError> {
        let added = self.handle.route().add(message).replace().execute().await;
        added.map_err(|err| KernelError::from_netlink("set the default route", err))
    }

    /// Absence is success.
    pub(crate) async fn delete_route(&self, message: RouteMessage) -> Result<(), KernelError> {
        let deleted = self.handle.route().del(message).execute().await;
        match deleted.map_err(|err| KernelError::from_netlink("delete a route", err)) {
            Err(err) if !err.is_absent() => Err(err),
            _ => Ok(()),
        }
    }
}

/// A container's default route.
pub(crate) fn default_route(gateway: Ipv4Addr, index: u32) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index).scope(RouteScope::Universe).build()
}

pub(crate) fn netlink_error(attempt: impl Into<String>, err: rtnetlink::Error) -> KernelError {
    KernelError::from_netlink(attempt, err)
}
