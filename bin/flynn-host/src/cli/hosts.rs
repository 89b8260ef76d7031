//! `list`, `tags`, `log-sink`, `resource-check`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use flynn_types::host::Port;

use super::cluster::Cluster;
use super::table::Table;
use super::{Outcome, print};

pub(super) async fn list() -> Outcome {
    let cluster = Cluster::connect()?;
    let hosts = cluster.hosts().await?;
    let peers = cluster.discoverd.raft_peers().await.ok();
    let leader = cluster.discoverd.raft_leader().await.ok().unwrap_or_default();
    let mut table = Table::with_header(&["ID", "ADDR", "RAFT STATUS"]);
    for host in hosts {
        let ip = host.addr.rsplit_once(':').map_or(host.addr.as_str(), |(ip, _)| ip);
        let is = |addr: &str| addr.trim_start_matches("http://").rsplit_once(':').is_some_and(|(peer, _)| peer == ip);
        let status = match &peers {
            None => "",
            Some(_) if is(&leader) => "peer (leader)",
            Some(peers) if peers.iter().any(|peer| is(peer)) => "peer",
            Some(_) => "proxy",
        };
        table.row([host.id, host.addr, status.to_owned()]);
    }
    print(&table.render());
    Ok(ExitCode::SUCCESS)
}

#[derive(Args)]
pub(super) struct Tags {
    #[command(subcommand)]
    command: Option<TagsCommand>,
}

#[derive(Subcommand)]
enum TagsCommand {
    /// Set tags of a host
    Set {
        hostid: String,
        #[arg(required = true, value_name = "VAR=VAL")]
        tags: Vec<String>,
    },
    /// Delete tags of a host
    Del {
        hostid: String,
        #[arg(required = true, value_name = "VAR")]
        tags: Vec<String>,
    },
}

impl Tags {
    pub(super) async fn run(self) -> Outcome {
        let cluster = Cluster::connect()?;
        match self.command {
            None => {
                let mut table = Table::with_header(&["HOST", "TAGS"]);
                for host in cluster.hosts().await? {
                    let tags =
                        host.instance.meta.iter().filter_map(|(key, value)| Some((key.strip_prefix("tag:")?, value)));
                    let tags: Vec<String> = tags.map(|(key, value)| format!("{key}={value}")).collect();
                    table.row([host.id, tags.join(" ")]);
                }
                print(&table.render());
            }
            Some(TagsCommand::Set { hostid, tags }) => {
                let mut changes = BTreeMap::new();
                for tag in &tags {
                    let Some((key, value)) = tag.split_once('=') else {
                        bail!("invalid tag {tag:?}: it must be VAR=VAL")
                    };
                    changes.insert(key.to_owned(), value.to_owned());
                }
                cluster.host(&hostid).await?.client.set_tags(&changes).await?;
            }
            Some(TagsCommand::Del { hostid, tags }) => {
                let changes = tags.into_iter().map(|key| (key, String::new())).collect();
                cluster.host(&hostid).await?.client.set_tags(&changes).await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Args)]
pub(super) struct LogSink {
    #[command(subcommand)]
    command: LogSinkCommand,
}

#[derive(Subcommand)]
enum LogSinkCommand {
    /// List the log sinks of a host
    List { host: String },
}

impl LogSink {
    pub(super) async fn run(self) -> Outcome {
        let LogSinkCommand::List { host } = self.command;
        let sinks = Cluster::connect()?.host(&host).await?.client.sinks().await?;
        let mut table = Table::with_header(&["ID", "KIND", "CONFIG", "HOST MANAGED"]);
        for sink in sinks {
            let config = sink.config.map(|config| config.get().to_owned()).unwrap_or_default();
            table.row([sink.id, sink.kind.as_str().to_owned(), config, sink.host_managed.to_string()]);
        }
        print(&table.render());
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Args)]
pub(super) struct ResourceCheck {
    host: String,
    /// Ports, such as 80 or 53/udp
    #[arg(required = true, value_name = "PORT[/PROTO]")]
    ports: Vec<String>,
}

impl ResourceCheck {
    pub(super) async fn run(self) -> Outcome {
        let mut ports = Vec::new();
        for text in &self.ports {
            let (number, proto) = text.split_once('/').unwrap_or((text, "tcp"));
            let Ok(port) = number.parse() else { bail!("invalid port {text:?}") };
            ports.push(Port { port, proto: proto.to_owned(), service: None });
        }
        Cluster::connect()?.host(&self.host).await?.client.check_resources(&ports).await?;
        print("all ports are free\n");
        Ok(ExitCode::SUCCESS)
    }
}
