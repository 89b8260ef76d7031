//! `flynn-host fix` (spec flynn-host section 14).

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use flynn_discoverd_client::Client as Discoverd;
use flynn_repair::{Cluster, Fix as Options};

use super::cluster::warn;
use super::{Outcome, cluster};

/// Start database, controller and scheduler again when they do not run; clusters do so by themselves after a while
#[derive(Args)]
pub(super) struct Fix {
    /// Hosts that must be there
    #[arg(short = 'n', long, value_name = "MIN")]
    min_hosts: Option<String>,
    /// Addresses of hosts, separated by commas, any of which can tell the others [default: DISCOVERD, else this host]
    #[arg(long, value_name = "IPLIST", value_delimiter = ',')]
    peer_ips: Vec<String>,
    /// Only say what would be started
    #[arg(long)]
    dry_run: bool,
}

impl Fix {
    pub(super) async fn run(self) -> Outcome {
        let min_hosts = self.min_hosts.as_deref().and_then(|text| text.parse().ok()).filter(|number| *number > 0);
        let Some(min_hosts) = min_hosts else { bail!("invalid or missing --min-hosts value") };
        let this = cluster::Cluster::connect()?;
        let peers: Vec<_> = self.peer_ips.iter().map(|ip| ip.trim()).filter(|ip| !ip.is_empty()).collect();
        let discoverd = if peers.is_empty() {
            this.discoverd.clone()
        } else {
            let servers: Vec<_> = peers.iter().map(|ip| format!("http://{ip}:1111")).collect();
            Discoverd::from_list(&servers.join(",")).context("invalid --peer-ips value")?
        };
        let cluster = Cluster::new(discoverd, this.host_key());
        flynn_repair::fix(&cluster, Options { min_hosts, dry_run: self.dry_run }, warn).await?;
        if !self.dry_run {
            warn("cluster fix complete");
        }
        Ok(ExitCode::SUCCESS)
    }
}
