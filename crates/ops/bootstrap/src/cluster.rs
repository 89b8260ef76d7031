//! The hosts of which a cluster is made, and what runs on them.

use std::time::Duration;

use flynn_discoverd_client::Client as Discoverd;
use flynn_host_client::Client as HostClient;
use flynn_types::discoverd::Instance;
use flynn_types::host::HostStatus;
use flynn_types::id::HostId;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::Options;
use crate::error::{Doing as _, Result, words, wrong};

/// Pause between two looks at something that is not there yet.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);
/// Pause between two rounds of asking hosts that are not there yet.
const ROUND: Duration = Duration::from_secs(1);
const DISCOVERD_PORT: u16 = 1111;

/// A host that answers.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) id: HostId,
    /// At which the other hosts reach it.
    pub(crate) ip: String,
    pub(crate) client: HostClient,
}

/// Hosts, and discovery on any of them.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) hosts: Vec<Host>,
    pub(crate) discoverd: Discoverd,
}

impl Cluster {
    /// Waits until so many hosts answer as must.
    pub(crate) async fn find(options: &Options) -> Result<Self> {
        let clients = options.hosts.iter().map(|url| {
            let client = HostClient::new(url, options.host_key.as_deref()).doing(|| format!("use host {url}"))?;
            Ok((url.clone(), client))
        });
        let clients = clients.collect::<Result<Vec<_>>>()?;
        let deadline = Instant::now() + options.timeout;
        let hosts = loop {
            let (found, missing) = ask(&clients).await;
            if found.len() >= options.min_hosts {
                break found;
            }
            if Instant::now() + ROUND >= deadline {
                let (wanted, online) = (options.min_hosts, found.len());
                let mut text =
                    format!("timed out waiting for {wanted} hosts to come online (currently {online} online)");
                missing.iter().for_each(|line| text += &format!("\n{line}"));
                return Err(wrong(text));
            }
            tokio::time::sleep(ROUND).await;
        };
        let servers: Vec<_> = hosts.iter().map(|host| format!("http://{}:{DISCOVERD_PORT}", host.ip)).collect();
        let discoverd = Discoverd::from_list(&servers.join(",")).doing(|| "use discovery".into())?;
        Ok(Self { hosts, discoverd })
    }

    /// Addresses of the hosts in order.
    pub(crate) fn ips(&self) -> Vec<String> {
        let mut ips: Vec<_> = self.hosts.iter().map(|host| host.ip.clone()).collect();
        ips.sort();
        ips
    }

    pub(crate) fn host(&self, id: &HostId) -> Result<&Host> {
        let found = self.hosts.iter().find(|host| host.id == *id);
        found.ok_or_else(|| wrong(format!("host {id} was part of this bootstrap and does not answer any more")))
    }

    /// An instance of a service; waits until there is one.
    pub(crate) async fn instance(&self, service: &str, limit: Duration) -> Result<Instance> {
        let found = wait(limit, || async {
            let instances = self.discoverd.instances(service).await.doing(|| format!("ask discovery for {service}"))?;
            instances.into_iter().next().ok_or_else(|| wrong(format!("no instance of {service} is registered")))
        });
        found.await
    }

    /// The address with the name of a service in it replaced by that of one of its instances.
    pub(crate) async fn resolved(&self, url: &str, limit: Duration) -> Result<String> {
        let Some((scheme, rest)) = url.split_once("://") else { return Ok(url.to_owned()) };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let name = authority.split(':').next().unwrap_or_default();
        let Some(service) = name.strip_suffix(".discoverd") else { return Ok(url.to_owned()) };
        let leader = service.strip_prefix("leader.");
        let addr = match leader {
            Some(service) => self.leader(service, limit).await?.addr,
            None => self.instance(service, limit).await?.addr,
        };
        Ok(format!("{scheme}://{addr}{path}"))
    }

    async fn leader(&self, service: &str, limit: Duration) -> Result<Instance> {
        let found = wait(limit, || async {
            let leader = self.discoverd.leader(service).await.doing(|| format!("ask discovery for {service}"))?;
            leader.ok_or_else(|| wrong(format!("{service} has no leader")))
        });
        found.await
    }
}

async fn ask(clients: &[(String, HostClient)]) -> (Vec<Host>, Vec<String>) {
    let answers = join_all(clients.iter().map(|(_, client)| client.status())).await;
    let (mut found, mut missing) = (Vec::<Host>::new(), Vec::new());
    for ((url, client), answer) in clients.iter().zip(answers) {
        let host = answer.doing(|| format!("ask {url}")).and_then(|status| host(status, client));
        match host {
            // Given twice, by two of its addresses.
            Ok(host) if found.iter().any(|it| it.id == host.id) => {}
            Ok(host) => found.push(host),
            Err(err) => missing.push(words(&err)),
        }
    }
    (found, missing)
}

fn host(status: HostStatus, client: &HostClient) -> Result<Host> {
    let id = status.id.parse().doing(|| format!("read the host's id {:?}", status.id))?;
    let authority = status.url.split("://").nth(1).unwrap_or_default();
    let ip = authority.rsplit_once(':').map_or(authority, |(ip, _)| ip).to_owned();
    Ok(Host { id, ip, client: client.clone() })
}

/// Looks again until there is a result or the time is over; then gives the last error.
pub(crate) async fn wait<T, F: Future<Output = Result<T>>>(limit: Duration, mut look: impl FnMut() -> F) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(err) if Instant::now() + PAUSE >= deadline => {
                return Err(err).doing(|| format!("waited {} s", limit.as_secs()));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
