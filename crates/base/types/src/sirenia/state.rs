//! The cluster state document.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::discoverd::{Instance, ServiceMeta};
use crate::host::{is_default, null_as_default};
use crate::time::GoTime;

/// Who does what in a cluster of database peers. The `data` of the service's metadata.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterState {
    /// From 1. Grows with every change of the primary or the sync.
    pub generation: u64,
    /// Stops every automatic change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze: Option<Freeze>,
    /// One peer that writes alone.
    #[serde(skip_serializing_if = "is_default")]
    pub singleton: bool,
    /// Log position of the primary when the generation was declared, as its database writes it.
    pub init_wal: String,
    pub primary: Option<Instance>,
    /// The only one that may take over.
    pub sync: Option<Instance>,
    /// A chain: the first replicates from the sync, each other one from the one before it.
    #[serde(rename = "async", deserialize_with = "null_as_default", serialize_with = "empty_as_null")]
    pub asyncs: Vec<Instance>,
    /// Former primaries, whose data may hold what no other peer has.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub deposed: Vec<Instance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunables: Option<Tunables>,
    /// What newer versions and other programs keep here.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl ClusterState {
    /// The state in a service's metadata. Nothing, `null`, and the generation 0 without a primary are none.
    ///
    /// # Errors
    /// When it is something else than a cluster state.
    pub fn from_meta(meta: &ServiceMeta) -> Result<Option<Self>, serde_json::Error> {
        let text = meta.data.as_ref().map_or("null", |data| data.get());
        let state: Option<Self> = serde_json::from_str(text)?;
        Ok(state.filter(|state| state.generation > 0 || state.primary.is_some()))
    }

    /// Everyone who is listed, in the order of roles.
    pub fn members(&self) -> impl Iterator<Item = &Instance> {
        self.primary.iter().chain(&self.sync).chain(&self.asyncs).chain(&self.deposed)
    }
}

fn empty_as_null<S: serde::Serializer>(list: &[Instance], serializer: S) -> Result<S::Ok, S::Error> {
    (!list.is_empty()).then_some(list).serialize(serializer)
}

/// Since when and why nothing changes by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Freeze {
    pub frozen_at: GoTime,
    pub reason: String,
}

/// Settings of the database that operators change while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tunables {
    #[serde(deserialize_with = "null_as_default")]
    pub data: BTreeMap<String, String>,
    /// Grows with every change.
    pub version: u64,
}
