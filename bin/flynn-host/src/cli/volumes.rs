//! `volume …`

use std::process::ExitCode;

use anyhow::bail;
use chrono::Utc;
use clap::{Args, Subcommand};

use super::cluster::{Cluster, HostEntry, warn};
use super::table::{Table, age};
use super::{Outcome, print};

#[derive(Args)]
pub(super) struct Volume {
    #[command(subcommand)]
    command: VolumeCommand,
}

#[derive(Subcommand)]
enum VolumeCommand {
    /// List volumes
    List,
    /// Create a data volume
    Create {
        #[arg(long, value_name = "PROVIDER", default_value = "default")]
        provider: String,
        host: String,
    },
    /// Delete volumes
    #[command(alias = "destroy")]
    Delete {
        #[arg(required = true)]
        id: Vec<String>,
    },
    /// Delete image layers that no job uses; data volumes stay
    Gc,
}

impl Volume {
    pub(super) async fn run(self) -> Outcome {
        let cluster = Cluster::connect()?;
        match self.command {
            VolumeCommand::List => list(&cluster).await,
            VolumeCommand::Create { provider, host } => {
                let volume = cluster.host(&host).await?.client.create_volume(&provider, None).await?;
                print(&format!("created volume {} on {host}\n", volume.id));
                Ok(ExitCode::SUCCESS)
            }
            VolumeCommand::Delete { id } => delete(&cluster, &id).await,
            VolumeCommand::Gc => collect(&cluster).await,
        }
    }
}

async fn list(cluster: &Cluster) -> Outcome {
    let mut volumes = Vec::new();
    for host in cluster.hosts().await? {
        match host.client.volumes().await {
            Ok(found) => volumes.extend(found.into_iter().map(|volume| (host.id.clone(), volume))),
            Err(err) => warn(&format!("host {} ({}) does not answer: {err}", host.id, host.addr)),
        }
    }
    volumes.sort_by_key(|(_, volume)| volume.created_at);
    let mut table = Table::with_header(&["ID", "TYPE", "HOST", "CREATED", "META"]);
    for (host, volume) in volumes {
        let meta: Vec<String> = volume.meta.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let created = age(volume.created_at, Utc::now());
        table.row([volume.id, volume.kind.as_str().to_owned(), host, created, meta.join(" ")]);
    }
    print(&table.render());
    Ok(ExitCode::SUCCESS)
}

async fn holder<'a>(hosts: &'a [HostEntry], id: &str) -> Option<&'a HostEntry> {
    for host in hosts {
        if host.client.volume(id).await.is_ok() {
            return Some(host);
        }
    }
    None
}

async fn delete(cluster: &Cluster, ids: &[String]) -> Outcome {
    let hosts = cluster.hosts().await?;
    let mut failed = false;
    for id in ids {
        let deleted = match holder(&hosts, id).await {
            Some(host) => host.client.destroy_volume(id).await.map_err(|err| err.to_string()),
            None => Err("volume not found".to_owned()),
        };
        match deleted {
            Ok(()) => print(&format!("{id} deleted\n")),
            Err(err) => {
                print(&format!("could not delete volume {id}: {err}\n"));
                failed = true;
            }
        }
    }
    if failed {
        bail!("could not delete all volumes");
    }
    Ok(ExitCode::SUCCESS)
}

async fn collect(cluster: &Cluster) -> Outcome {
    let mut failed = false;
    for host in cluster.hosts().await? {
        match host.client.collect_garbage().await {
            Ok(volumes) => {
                for volume in volumes {
                    print(&format!("Deleted {} volume {}\n", volume.kind.as_str(), volume.id));
                }
            }
            Err(err) => {
                warn(&format!("host {}: {err}", host.id));
                failed = true;
            }
        }
    }
    if failed {
        bail!("could not garbage collect all volumes");
    }
    Ok(ExitCode::SUCCESS)
}
