//! Where others find this router: `router-api` and `router-http` in discoverd (spec router section 2.5).

use std::net::{IpAddr, SocketAddr};

use flynn_discoverd_client::{Client, Registration, own_instance};
use flynn_router::Serving;
use tracing::warn;

/// Registers the API, and the first HTTP port or, without one, the first HTTPS port. Heartbeats go on until the
/// registrations are withdrawn.
pub(super) fn register(client: &Client, serving: &Serving, vars: impl Fn(&str) -> Option<String>) -> Vec<Registration> {
    let ip: Option<IpAddr> = ["EXTERNAL_IP", "LISTEN_IP"].into_iter().find_map(|name| vars(name)?.parse().ok());
    let Some(ip) = ip else {
        warn!("neither EXTERNAL_IP nor LISTEN_IP says where this router is: it is not registered in discoverd");
        return Vec::new();
    };
    let services = [("router-api", serving.api_address()), ("router-http", serving.addresses().first().copied())];
    let registered = services.into_iter().filter_map(|(service, address)| {
        let address = SocketAddr::new(ip, address?.port()).to_string();
        Some(client.register(service, own_instance("http", &address, &vars)))
    });
    registered.collect()
}
