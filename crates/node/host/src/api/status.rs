//! Status, tags, drain state, configuration posts and the port check.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use flynn_http::{Failure, Json};
use flynn_types::error::ApiError;
use flynn_types::host::{DiscoverdConfig, DrainRequest, HostStatus, NetworkConfig, Port, ResourceCheck};
use serde_json::json;

use super::error::failure;
use crate::host::Host;

pub(super) async fn get(State(host): State<Arc<Host>>) -> Answer<HostStatus> {
    Answer(host.status())
}

/// Discovery is part of the daemon; the post of an outside discoverd is noted when it fits, and refused when not.
pub(super) async fn configure_discoverd(State(host): State<Arc<Host>>, Json(config): Json<DiscoverdConfig>) -> Result<(), Failure> {
    if config.url.is_empty() {
        return Err(ApiError::validation("url", "must be set").into());
    }
    match host.status().discoverd {
        Some(own) if own.url == config.url => Ok(()),
        _ => Err(ApiError::conflict("discovery is part of this daemon and cannot be configured from outside").into()),
    }
}

/// As with discovery.
pub(super) async fn configure_network(State(host): State<Arc<Host>>, Json(config): Json<NetworkConfig>) -> Result<(), Failure> {
    let valid = config.subnet.split_once('/').is_some_and(|(ip, len)| {
        ip.parse::<Ipv4Addr>().is_ok() && len.parse::<u8>().is_ok_and(|len| len <= 30)
    });
    if !valid {
        return Err(ApiError::validation("subnet", "must be an IPv4 address with prefix length, such as 100.100.3.1/24").into());
    }
    match host.status().network {
        Some(own) if own.subnet == config.subnet => Ok(()),
        _ => Err(ApiError::conflict("the network is part of this daemon and cannot be configured from outside").into()),
    }
}

/// Sets the given tags; an empty value deletes one; others stay.
pub(super) async fn set_tags(State(host): State<Arc<Host>>, Json(tags): Json<BTreeMap<String, String>>) -> Result<(), Failure> {
    if tags.keys().any(String::is_empty) {
        return Err(ApiError::validation("tags", "must have names").into());
    }
    host.change_settings(|settings| {
        for (key, value) in tags {
            if value.is_empty() {
                settings.tags.remove(&key);
                settings.removed_tags.insert(key);
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
pub(super) async fn drain(State(host): State<Arc<Host>>, body: axum::body::Bytes) -> Result<Answer<HostStatus>, Failure> {
    let request: DrainRequest =
        if body.is_empty() { DrainRequest::default() } else { serde_json::from_slice(&body).map_err(|_| ApiError::syntax())? };
    host.change_settings(|settings| (settings.draining, settings.drain_reason) = (true, request.reason)).await.map_err(failure)?;
    Ok(Answer(host.status()))
}

pub(super) async fn undrain(State(host): State<Arc<Host>>) -> Result<Answer<HostStatus>, Failure> {
    host.change_settings(|settings| (settings.draining, settings.drain_reason) = (false, String::new())).await.map_err(failure)?;
    Ok(Answer(host.status()))
}

/// Tries to listen on each port on all addresses.
pub(super) async fn check_resources(Json(check): Json<ResourceCheck>) -> Result<Answer<serde_json::Value>, Failure> {
    let mut taken = Vec::new();
    for mut port in check.ports {
        if port.proto.is_empty() {
            port.proto = "tcp".into();
        }
        let free = match port.proto.as_str() {
            "tcp" => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port.port)).is_ok(),
            "udp" => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port.port)).is_ok(),
            other => return Err(ApiError::validation("ports", &format!("have the unknown proto {other:?}")).into()),
        };
        if !free {
            taken.push(Port { service: None, ..port });
        }
    }
    if taken.is_empty() {
        return Ok(Answer(json!({})));
    }
    Err(ApiError::conflict("Conflicting resources found").with_detail(json!({ "ports": taken })).into())
}
