//! What the Raft log carries, and what applying it answers.

use flynn_types::discoverd::{Instance, LeaderType};
use serde::{Deserialize, Serialize};

/// A change of the replicated state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Command {
    AddService {
        service: String,
        leader_type: LeaderType,
    },
    RemoveService {
        service: String,
    },
    /// `data` is compact JSON text; `index` is the compare-and-set token (0: must not exist yet).
    SetMeta {
        service: String,
        data: String,
        index: u64,
        leader_id: Option<String>,
    },
    SetLeader {
        service: String,
        id: String,
    },
    AddInstance {
        service: String,
        instance: Instance,
    },
    RemoveInstance {
        service: String,
        id: String,
    },
    Expire {
        instances: Vec<Expiry>,
    },
    /// Gives the cluster the name by which its nodes tell it from another one; only the first one counts.
    Found {
        cluster: String,
    },
    /// Remembers that an operator promoted or demoted a host; `None` forgets it.
    Pin {
        host: String,
        pin: Option<Pin>,
    },
}

impl Command {
    /// Whether doing it twice is as good as once.
    pub(crate) fn is_idempotent(&self) -> bool {
        match self {
            Self::AddInstance { .. }
            | Self::RemoveInstance { .. }
            | Self::SetLeader { .. }
            | Self::Expire { .. }
            | Self::Found { .. }
            | Self::Pin { .. } => true,
            Self::AddService { .. } | Self::RemoveService { .. } | Self::SetMeta { .. } => false,
        }
    }
}

/// One registration to drop, if it is still the one that the leader saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Expiry {
    pub service: String,
    pub id: String,
    /// Registration epoch: log index of the last command that added or refreshed the instance.
    pub epoch: u64,
}

/// An operator's word about a host's part in the quorum; it outranks the automatic choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Pin {
    Voter,
    Learner,
}

/// What an applied command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Applied {
    /// Nothing to tell.
    Done,
    /// The document has this index now.
    Meta { index: u64 },
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("discoverd: service \"{0}\" already exists")]
    ServiceExists(String),
    #[error("discoverd: service \"{0}\" not found")]
    ServiceMissing(String),
    #[error("Service metadata for \"{0}\" already exists, use index=n to set")]
    MetaExists(String),
    #[error("Service metadata for \"{0}\" does not exist, use index=0 to set")]
    MetaMissing(String),
    #[error("Service metadata for \"{0}\" exists, but wrong index provided")]
    MetaWrongIndex(String),
    #[error("service leader election type is not manual")]
    NotManual,
}

/// The answer of the state machine to one log entry.
pub(crate) type Reply = Result<Applied, Refusal>;
