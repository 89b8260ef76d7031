//! Objects of the database appliances' high availability: the cluster state that a service's metadata holds, and the
//! peers' HTTP API (spec appliances sections 2 and 4).

mod state;
mod status;
#[cfg(test)]
mod tests;

pub use state::{ClusterState, Freeze, Tunables};
pub use status::{Config, DatabaseInfo, PeerInfo, Role, Status};

use serde::{Deserialize, Serialize};

use crate::discoverd::Instance;

/// Names a peer: the UUID on its volume. Jobs and addresses come and go, the volume's data is what counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PeerId(pub String);

impl std::fmt::Display for PeerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The member of an instance's metadata that holds its [`PeerId`], for example `POSTGRES_ID`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdKey(pub String);

impl IdKey {
    /// The key that the peers of a process type publish; `None` for what is no replicated database.
    pub fn of_process_type(process_type: &str) -> Option<Self> {
        let key = match process_type {
            "postgres" => "POSTGRES_ID",
            "mariadb" => "MARIADB_ID",
            "mongodb" => "MONGODB_ID",
            _ => return None,
        };
        Some(Self(key.to_owned()))
    }

    /// Who the instance is. One that does not say is nobody but itself: its address is its name.
    pub fn peer(&self, instance: &Instance) -> PeerId {
        // MariaDB's processes of the Go implementation looked for this one.
        let older = (self.0 == "MARIADB_ID").then(|| instance.meta.get("MYSQL_ID")).flatten();
        PeerId(instance.meta.get(&self.0).or(older).unwrap_or(&instance.id).clone())
    }

    /// Whether both are the same peer, at whatever address.
    pub fn same(&self, one: &Instance, other: &Instance) -> bool {
        self.peer(one) == self.peer(other)
    }
}
