//! Why a database is not what it was told to be.

use std::io;

use flynn_types::sirenia::PeerId;

use crate::folder::FolderError;
use crate::lsn::{At, InvalidLsn};
use crate::programs::ProgramError;
use crate::server::ServerError;
use crate::sql::SqlError;

/// Why a database is not what it was told to be. Shown to operators in the peer's status.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error("missing downstream peer")]
    MissingDownstream,
    #[error("missing upstream peer")]
    MissingUpstream,
    #[error("the upstream's address {0:?} has no host and port")]
    Address(String),
    #[error("the cluster state is missing from the configuration")]
    NoState,
    #[error("the log position where the generation begins is malformed")]
    InitialPosition(#[from] InvalidLsn),
    #[error("the log ends at {own}, but the generation begins at {needed}: another peer must lead")]
    Behind { own: At, needed: At },
    #[error(
        "the volume has lost its database, which had the cluster's data: bring the volume back from a backup, or remove it \
         to copy the data of another peer"
    )]
    DatabaseLost,
    #[error("this peer leads a cluster that has data, but its volume is empty: bring the volume with the data back")]
    EmptyVolume,
    #[error(
        "the volume has only {free_mb} MB left, a peer needs {needed_mb} MB: make it larger, or remove what is not of the \
         database"
    )]
    Full { free_mb: u64, needed_mb: u64 },
    #[error("change the volume's files")]
    Files(#[from] io::Error),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("ask the own server")]
    Sql(#[from] SqlError),
    #[error("the server does not take its new settings: its log says why")]
    Settings,
    #[error("upstream is offline: {id} cannot be asked")]
    UpstreamOffline {
        id: PeerId,
        #[source]
        err: SqlError,
    },
    #[error("at the upstream's address is {found:?} instead of {wanted}")]
    Stranger { wanted: PeerId, found: String },
    #[error("{0}")]
    Upstream(String),
    #[error("the server does not end its recovery: its log says why")]
    NotPromoted,
    #[error("the server is no primary")]
    NoPrimary,
    #[error("the server still acknowledges commits alone, although it was told not to")]
    NotSilent,
}
