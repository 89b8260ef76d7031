//! `discover`, `promote`, `demote`.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use flynn_discoverd_client::Client as Discoverd;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::table::Table;
use super::{Outcome, print};

#[derive(Args)]
pub(super) struct Discover {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[arg(required = true)]
    service: Vec<String>,
}

impl Discover {
    pub(super) async fn run(self) -> Outcome {
        let client = Cluster::connect()?.discoverd;
        let mut table = Table::with_header(&["SERVICE", "ID", "ADDR"]);
        let mut documents = Vec::new();
        for service in &self.service {
            let instances = client.instances(service).await.with_context(|| format!("ask for service {service}"))?;
            for instance in &instances {
                table.row([service.clone(), instance.id.clone(), instance.addr.clone()]);
            }
            if self.json {
                let leader = client.leader(service).await.ok();
                let meta = client.meta(service).await.ok().flatten().map_or(Value::Null, |meta| {
                    let data = meta.data.as_deref().and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
                    json!({ "Data": data, "index": meta.index })
                });
                documents.push(json!({ "Name": service, "Leader": leader, "Instances": instances, "Meta": meta }));
            }
        }
        if self.json {
            print(&format!("{}\n", serde_json::to_string_pretty(&documents)?));
        } else {
            print(&table.render());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// `host`, `host:port` or a URL as a discoverd URL.
fn peer_url(addr: &str) -> String {
    let addr = addr.strip_prefix("http://").unwrap_or(addr).trim_end_matches('/');
    let has_port = addr.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { format!("http://{addr}") } else { format!("http://{addr}:1111") }
}

#[derive(Args)]
pub(super) struct Promote {
    addr: String,
}

impl Promote {
    pub(super) async fn run(self) -> Outcome {
        let url = peer_url(&self.addr);
        Discoverd::from_list(&url)?.promote().await.with_context(|| format!("promote {url}"))?;
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Args)]
pub(super) struct Demote {
    /// Remove the member through the leader when it does not answer
    #[arg(short, long)]
    force: bool,
    addr: String,
}

impl Demote {
    pub(super) async fn run(self) -> Outcome {
        let url = peer_url(&self.addr);
        let peer = Discoverd::from_list(&url)?;
        if peer.ping().await.is_ok() {
            peer.demote().await.with_context(|| format!("demote {url}"))?;
            return Ok(ExitCode::SUCCESS);
        }
        if !self.force {
            bail!("Failed to contact peer to attempt graceful demotion and --force not given.");
        }
        let addr = url.trim_start_matches("http://");
        Cluster::connect()?.discoverd.remove_raft_peer(addr).await.with_context(|| format!("remove {addr}"))?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_scheme_and_port() {
        for (given, url) in [
            ("10.0.0.1", "http://10.0.0.1:1111"),
            ("10.0.0.1:1112", "http://10.0.0.1:1112"),
            ("http://10.0.0.1:1111/", "http://10.0.0.1:1111"),
        ] {
            assert_eq!(peer_url(given), url);
        }
    }
}
