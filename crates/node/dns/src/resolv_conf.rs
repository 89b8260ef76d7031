//! The host's resolvers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Where the host's resolvers are configured.
pub const PATH: &str = "/etc/resolv.conf";
/// Where systemd-resolved names the resolvers behind its own address on the loopback interface.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
const PORT: u16 = 53;

/// The name servers of `/etc/resolv.conf` without those at `own` addresses. When it names only systemd-resolved's stub,
/// those behind the stub. An unreadable file names none.
pub fn upstreams(own: &[IpAddr]) -> Vec<SocketAddr> {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let found = name_servers(&read(PATH), own);
    if found.iter().all(|address| address.ip().is_loopback()) {
        let behind = name_servers(&read(BEHIND_STUB), own);
        if !behind.is_empty() {
            return behind;
        }
    }
    found
}

/// The `nameserver` lines of a file in the format of resolv.conf(5), in order, each once. Lines that are none are
/// passed over. IPv6 zones are not supported.
pub fn name_servers(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(ip) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        let address = SocketAddr::new(ip, PORT);
        if !ip.is_unspecified() && !own.contains(&ip) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

#[derive(Debug, thiserror::Error)]
#[error("discoverd: unable to resolve recursor address {entry}: {err}")]
pub struct UnresolvableUpstream {
    pub entry: String,
    pub err: io::Error,
}

/// Upstreams as an operator names them: addresses or host names, with or without a port.
pub async fn resolve(entries: &[String]) -> Result<Vec<SocketAddr>, UnresolvableUpstream> {
    let mut found = Vec::new();
    for entry in entries.iter().map(|entry| entry.trim()).filter(|entry| !entry.is_empty()) {
        let error = |err| UnresolvableUpstream { entry: entry.to_owned(), err };
        let bare = entry.trim_start_matches('[').trim_end_matches(']');
        let address = if let Ok(ip) = bare.parse::<IpAddr>() {
            SocketAddr::new(ip, PORT)
        } else {
            let with_port = if entry.contains(':') { entry.to_owned() } else { format!("{entry}:{PORT}") };
            let mut addresses = tokio::net::lookup_host(with_port).await.map_err(error)?;
            addresses.next().ok_or_else(|| error(io::Error::from(io::ErrorKind::NotFound)))?
        };
        found.push(address);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_without_our_own_and_without_nonsense() {
        let text = "# generated\nsearch a b\nnameserver 10.0.0.1\n nameserver  10.0.0.2 # second\nnameserver\n\
                    nameserver nonsense\nnameserver 100.100.1.1\nnameserver 10.0.0.1\nnameserver ::1\nnameserver 0.0.0.0\n";
        let own = ["100.100.1.1".parse().unwrap()];
        let expected: Vec<SocketAddr> =
            ["10.0.0.1:53", "10.0.0.2:53", "[::1]:53"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(name_servers(text, &own), expected);
    }

    #[tokio::test]
    async fn upstreams_need_no_port() {
        let entries = ["127.0.0.1", "::1", "[::1]", "127.0.0.1:5353", " ", "[::1]:99"].map(str::to_owned);
        let resolved: Vec<String> = resolve(&entries).await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(resolved, ["127.0.0.1:53", "[::1]:53", "[::1]:53", "127.0.0.1:5353", "[::1]:99"]);
        let err = resolve(&["127.0.0.1:x".to_owned()]).await.unwrap_err();
        assert!(err.to_string().starts_with("discoverd: unable to resolve recursor address 127.0.0.1:x: "), "{err}");
    }
}
