//! The daemon's settings, checked and completed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use flynn_network::Ipv4Net;
use flynn_types::id::HostId;
use flynn_volume::ProviderChoice;

use super::external_ip;
use super::options::{self, Options, Partition};

/// Port of discoverd (DESIGN section 7).
pub(super) const DISCOVERD_PORT: u16 = 1111;

/// What the daemon runs with.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) options: Options,
    /// The command line after `daemon`, for status and replacement.
    pub(super) arguments: Vec<String>,
    pub(super) id: HostId,
    pub(super) external_ip: Ipv4Addr,
    pub(super) listen_ip: Option<IpAddr>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) partitions: Vec<Partition>,
    pub(super) job_concurrency: usize,
    pub(super) peers: Vec<IpAddr>,
    pub(super) network: Ipv4Net,
    pub(super) provider: ProviderChoice,
    /// Folder of the state file; holds what else this daemon remembers.
    pub(super) state_dir: PathBuf,
    /// Of run directories, sockets and mount points; gone after a reboot on most systems, which is fine.
    pub(super) run_root: PathBuf,
    pub(super) log_file: PathBuf,
    pub(super) auth_key: Option<String>,
}

impl Setup {
    pub(super) fn new(options: Options, arguments: Vec<String>) -> anyhow::Result<Self> {
        let id = match &options.id {
            Some(id) => id.clone(),
            None => hostname()?.replace('-', ""),
        };
        ensure!(!id.contains('-'), "host id must not contain dashes");
        let id: HostId = id.parse().with_context(|| format!("invalid host id {id:?}"))?;
        let external_ip = match options.external_ip {
            Some(ip) => ip,
            None => external_ip::detect().context("no --external-ip was given and none was found")?,
        };
        let listen_ip = match options.listen_ip.as_str() {
            "" | "0.0.0.0" => None,
            text => Some(text.parse().with_context(|| format!("invalid --listen-ip {text:?}"))?),
        };
        if options.backend != "libcontainer" {
            bail!("unknown backend {:?}", options.backend);
        }
        let provider = match options.vol_provider.as_deref() {
            None | Some("") => ProviderChoice::Auto,
            Some("zfs") => ProviderChoice::Zfs,
            Some("dir") => ProviderChoice::Dir,
            Some(other) => bail!("unknown volume provider: {other:?}"),
        };
        let network =
            options.network.parse().map_err(|err| anyhow::anyhow!("invalid --network {:?}: {err}", options.network))?;
        let state_dir = options.state.parent().map_or_else(|| PathBuf::from("."), PathBuf::from);
        let log_file = options.log_file.clone().unwrap_or_else(|| options.log_dir.join("flynn-host.log"));
        let key = options.auth_key.clone().or_else(|| std::env::var("FLYNN_HOST_AUTH_KEY").ok());
        Ok(Self {
            tags: options::tags(&options.tags),
            partitions: options::partitions(&options.partitions)?,
            job_concurrency: options::job_concurrency(&options.max_job_concurrency),
            peers: options::peer_ips(&options.peer_ips)?,
            auth_key: key.filter(|key| !key.is_empty()),
            run_root: state_dir.clone(),
            arguments,
            id,
            external_ip,
            listen_ip,
            network,
            provider,
            state_dir,
            log_file,
            options,
        })
    }

    /// Where this daemon reaches its own servers.
    pub(super) fn own_ip(&self) -> IpAddr {
        self.listen_ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// Settings of the network crate.
    pub(super) fn network_config(&self) -> flynn_network::Config {
        flynn_network::Config {
            bridge_name: self.options.bridge_name.clone(),
            network: self.network,
            pins_dir: self.run_root.join("container"),
            ..flynn_network::Config::new(self.id.clone(), self.external_ip)
        }
    }
}

fn hostname() -> anyhow::Result<String> {
    let name = rustix::system::uname();
    name.nodename().to_str().map(str::to_owned).context("the host name is not text: set --id")
}
