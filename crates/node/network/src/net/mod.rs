//! IPv4 networks and hardware addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 network: an address whose bits behind the prefix are zero, for example `100.100.28.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Net {
    base: u32,
    prefix_len: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid IPv4 network {0:?}: it must look like 100.100.0.0/16")]
pub struct InvalidNet(pub String);

impl Ipv4Net {
    /// The network of `address`; bits behind the prefix are dropped. `None` if the prefix is longer than 32.
    pub fn containing(address: Ipv4Addr, prefix_len: u8) -> Option<Self> {
        (prefix_len <= 32).then(|| Self { base: address.to_bits() & mask(prefix_len), prefix_len })
    }

    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base)
    }

    pub fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix_len) == self.base
    }

    pub fn contains_net(self, other: Self) -> bool {
        other.prefix_len >= self.prefix_len && self.contains(other.address())
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.contains_net(other) || other.contains_net(self)
    }

    /// The first address that a host may have.
    pub fn first_host(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.saturating_add(1))
    }

    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base | !mask(self.prefix_len))
    }

    /// The networks of `prefix_len` inside this one, in order. Empty if `prefix_len` is shorter than ours.
    pub fn subnets(self, prefix_len: u8) -> impl Iterator<Item = Self> {
        let count = match prefix_len.checked_sub(self.prefix_len) {
            Some(bits) if prefix_len <= 32 => 1_u64 << bits,
            _ => 0,
        };
        let size = 1_u64 << (32 - u32::from(prefix_len.min(32)));
        (0..count).map(move |at| Self {
            base: u32::try_from(u64::from(self.base) + at * size).expect("a subnet lies inside its network"),
            prefix_len,
        })
    }
}

fn mask(prefix_len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0)
}

impl FromStr for Ipv4Net {
    type Err = InvalidNet;

    /// Accepts addresses inside the network, too: `100.100.28.1/24` is `100.100.28.0/24`.
    fn from_str(text: &str) -> Result<Self, InvalidNet> {
        let parse = || {
            let (address, len) = text.split_once('/')?;
            Self::containing(address.parse().ok()?, len.parse().ok()?)
        };
        parse().ok_or_else(|| InvalidNet(text.to_owned()))
    }
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.prefix_len)
    }
}

impl TryFrom<String> for Ipv4Net {
    type Error = InvalidNet;
    fn try_from(text: String) -> Result<Self, InvalidNet> {
        text.parse()
    }
}

impl From<Ipv4Net> for String {
    fn from(net: Ipv4Net) -> Self {
        net.to_string()
    }
}

/// A hardware address, shown as `02:42:64:64:1c:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Five random bytes behind `fe:`, the form of containers (spec 14.2).
    pub(crate) fn random() -> Self {
        let [a, b, c, d, e] = rand::random::<[u8; 5]>();
        Self([0xfe, a, b, c, d, e])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid hardware address {0:?}")]
pub struct InvalidMac(pub String);

impl FromStr for MacAddr {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let parse = || {
            let mut bytes = [0; 6];
            let mut parts = text.split(':');
            for byte in &mut bytes {
                let part = parts.next().filter(|part| part.len() == 2)?;
                *byte = u8::from_str_radix(part, 16).ok()?;
            }
            parts.next().is_none().then_some(Self(bytes))
        };
        parse().ok_or_else(|| InvalidMac(text.to_owned()))
    }
}

#[cfg(test)]
mod tests;
