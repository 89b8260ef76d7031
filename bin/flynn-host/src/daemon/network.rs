//! Bringing the network up, with DNS and discovery on the bridge, and keeping what must be remembered of it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flynn_discoverd::Discoverd;
use flynn_dns::{DnsConfig, DnsServer, resolv_conf};
use flynn_host::Host;
use flynn_http::Backoff;
use flynn_network::{Lease, Network};
use flynn_types::host::{DiscoverdConfig, NetworkConfig};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::discovery::{Registrations, RegistryDirectory};
use super::leases::DiscoverdLeases;
use super::setup::{DISCOVERD_PORT, Setup};
use super::sockets;

const DNS_PORT: u16 = 53;
/// How often the host's own resolvers are looked at.
const RESOLVERS_INTERVAL: Duration = Duration::from_secs(5);

/// What a node has once its network is up.
pub(super) struct Up {
    pub(super) network: Arc<Network>,
    dns: DnsServer,
}

impl Up {
    pub(super) async fn end(self) {
        tokio::join!(self.network.shutdown(), self.dns.shutdown());
    }
}

/// What the network is brought up with.
#[derive(Clone)]
pub(super) struct BringUp {
    pub(super) setup: Arc<Setup>,
    pub(super) host: Arc<Host>,
    pub(super) discoverd: Discoverd,
    pub(super) leases: Arc<DiscoverdLeases>,
    pub(super) registrations: Arc<Mutex<Registrations>>,
    pub(super) slot: watch::Sender<Option<Arc<Network>>>,
    pub(super) discoverd_url: watch::Sender<Option<String>>,
    pub(super) stop: CancellationToken,
}

impl BringUp {
    /// Tries until it is up or the node ends.
    pub(super) async fn run(self, remembered: Option<Lease>) -> Option<Up> {
        let mut pause = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let stop = self.stop.clone();
        let attempts = async {
            loop {
                match self.attempt(remembered.clone()).await {
                    Ok(up) => return up,
                    Err(err) => warn!(err = %format!("{err:#}"), "the network cannot be brought up yet"),
                }
                tokio::time::sleep(pause.pause()).await;
            }
        };
        stop.run_until_cancelled(attempts).await
    }

    async fn attempt(&self, remembered: Option<Lease>) -> anyhow::Result<Up> {
        let config = self.setup.network_config();
        let status_port = config.status_port;
        let network = Arc::new(Network::start(config, Arc::clone(&self.leases) as _, remembered).await?);
        for (job, ip) in self.host.job_addresses() {
            network.reserve(&job, ip);
        }
        self.remember(&network);
        let gateway = network.gateway();
        let own = [IpAddr::V4(gateway)];
        let config = DnsConfig {
            listen: vec![SocketAddr::from((gateway, DNS_PORT))],
            upstreams: resolv_conf::upstreams(&own),
            ..DnsConfig::default()
        };
        let dns = DnsServer::start(config, Arc::new(RegistryDirectory(self.discoverd.registry())))?;
        if self.setup.listen_ip.is_some() {
            let listener = sockets::listen((gateway, DISCOVERD_PORT).into())?;
            self.discoverd.listen(tokio::net::TcpListener::from_std(listener)?);
        }
        let overlay = sockets::listen(([0, 0, 0, 0], status_port).into())?;
        let status = network.serve_status(tokio::net::TcpListener::from_std(overlay)?, self.stop.clone());
        tokio::spawn(async move {
            if let Err(err) = status.await {
                warn!(%err, "the overlay's status server ended");
            }
        });
        write_resolv_conf(&self.setup.options.resolv_conf, gateway)?;
        let subnet = network.subnet();
        self.host.set_network(NetworkConfig {
            job_id: String::new(),
            subnet: format!("{gateway}/{}", subnet.prefix_len()),
            mtu: network.mtu(),
            resolvers: Some(dns.upstreams().iter().map(ToString::to_string).collect()),
        });
        let url = format!("http://{gateway}:{DISCOVERD_PORT}");
        self.host.set_discoverd(DiscoverdConfig {
            job_id: String::new(),
            url: url.clone(),
            dns: format!("{gateway}:{DNS_PORT}"),
        });
        self.registrations.lock().await.network_is_up(&self.setup, status_port);
        info!(%subnet, %gateway, mtu = network.mtu(), "the network is up");
        self.slot.send_replace(Some(Arc::clone(&network)));
        self.discoverd_url.send_replace(Some(url));
        Ok(Up { network, dns })
    }

    /// Writes down every lease of the network, so that the next start needs nobody.
    fn remember(&self, network: &Network) {
        let (mut lease, path) = (network.lease(), lease_file(&self.setup));
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(async move {
            loop {
                let current = lease.borrow_and_update().clone();
                if let Some(current) = current {
                    let path = path.clone();
                    let written = tokio::task::spawn_blocking(move || write_lease(&path, &current)).await;
                    if let Ok(Err(err)) = written {
                        warn!(%err, "the network lease cannot be written down, trying again");
                        tokio::time::sleep(Duration::from_secs(5)).await;
                        lease.mark_changed();
                    }
                }
                if lease.changed().await.is_err() {
                    return;
                }
            }
        }));
    }
}

/// Follows the host's resolvers for as long as the node lives.
pub(super) async fn follow_resolvers(up: Arc<Mutex<Option<Up>>>) {
    let mut last = None;
    loop {
        {
            let up = up.lock().await;
            let Some(up) = up.as_ref() else { return };
            let gateway = up.network.gateway();
            let found = resolv_conf::upstreams(&[IpAddr::V4(gateway)]);
            if last.as_ref() != Some(&found) {
                up.dns.set_upstreams(found.clone());
                last = Some(found);
            }
        }
        tokio::time::sleep(RESOLVERS_INTERVAL).await;
    }
}

fn lease_file(setup: &Setup) -> PathBuf {
    setup.state_dir.join("network-lease.json")
}

/// The lease of the last run. An unreadable one counts as none: the cluster still knows it.
pub(super) fn remembered_lease(setup: &Setup) -> Option<Lease> {
    let path = lease_file(setup);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return None,
        Err(err) => {
            warn!(path = %path.display(), %err, "the remembered network lease cannot be read");
            return None;
        }
    };
    serde_json::from_slice(&text)
        .map_err(|err| warn!(path = %path.display(), %err, "the remembered network lease is damaged"))
        .ok()
}

fn write_lease(path: &Path, lease: &Lease) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(lease)?;
    if std::fs::read(path).is_ok_and(|current| current == text) {
        return Ok(());
    }
    replace_file(path, &text)
}

/// Replaces a file as a whole: after a power cut it is the old one or the new one.
fn replace_file(path: &Path, text: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = std::fs::File::create(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    std::fs::File::open(folder)?.sync_all()
}

/// What containers see as `/etc/resolv.conf`: the host's search list, and this node as the only server. Written in place
/// when it is there already, as running containers have the file itself mounted.
fn write_resolv_conf(path: &Path, gateway: std::net::Ipv4Addr) -> io::Result<()> {
    let host = std::fs::read_to_string(resolv_conf::PATH).unwrap_or_default();
    let search = host.lines().rev().find_map(|line| line.strip_prefix("search ")).map(str::trim);
    let search = search.map_or_else(String::new, |domains| format!("search {domains}\n"));
    let text = format!("{search}nameserver {gateway}\n");
    if std::fs::read_to_string(path).is_ok_and(|current| current == text) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text)
}
