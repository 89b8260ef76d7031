//! What a job waits for, in words an app developer can act on.

use std::fmt;

use flynn_types::resource::{ResourceType, format_value};

/// Why a job that is wanted does not run yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its predecessors ended too quickly, the last one like this.
    BackOff {
        seconds: u64,
        ended: String,
    },
    NoHosts,
    /// `key=value`, all of which no host has together.
    NoTag(String),
    /// Bytes it asks for, and the most that a host with its tags has.
    Memory {
        needed: i64,
        largest: i64,
        host: String,
    },
    /// Hosts with its tags, each with why it takes no job.
    Closed(String),
    /// Its data is on a host that cannot run it.
    VolumeHost {
        volume: String,
        host: String,
        why: String,
    },
    /// Its data is in use.
    VolumeInUse {
        volume: String,
        job: String,
    },
    StartFailed {
        host: String,
        error: String,
    },
    Busy {
        host: String,
    },
    Requested {
        host: String,
    },
    /// Hosts that have not yet said to a new leader what they run.
    TakingOver(String),
    /// Each host gets one, and this host takes none now.
    OmniHost {
        host: String,
        why: String,
    },
}

impl Reason {
    /// Whether it takes a change elsewhere (a host, a tag, a volume), not only time.
    pub fn blocks(&self) -> bool {
        match self {
            Self::NoHosts
            | Self::NoTag(_)
            | Self::Memory { .. }
            | Self::Closed(_)
            | Self::VolumeHost { .. }
            | Self::VolumeInUse { .. }
            | Self::OmniHost { .. } => true,
            Self::BackOff { .. }
            | Self::StartFailed { .. }
            | Self::Busy { .. }
            | Self::Requested { .. }
            | Self::TakingOver(_) => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BackOff { seconds, ended } => {
                write!(f, "it ended too often in short time, the next start is {seconds} s later; last time: {ended}")
            }
            Self::NoHosts => f.write_str("the cluster has no host that runs jobs"),
            Self::NoTag(tags) => write!(f, "no host has tag {tags}"),
            Self::Memory { needed, largest, host } => {
                let size = |bytes| format_value(ResourceType::Memory, bytes);
                let (needed, largest) = (size(*needed), size(*largest));
                write!(f, "it requests {needed} of memory, and the largest host, {host}, has {largest}")
            }
            Self::Closed(hosts) => write!(f, "no host with its tags takes jobs: {hosts}"),
            Self::VolumeHost { volume, host, why } => {
                write!(
                    f,
                    "its volume {volume} is on {host}, which {why}; decommission the volume to start without its data"
                )
            }
            Self::VolumeInUse { volume, job } => write!(f, "its volume {volume} is in use until job {job} has ended"),
            Self::StartFailed { host, error } => write!(f, "{host} could not start it, trying again: {error}"),
            Self::Busy { host } => write!(f, "{host} is starting many jobs at once, trying again"),
            Self::Requested { host } => write!(f, "{host} was asked to start it"),
            Self::TakingOver(hosts) => {
                write!(f, "the scheduler has just taken over and hears what hosts run: {hosts}")
            }
            Self::OmniHost { host, why } => write!(f, "it belongs on {host}, which {why}"),
        }
    }
}
