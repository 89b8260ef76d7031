//! Objects of the discoverd API on port 1111 (spec discoverd-and-network section 3).

use std::collections::BTreeMap;
use std::fmt;

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::host::{is_default, null_as_default};

/// How a service chooses its leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LeaderType {
    /// The registered instance with the lowest index.
    #[default]
    Oldest,
    /// Only what `PUT leader` or a metadata write says.
    Manual,
}

impl LeaderType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Oldest => "oldest",
            Self::Manual => "manual",
        }
    }
}

impl Serialize for LeaderType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Anything but `manual` behaves as `oldest`, as the Go server does it.
impl<'de> Deserialize<'de> for LeaderType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        Ok(if text == "manual" { Self::Manual } else { Self::Oldest })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceConfig {
    pub leader_type: LeaderType,
}

/// A registered address of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Instance {
    /// Lower-case hex MD5 of `<proto>-<addr>`.
    pub id: String,
    /// `host:port`
    pub addr: String,
    pub proto: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
    /// Log index of the first registration; given by the server.
    #[serde(skip_serializing_if = "is_default")]
    pub index: u64,
}

impl Instance {
    /// An instance with the id that goes with its address.
    pub fn new(proto: &str, addr: &str, meta: BTreeMap<String, String>) -> Self {
        Self { id: instance_id(proto, addr), addr: addr.to_owned(), proto: proto.to_owned(), meta, index: 0 }
    }

    /// Equal in everything that a client sets.
    pub fn same_registration(&self, other: &Self) -> bool {
        self.addr == other.addr && self.proto == other.proto && self.meta == other.meta
    }

    /// Host and port parts of the address, brackets of IPv6 removed.
    pub fn host_port(&self) -> Option<(&str, u16)> {
        let (host, port) = split_host_port(&self.addr).ok()?;
        Some((host, port.parse().ok()?))
    }

    /// Checks what the server checks, in its order.
    pub fn validate(&self) -> Result<(), InvalidInstance> {
        if self.proto.is_empty() {
            return Err(InvalidInstance::NoProto);
        }
        if !self.proto.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            return Err(InvalidInstance::Proto);
        }
        split_host_port(&self.addr)?;
        let expected = instance_id(&self.proto, &self.addr);
        if self.id == expected { Ok(()) } else { Err(InvalidInstance::Id { expected }) }
    }
}

/// Lower-case hex MD5 of `<proto>-<addr>`.
pub fn instance_id(proto: &str, addr: &str) -> String {
    hex::encode(Md5::digest(format!("{proto}-{addr}")))
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInstance {
    #[error("discoverd: proto must be set")]
    NoProto,
    #[error("discoverd: proto must be lowercase alphanumeric")]
    Proto,
    #[error("address {addr}: {problem}")]
    Address { addr: String, problem: &'static str },
    #[error("discoverd: instance id is incorrect, expected {expected}")]
    Id { expected: String },
}

/// Splits `host:port` or `[v6]:port` with Go's error texts.
fn split_host_port(addr: &str) -> Result<(&str, &str), InvalidInstance> {
    let error = |problem| InvalidInstance::Address { addr: addr.to_owned(), problem };
    if let Some(rest) = addr.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(|| error("missing ']' in address"))?;
        let port = port.strip_prefix(':').ok_or_else(|| error("missing port in address"))?;
        return Ok((host, port));
    }
    let (host, port) = addr.rsplit_once(':').ok_or_else(|| error("missing port in address"))?;
    if host.contains(':') { Err(error("too many colons in address")) } else { Ok((host, port)) }
}

/// Why a service name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidServiceName {
    #[error("discoverd: service name must not be empty")]
    Empty,
    #[error("discoverd: service must be lowercase alphanumeric plus dash")]
    Characters,
}

pub fn validate_service_name(name: &str) -> Result<(), InvalidServiceName> {
    if name.is_empty() {
        return Err(InvalidServiceName::Empty);
    }
    let valid = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if valid { Ok(()) } else { Err(InvalidServiceName::Characters) }
}

/// The metadata document of a service, written with compare-and-set on `index`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceMeta {
    /// Any JSON, compact, key order kept; `null` when absent.
    #[serde(deserialize_with = "raw_or_null")]
    pub data: Option<Box<RawValue>>,
    /// On a write: the index read before, 0 for a document that must not exist yet. On a read: that of the last write.
    pub index: u64,
    /// Write only: also make this instance the leader.
    #[serde(skip_serializing_if = "is_default")]
    pub leader_id: String,
}

fn raw_or_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    // `Option` would turn an explicit null into `None`, which is how it is written again: the same bytes.
    Option::<Box<RawValue>>::deserialize(deserializer)
}

