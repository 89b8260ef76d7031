//! The lease document and its settings (spec discoverd-and-network 13.3).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use flynn_types::id::HostId;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use super::{Claim, vtep_mac};
use crate::{Ipv4Net, MacAddr};

/// The document of all leases. Fields that we do not know survive a round trip.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Leases {
    /// Settings of the network, written by the cluster's first host; empty in a new document.
    #[serde(deserialize_with = "null_as_default")]
    pub config: Map<String, Value>,
    /// By subnet, spelled `100.100.28.0-24`. What does not parse belongs to somebody else and is left alone.
    #[serde(deserialize_with = "null_as_default")]
    subnets: BTreeMap<String, Value>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// One host's lease. The names are those of the Go implementation, `HostID` is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseEntry {
    /// Where the host receives the overlay's packets.
    #[serde(rename = "PublicIP")]
    pub public_ip: Ipv4Addr,
    /// Port of the host's status, as text.
    #[serde(rename = "HTTPPort", default)]
    pub http_port: String,
    #[serde(rename = "BackendType", default)]
    pub backend_type: String,
    #[serde(rename = "BackendData", default, skip_serializing_if = "Value::is_null")]
    pub backend_data: Value,
    /// The owner; absent in leases of the Go implementation.
    #[serde(rename = "HostID", default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<HostId>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl LeaseEntry {
    pub(super) const VXLAN: &str = "vxlan";

    pub(super) fn new(claim: &Claim<'_>, subnet: Ipv4Net) -> Self {
        Self {
            public_ip: claim.external_ip,
            http_port: claim.status_port.to_string(),
            backend_type: Self::VXLAN.to_owned(),
            backend_data: json!({"VtepMAC": vtep_mac(subnet).to_string()}),
            host_id: Some(claim.host_id.clone()),
            other: Map::new(),
        }
    }

    /// Hardware address of the host's overlay device.
    pub fn vtep_mac(&self) -> Option<MacAddr> {
        self.backend_data.get("VtepMAC")?.as_str()?.parse().ok()
    }

    pub fn status_port(&self) -> Option<u16> {
        self.http_port.parse().ok()
    }
}

impl Leases {
    /// The valid leases in the order of their subnets' spelling.
    pub fn iter(&self) -> impl Iterator<Item = (Ipv4Net, LeaseEntry)> + '_ {
        self.subnets.iter().filter_map(|(key, entry)| Some((parse_key(key)?, LeaseEntry::deserialize(entry).ok()?)))
    }

    /// The subnet of a host.
    pub fn of_host(&self, host_id: &HostId) -> Option<Ipv4Net> {
        self.iter().find(|(_, entry)| entry.host_id.as_ref() == Some(host_id)).map(|(subnet, _)| subnet)
    }

    /// The subnet of a host of the Go implementation, which knows hosts by address only.
    pub(super) fn of_unnamed_host(&self, public_ip: Ipv4Addr) -> Option<Ipv4Net> {
        self.iter().find(|(_, entry)| entry.host_id.is_none() && entry.public_ip == public_ip).map(|(subnet, _)| subnet)
    }

    /// Ends the lease of a host that is gone for good; whether there was one.
    pub fn forget(&mut self, host_id: &HostId) -> bool {
        let before = self.subnets.len();
        self.retain(|_, entry| entry.host_id.as_ref() != Some(host_id));
        self.subnets.len() != before
    }

    pub(super) fn set(&mut self, subnet: Ipv4Net, mut entry: LeaseEntry) {
        let slot = self.subnets.entry(key(subnet)).or_default();
        if let Ok(old) = LeaseEntry::deserialize(&*slot) {
            entry.other = old.other;
        }
        *slot = serde_json::to_value(entry).expect("a lease has only text keys");
    }

    pub(super) fn retain(&mut self, keep: impl Fn(Ipv4Net, &LeaseEntry) -> bool) {
        self.subnets.retain(|key, entry| match (parse_key(key), LeaseEntry::deserialize(&*entry)) {
            (Some(subnet), Ok(entry)) => keep(subnet, &entry),
            _ => true,
        });
    }

    /// The settings that the cluster's first host wrote.
    pub fn settings(&self) -> Result<Settings, InvalidSettings> {
        Settings::from_config(&self.config)
    }
}

fn key(subnet: Ipv4Net) -> String {
    format!("{}-{}", subnet.address(), subnet.prefix_len())
}

fn parse_key(key: &str) -> Option<Ipv4Net> {
    key.replacen('-', "/", 1).parse().ok()
}

fn null_as_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// How the network is divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub network: Ipv4Net,
    /// Prefix length of a host's subnet.
    pub subnet_len: u8,
    /// First and last subnet that may be leased; `None` is the second and the last of the network.
    pub subnet_min: Option<Ipv4Addr>,
    pub subnet_max: Option<Ipv4Addr>,
    pub vni: u32,
    /// UDP port of the overlay.
    pub vxlan_port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    #[error("the network's settings say {field} = {value}, which is not {expected}")]
    Field { field: &'static str, value: Value, expected: &'static str },
    #[error("{0} is not in the range of the Network")]
    OutOfRange(&'static str),
    #[error("HostSubnet is larger network than Network")]
    SubnetTooLarge,
    #[error("the network's settings ask for the overlay {0:?}; this daemon knows only vxlan")]
    UnknownBackend(String),
}

