//! Which address others reach this host by, when nobody says.

use std::net::Ipv4Addr;

use anyhow::Context as _;

/// Kernel's table of IPv4 routes.
const ROUTES: &str = "/proc/net/route";

/// The first global unicast IPv4 address of the interface with the default route.
pub(super) fn detect() -> anyhow::Result<Ipv4Addr> {
    let routes = std::fs::read_to_string(ROUTES).with_context(|| format!("read {ROUTES}"))?;
    let interface = default_interface(&routes).context("there is no IPv4 default route: set --external-ip")?;
    let addresses = nix::ifaddrs::getifaddrs().context("list the addresses of this host")?;
    addresses
        .filter(|entry| entry.interface_name == interface)
        .filter_map(|entry| Some(entry.address?.as_sockaddr_in()?.ip()))
        .find(|ip| !ip.is_loopback() && !ip.is_link_local() && !ip.is_multicast() && !ip.is_unspecified())
        .with_context(|| format!("interface {interface} has no IPv4 address: set --external-ip"))
}

/// The interface of the route to 0.0.0.0/0 with the least metric.
fn default_interface(routes: &str) -> Option<&str> {
    let defaults = routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [interface, destination, _, _, _, _, metric, mask, ..] = fields[..] else { return None };
        (destination == "00000000" && mask == "00000000")
            .then(|| (metric.parse::<u32>().unwrap_or(u32::MAX), interface))
    });
    defaults.min_by_key(|(metric, _)| *metric).map(|(_, interface)| interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_with_the_least_metric_counts() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let text = format!(
            "{head}eth0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n\
             wlan0\t00000000\t0100000A\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
             eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
        );
        assert_eq!(default_interface(&text), Some("eth0"));
        assert_eq!(default_interface(head), None);
    }
}