impl PartialEq for ServiceMeta {
    fn eq(&self, other: &Self) -> bool {
        let text = |m: &Self| m.data.as_ref().map_or("null".to_owned(), |d| d.get().to_owned());
        self.index == other.index && self.leader_id == other.leader_id && text(self) == text(other)
    }
}

impl Eq for ServiceMeta {}

/// What happened in a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A new instance, or the replay of a current one.
    Up,
    /// Address, protocol or metadata of a known instance changed.
    Update,
    Down,
    /// The leader changed; without instance there is none.
    Leader,
    /// The initial replay is over.
    Current,
    ServiceMeta,
    #[serde(other)]
    Unknown,
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Update => "update",
            Self::Down => "down",
            Self::Leader => "leader",
            Self::Current => "current",
            Self::ServiceMeta => "service_meta",
            Self::Unknown => "unknown",
        })
    }
}

/// One event of a service's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub service: String,
    pub kind: EventKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_meta: Option<ServiceMeta>,
}

/// Body of `PUT /services/:service/leader`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaderChange {
    pub id: String,
}

/// Answer of `GET /raft/leader`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftLeader {
    pub host: String,
}

/// Answer of `PUT /raft/peers/:peer` and `POST /shutdown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastIndex {
    pub last_index: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_ids_match_the_test_vectors() {
        for (proto, addr, id) in [
            ("tcp", "10.1.1.1:80", "4e42c4dc85a8278b9bf0971decf96bee"),
            ("tcp", "10.1.1.2:80", "ff538421aceed1eba53238c3b75a914b"),
            ("http", "10.1.1.3:80", "4997de81c126698ed54e71920861b82d"),
            ("http", "localhost:10000", "74667cebd845d088d811ddef924895b7"),
        ] {
            assert_eq!(instance_id(proto, addr), id);
        }
    }

    #[test]
    fn registrations_are_checked_in_the_servers_order() {
        let instance = |proto: &str, addr: &str, id: &str| Instance {
            id: id.into(),
            addr: addr.into(),
            proto: proto.into(),
            ..Instance::default()
        };
        for (given, message) in [
            (instance("", "x", ""), "discoverd: proto must be set"),
            (instance("TCP", "x", ""), "discoverd: proto must be lowercase alphanumeric"),
            (instance("http", "10.1.1.3", ""), "address 10.1.1.3: missing port in address"),
            (instance("http", "::1:80", ""), "address ::1:80: too many colons in address"),
            (
                instance("http", "10.1.1.3:80", "x"),
                "discoverd: instance id is incorrect, expected 4997de81c126698ed54e71920861b82d",
            ),
        ] {
            assert_eq!(given.validate().unwrap_err().to_string(), message);
        }
        assert_eq!(Instance::new("tcp", "[::1]:80", BTreeMap::new()).validate(), Ok(()));
        assert_eq!(Instance::new("tcp", "[::1]:80", BTreeMap::new()).host_port(), Some(("::1", 80)));
    }

    #[test]
    fn metadata_keeps_its_bytes_and_a_missing_document_is_null() {
        let text = r#"{"data":{"b":1,"a":[1,2]},"index":7}"#;
        let meta: ServiceMeta = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&meta).unwrap(), text);
        let none: ServiceMeta = serde_json::from_str("{}").unwrap();
        assert_eq!(serde_json::to_string(&none).unwrap(), r#"{"data":null,"index":0}"#);
    }

    #[test]
    fn events_leave_out_what_they_do_not_carry() {
        let event = Event { service: "new".into(), kind: EventKind::Current, instance: None, service_meta: None };
        assert_eq!(serde_json::to_string(&event).unwrap(), r#"{"service":"new","kind":"current"}"#);
        let unknown: Event = serde_json::from_str(r#"{"service":"a","kind":"whatever"}"#).unwrap();
        assert_eq!(unknown.kind, EventKind::Unknown);
    }

    #[test]
    fn every_leader_type_but_manual_is_oldest() {
        for (text, kind) in [
            (r#"{}"#, LeaderType::Oldest),
            (r#"{"leader_type":""}"#, LeaderType::Oldest),
            (r#"{"leader_type":"x"}"#, LeaderType::Oldest),
            (r#"{"leader_type":"manual"}"#, LeaderType::Manual),
        ] {
            assert_eq!(serde_json::from_str::<ServiceConfig>(text).unwrap().leader_type, kind, "{text}");
        }
        assert!(serde_json::from_str::<ServiceConfig>(r#"{"leader_type":5}"#).is_err());
    }
}