/// UDP port of an overlay whose settings name none: the kernel's own, which hosts of the Go implementation use.
const UNNAMED_PORT: u16 = 8472;
/// Smallest subnet with room for base, bridge, one container and broadcast address.
const LONGEST_SUBNET: u8 = 30;

impl Default for Settings {
    /// The spec's network, `100.100.0.0/16`, in parts of 254 addresses, on DESIGN's port.
    fn default() -> Self {
        let network = Ipv4Net::containing(Ipv4Addr::new(100, 100, 0, 0), 16).expect("16 is a prefix length");
        Self::new(network, 24, 1, 5002)
    }
}

impl Settings {
    pub fn new(network: Ipv4Net, subnet_len: u8, vni: u32, vxlan_port: u16) -> Self {
        Self { network, subnet_len, subnet_min: None, subnet_max: None, vni, vxlan_port }
    }

    /// Whether `subnet` may be leased.
    pub(super) fn allows(&self, subnet: Ipv4Net) -> bool {
        let (first, last) = self.range();
        subnet.prefix_len() == self.subnet_len
            && self.network.contains_net(subnet)
            && (first..=last).contains(&subnet.address())
    }

    /// All subnets that may be leased, in order.
    pub(super) fn subnets(&self) -> impl Iterator<Item = Ipv4Net> {
        let (first, last) = self.range();
        self.network
            .subnets(self.subnet_len)
            .skip_while(move |subnet| subnet.address() < first)
            .take_while(move |subnet| subnet.address() <= last)
    }

    fn range(&self) -> (Ipv4Addr, Ipv4Addr) {
        let second = self.network.subnets(self.subnet_len).nth(1).map_or(self.network.address(), Ipv4Net::address);
        (self.subnet_min.unwrap_or(second), self.subnet_max.unwrap_or(self.network.broadcast()))
    }

    pub(super) fn to_config(&self) -> Map<String, Value> {
        let mut config = Map::new();
        config.insert("Network".to_owned(), json!(self.network));
        if self.subnet_len != default_subnet_len(self.network) {
            config.insert("SubnetLen".to_owned(), json!(self.subnet_len));
        }
        if let Some(min) = self.subnet_min {
            config.insert("SubnetMin".to_owned(), json!(min));
        }
        if let Some(max) = self.subnet_max {
            config.insert("SubnetMax".to_owned(), json!(max));
        }
        let mut backend = json!({"Type": LeaseEntry::VXLAN});
        if self.vni != 1 {
            backend["VNI"] = json!(self.vni);
        }
        if self.vxlan_port != UNNAMED_PORT {
            backend["Port"] = json!(self.vxlan_port);
        }
        config.insert("Backend".to_owned(), backend);
        config
    }

    fn from_config(config: &Map<String, Value>) -> Result<Self, InvalidSettings> {
        let network: Ipv4Net = field(config, "Network", "an IPv4 network")?.ok_or(InvalidSettings::Field {
            field: "Network",
            value: Value::Null,
            expected: "an IPv4 network",
        })?;
        let subnet_len: u8 =
            field(config, "SubnetLen", "a prefix length")?.unwrap_or_else(|| default_subnet_len(network));
        if subnet_len < network.prefix_len() {
            return Err(InvalidSettings::SubnetTooLarge);
        }
        if subnet_len > LONGEST_SUBNET {
            let value = json!(subnet_len);
            return Err(InvalidSettings::Field { field: "SubnetLen", value, expected: "at most 30" });
        }
        let address = |name: &'static str| -> Result<Option<Ipv4Addr>, InvalidSettings> {
            let address = field(config, name, "an IPv4 address")?;
            match address {
                Some(address) if !network.contains(address) => Err(InvalidSettings::OutOfRange(name)),
                address => Ok(address),
            }
        };
        let (subnet_min, subnet_max) = (address("SubnetMin")?, address("SubnetMax")?);
        let backend: Map<String, Value> = field(config, "Backend", "an object")?.unwrap_or_default();
        let kind: String = field(&backend, "Type", "text")?.unwrap_or_else(|| LeaseEntry::VXLAN.to_owned());
        if !kind.eq_ignore_ascii_case(LeaseEntry::VXLAN) {
            return Err(InvalidSettings::UnknownBackend(kind));
        }
        let vni = field(&backend, "VNI", "a VXLAN identifier")?.unwrap_or(1);
        let vxlan_port = field(&backend, "Port", "a port")?.filter(|port| *port != 0).unwrap_or(UNNAMED_PORT);
        Ok(Self { network, subnet_len, subnet_min, subnet_max, vni, vxlan_port })
    }
}

fn default_subnet_len(network: Ipv4Net) -> u8 {
    if network.prefix_len() < 24 { 24 } else { network.prefix_len() + 1 }
}

/// A field by its name in any case, as Go matches it.
fn field<T: for<'de> Deserialize<'de>>(
    object: &Map<String, Value>,
    field: &'static str,
    expected: &'static str,
) -> Result<Option<T>, InvalidSettings> {
    let value = object.iter().find(|(name, value)| name.eq_ignore_ascii_case(field) && !value.is_null());
    let Some((_, value)) = value else { return Ok(None) };
    let invalid = |_| InvalidSettings::Field { field, value: value.clone(), expected };
    T::deserialize(value).map(Some).map_err(invalid)
}
