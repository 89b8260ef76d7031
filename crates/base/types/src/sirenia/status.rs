//! What a peer tells of itself: `GET /status`.

use serde::{Deserialize, Serialize};

use super::{ClusterState, PeerId, Tunables};
use crate::discoverd::Instance;
use crate::host::null_as_default;
use crate::time::GoTime;

/// What a peer is in its cluster, or what its database is told to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Before the first evaluation, or nothing that can be trusted says more.
    #[default]
    Unknown,
    /// Takes writes.
    Primary,
    /// Has every acknowledged write; may take over.
    Sync,
    Async,
    /// Registered, and not in the state.
    Unassigned,
    /// Was the primary until another took over.
    Deposed,
    /// Of a database only: does not run.
    None,
}

impl Role {
    pub(super) const NAMES: [(Self, &str); 7] = [
        (Self::Unknown, "unknown"),
        (Self::Primary, "primary"),
        (Self::Sync, "sync"),
        (Self::Async, "async"),
        (Self::Unassigned, "unassigned"),
        (Self::Deposed, "deposed"),
        (Self::None, "none"),
    ];

    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(role, _)| *role == self).map_or("unknown", |(_, name)| name)
    }

    /// Whether the database of such a peer runs.
    pub fn runs(self) -> bool {
        matches!(self, Self::Primary | Self::Sync | Self::Async)
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Role {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What is no role is unknown, as the Go implementation reads it.
impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        Ok(Self::NAMES.iter().find(|(_, name)| *name == text).map_or(Self::Unknown, |(role, _)| *role))
    }
}

/// Body of `GET /status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub peer: Option<PeerInfo>,
    pub database: Option<DatabaseInfo>,
}

/// The state machine's part of a [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerInfo {
    pub id: PeerId,
    pub role: Role,
    /// When configuring the database failed last, while it is not as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_pending: Option<GoTime>,
    pub state: Option<ClusterState>,
    /// Who is registered, oldest first.
    #[serde(deserialize_with = "null_as_default")]
    pub peers: Vec<Instance>,
    /// What the peer waits for, in words. Ours: the Go implementation tells nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
}

/// The database's part of a [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatabaseInfo {
    pub config: Option<Config>,
    pub running: bool,
    /// The downstream, once it has everything.
    pub synced_downstream: Option<Instance>,
    /// Own log position.
    pub xlog: String,
    /// Whether the superuser `flynn` exists.
    pub user_exists: bool,
    /// Whether writes are accepted.
    pub read_write: bool,
}

/// What a database is told to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub role: Role,
    pub upstream: Option<Instance>,
    pub downstream: Option<Instance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunables: Option<Tunables>,
    pub state: Option<ClusterState>,
}
