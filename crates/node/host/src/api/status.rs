//! Status, tags, drain state, configuration posts and the port check.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use flynn_http::{Failure, Json};
use flynn_types::error::ApiError;
use flynn_types::host::{DiscoverdConfig, DrainRequest, HostStatus, NetworkConfig, Port, ResourceCheck};
use serde_json::json;

use super::error::failure;
use crate::host::Host;

/// They travel with every heartbeat's registration.
const MAX_TAGS: usize = 256;

pub(super) async fn get(State(host): State<Arc<Host>>) -> Answer<HostStatus> {
    Answer(host.status())
}

/// Discovery is part of the daemon; the post of an outside discoverd is noted when it fits, and refused when not.
pub(super) async fn configure_discoverd(
    State(host): State<Arc<Host>>,
    Json(config): Json<DiscoverdConfig>,
) -> Result<(), Failure> {
    if config.url.is_empty() {
        return Err(ApiError::validation("url", "must be set").into());
    }
    match host.status().discoverd {
        Some(own) if own.url == config.url => Ok(()),
        _ => Err(ApiError::conflict("discovery is part of this daemon and cannot be configured from outside").into()),
    }
}

/// As with discovery.
pub(super) async fn configure_network(
    State(host): State<Arc<Host>>,
    Json(config): Json<NetworkConfig>,
) -> Result<(), Failure> {
    let valid = config
        .subnet
        .split_once('/')
        .is_some_and(|(ip, len)| ip.parse::<Ipv4Addr>().is_ok() && len.parse::<u8>().is_ok_and(|len| len <= 30));
    if !valid {
        return Err(ApiError::validation(
            "subnet",
            "must be an IPv4 address with prefix length, such as 100.100.3.1/24",
        )
        .into());
    }
    match host.status().network {
        Some(own) if own.subnet == config.subnet => Ok(()),
        _ => Err(ApiError::conflict("the network is part of this daemon and cannot be configured from outside").into()),
    }
}

/// Sets the given tags; an empty value deletes one; others stay.
pub(super) async fn set_tags(
    State(host): State<Arc<Host>>,
    Json(tags): Json<BTreeMap<String, String>>,
) -> Result<(), Failure> {
    if tags.keys().any(String::is_empty) {
        return Err(ApiError::validation("tags", "must have names").into());
    }
    let set = tags.values().filter(|value| !value.is_empty()).count();
    if set + host.status().tags.len() > MAX_TAGS {
        return Err(ApiError::validation("tags", &format!("are more than the {MAX_TAGS} that a host can have")).into());
    }
    let configured = host.configured_tags();
    host.change_settings(|settings| {
        for (key, value) in tags {
            if value.is_empty() {
                settings.tags.remove(&key);
                if configured.contains_key(&key) {
                    settings.removed_tags.insert(key);
                }
            } else {
                settings.removed_tags.remove(&key);
                settings.tags.insert(key, value);
            }
        }
    })
    .await
    .map_err(failure)
}

/// The body may be absent.
pub(super) async fn drain(
    State(host): State<Arc<Host>>,
    body: axum::body::Bytes,
) -> Result<Answer<HostStatus>, Failure> {
    let request: DrainRequest = if body.is_empty() {
        DrainRequest::default()
    } else {
        serde_json::from_slice(&body).map_err(|_| ApiError::syntax())?
    };
    host.change_settings(|settings| (settings.draining, settings.drain_reason) = (true, request.reason))
        .await
        .map_err(failure)?;
    Ok(Answer(host.status()))
}

pub(super) async fn undrain(State(host): State<Arc<Host>>) -> Result<Answer<HostStatus>, Failure> {
    host.change_settings(|settings| (settings.draining, settings.drain_reason) = (false, String::new()))
        .await
        .map_err(failure)?;
    Ok(Answer(host.status()))
}

/// TCP and UDP have so many.
const MAX_CHECKED_PORTS: usize = 2 << 16;

fn taken_ports(ports: Vec<Port>) -> Result<Vec<Port>, ApiError> {
    let mut taken = Vec::new();
    for mut port in ports {
        if port.proto.is_empty() {
            port.proto = "tcp".into();
        }
        let bind: fn(SocketAddr) -> io::Result<()> = match port.proto.as_str() {
            "tcp" => |address| TcpListener::bind(address).map(drop),
            "udp" => |address| UdpSocket::bind(address).map(drop),
            other => return Err(ApiError::validation("ports", &format!("have the unknown proto {other:?}"))),
        };
        let free = match bind((Ipv6Addr::UNSPECIFIED, port.port).into()) {
            // A machine without IPv6.
            Err(err) if err.kind() != io::ErrorKind::AddrInUse => {
                bind((Ipv4Addr::UNSPECIFIED, port.port).into()).is_ok()
            }
            bound => bound.is_ok(),
        };
        if !free {
            taken.push(Port { service: None, ..port });
        }
    }
    Ok(taken)
}

/// Tries to listen on each port on all addresses.
pub(super) async fn check_resources(Json(check): Json<ResourceCheck>) -> Result<Answer<serde_json::Value>, Failure> {
    if check.ports.len() > MAX_CHECKED_PORTS {
        return Err(ApiError::validation("ports", &format!("are more than {MAX_CHECKED_PORTS}")).into());
    }
    let checked = tokio::task::spawn_blocking(move || taken_ports(check.ports)).await;
    let taken = checked.map_err(|err| ApiError::internal(err.to_string()))??;
    if taken.is_empty() {
        return Ok(Answer(json!({})));
    }
    Err(ApiError::conflict("Conflicting resources found").with_detail(json!({ "ports": taken })).into())
}
