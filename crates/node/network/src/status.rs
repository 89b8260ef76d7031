//! What operators and the other hosts see: status as an object, and `/ping` and `/.well-known/status` over HTTP (spec
//! discoverd-and-network 13.5).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use flynn_http::ServerOptions;
use flynn_types::id::HostId;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::lease::Peer;
use crate::network::Shared;
use crate::{Ipv4Net, Network};

/// Hosts asked at once, and the time each has (spec 13.5).
const PROBES: usize = 5;
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The network's condition, for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    pub subnet: Ipv4Net,
    pub network: Ipv4Net,
    pub gateway: Ipv4Addr,
    pub external_ip: Ipv4Addr,
    pub bridge: String,
    pub mtu: u32,
    pub addresses_used: usize,
    pub addresses_total: usize,
    /// The other hosts; absent until the cluster's document was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<PeerStatus>>,
    /// Address of another daemon that uses this host's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_id_used_by: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_error: Option<String>,
    /// Chains of other programs' firewalls that may drop containers' packets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub foreign_drops: Vec<String>,
    /// Times that something had to be put right since the start.
    pub repairs: u64,
}

/// Another host with a subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_id: Option<HostId>,
    pub subnet: Ipv4Net,
    pub external_ip: Ipv4Addr,
}

impl Network {
    pub fn status(&self) -> Status {
        let (config, state) = (&self.shared.config, self.shared.state());
        let owner =
            |subnet| state.leases.iter().find(|(other, _)| *other == subnet).and_then(|(_, entry)| entry.host_id);
        let peer =
            |peer: &Peer| PeerStatus { host_id: owner(peer.subnet), subnet: peer.subnet, external_ip: peer.public_ip };
        Status {
            subnet: state.pool.subnet(),
            network: state.lease.network,
            gateway: state.lease.gateway(),
            external_ip: config.external_ip,
            bridge: config.bridge_name.clone(),
            mtu: state.mtu,
            addresses_used: state.pool.used(),
            addresses_total: state.pool.capacity(),
            peers: state.peers.as_ref().map(|peers| peers.iter().map(peer).collect()),
            host_id_used_by: state.conflict,
            lease_error: state.store_error.clone(),
            kernel_error: state.kernel_error.clone(),
            foreign_drops: state.foreign_drops.clone(),
            repairs: state.repairs,
        }
    }

    /// Serves `/ping` and `/.well-known/status` until `stop` is cancelled. The other hosts ask at the overlay's address
    /// of this host (the subnet's base), so the listener must cover it: bind `0.0.0.0` with the configured port.
    pub fn serve_status(
        &self,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let router = axum::Router::new()
            .route("/ping", any(|| async { StatusCode::OK }))
            .route("/.well-known/status", get(well_known_status))
            .with_state(Arc::clone(&self.shared));
        flynn_http::serve(listener, router, stop, ServerOptions::default())
    }
}

/// Healthy if alone or if any other host can be reached through the overlay.
async fn well_known_status(State(shared): State<Arc<Shared>>) -> Response {
    let peers = shared.state().peers.clone().unwrap_or_default();
    let alone = peers.is_empty();
    let answers = stream::iter(peers).map(answers_ping).buffer_unordered(PROBES);
    let healthy = alone || answers.any(|answer| async move { answer }).await;
    let (code, status) =
        if healthy { (StatusCode::OK, "healthy") } else { (StatusCode::INTERNAL_SERVER_ERROR, "unhealthy") };
    let version = env!("CARGO_PKG_VERSION");
    let body = serde_json::json!({"data": {"status": status, "version": version}});
    (code, [(header::CONTENT_TYPE, "application/json")], format!("{body:#}\n")).into_response()
}

async fn answers_ping(peer: Peer) -> bool {
    let address = SocketAddr::from((peer.subnet.address(), peer.status_port));
    let ping = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /ping HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut status_line = [0; 12]; // `HTTP/1.1 200`
        stream.read_exact(&mut status_line).await?;
        io::Result::Ok(status_line.starts_with(b"HTTP/1.") && status_line.ends_with(b" 200"))
    };
    matches!(tokio::time::timeout(PROBE_TIMEOUT, ping).await, Ok(Ok(true)))
}
