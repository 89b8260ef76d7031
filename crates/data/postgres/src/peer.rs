//! A whole peer: its volume, its server, its part in the cluster, its HTTP API.

use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use flynn_discoverd_client::{Client, DiscoverdError};
use flynn_http::ServerOptions;
use flynn_sirenia::driver::PeerFailed;
use flynn_sirenia::{Me, Peer, Service, State, Volume, VolumeError, VolumeFiles, World, api};
use flynn_types::discoverd::Instance;
use flynn_types::sirenia::IdKey;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::database::{Postgres, Settings};
use crate::error::PostgresError;
use crate::lsn::At;
use crate::tunables;

/// Where instances name their peer.
const ID_KEY: &str = "POSTGRES_ID";

/// Longest time for the end: of the server, and of the registration.
const LEAVE_LIMIT: Duration = Duration::from_secs(75);

/// How a peer is set up.
pub struct PeerConfig {
    pub settings: Settings,
    /// Of the peers in discoverd.
    pub service: String,
    /// One peer that writes alone.
    pub singleton: bool,
    pub discovery: Client,
    /// The server as others find it; the peer's identity is added.
    pub instance: Instance,
    /// Of the program, for the health check.
    pub version: String,
}

/// Why a peer ended that nobody stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Database(#[from] PostgresError),
    #[error("register in discoverd")]
    Discovery(#[from] DiscoverdError),
    #[error("serve the peer's API")]
    Serve(#[from] io::Error),
    #[error(transparent)]
    Peer(#[from] PeerFailed),
    #[error("the server ended by itself, with {0}: its log says why")]
    Crashed(ExitStatus),
}

/// Runs a peer until `shutdown` is cancelled, it must not run, or its server crashes. The server is stopped then, and
/// the registration withdrawn.
///
/// # Errors
/// What must be repaired, or tried again by a new process.
pub async fn run(config: PeerConfig, listener: TcpListener, shutdown: CancellationToken) -> Result<(), RunError> {
    std::fs::create_dir_all(&config.settings.volume)?;
    let files = VolumeFiles::open(&config.settings.volume).await?;
    let key = IdKey(ID_KEY.to_owned());
    let database = Arc::new(Postgres::open(config.settings, files.id().clone(), key.clone()).await?);
    if !config.singleton {
        database.has_space()?; // before anybody counts on this peer
    }
    let mut instance = config.instance;
    instance.meta.insert(ID_KEY.to_owned(), files.id().0.clone());
    info!(id = %files.id(), address = instance.addr, service = config.service, "starting a peer");
    let service = Arc::new(Service::join(&config.discovery, &config.service, instance).await?);
    let me = Me { id: files.id().clone(), key: key.clone(), singleton: config.singleton };
    let volume = Volume { generation: files.generation(), has_data: database.has_data() };
    let world = World::<At> { discovery: service.clone(), database: database.clone(), memory: Arc::new(files) };
    let mut peer = Peer::start(State::new(me, volume), service.views(), world);
    let handle = peer.handle();
    let api = api::Api {
        peer: handle.clone(),
        database: database.clone(),
        key,
        version: config.version,
        default_tunables: tunables::defaults(),
    };
    let stop_serving = CancellationToken::new();
    let serving = flynn_http::serve(listener, api::router(api), stop_serving.clone(), ServerOptions::default());
    let life = async {
        let ended = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            status = database.crashed() => Err(RunError::Crashed(status)),
            failed = failed(&mut peer) => Err(failed.into()),
            failed = database.attend() => Err(failed.into()),
        };
        if let Err(err) = &ended {
            error!(err = err as &dyn std::error::Error, "the peer leaves its cluster");
        }
        if tokio::time::timeout(LEAVE_LIMIT, handle.stop()).await.is_err() {
            error!(limit_s = LEAVE_LIMIT.as_secs(), "the peer could not leave in time: its registration will expire");
        }
        stop_serving.cancel();
        ended
    };
    let (served, ended) = tokio::join!(serving, life);
    ended.and(served.map_err(RunError::from))
}

/// Why the peer ended. One that was stopped over its API goes on serving it.
async fn failed(peer: &mut Peer) -> PeerFailed {
    match peer.ended().await {
        Ok(()) => std::future::pending().await,
        Err(failed) => failed,
    }
}
