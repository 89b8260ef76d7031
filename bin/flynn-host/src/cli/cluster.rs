//! The cluster as the commands see it: its hosts, found through discovery.

use anyhow::{Context as _, anyhow, bail};
use flynn_discoverd_client::Client as Discoverd;
use flynn_host_client::Client as HostClient;
use flynn_types::discoverd::Instance;
use flynn_types::host::ActiveJob;
use futures_util::future::join_all;

/// Service under which the daemons register.
pub(super) const HOST_SERVICE: &str = "flynn-host";
const DEFAULT_DISCOVERD: &str = "http://127.0.0.1:1111";

/// A host as discovery shows it.
pub(super) struct HostEntry {
    pub(super) id: String,
    /// `ip:port` of its API.
    pub(super) addr: String,
    pub(super) instance: Instance,
    pub(super) client: HostClient,
}

pub(super) struct Cluster {
    pub(super) discoverd: Discoverd,
    auth_key: Option<String>,
}

impl Cluster {
    /// The cluster of `DISCOVERD`, by default that of this host.
    pub(super) fn connect() -> anyhow::Result<Self> {
        let text = std::env::var("DISCOVERD").unwrap_or_default();
        let text = if text.is_empty() || text == "none" { DEFAULT_DISCOVERD } else { &text };
        let discoverd = Discoverd::from_list(text).with_context(|| format!("invalid DISCOVERD {text:?}"))?;
        let auth_key = std::env::var("FLYNN_HOST_AUTH_KEY").ok().filter(|key| !key.is_empty());
        Ok(Self { discoverd, auth_key })
    }

    /// What hosts ask of their clients, if they do.
    pub(super) fn host_key(&self) -> Option<String> {
        self.auth_key.clone()
    }

    /// All registered hosts, by id.
    pub(super) async fn hosts(&self) -> anyhow::Result<Vec<HostEntry>> {
        let instances = self.discoverd.instances(HOST_SERVICE).await.context("ask discoverd for the hosts")?;
        let mut hosts = Vec::new();
        for instance in instances {
            let id = instance.meta.get("id").cloned().unwrap_or_default();
            let client = HostClient::new(&format!("http://{}", instance.addr), self.auth_key.as_deref())?;
            hosts.push(HostEntry { id, addr: instance.addr.clone(), instance, client });
        }
        hosts.sort_by(|a, b| a.id.cmp(&b.id));
        if hosts.is_empty() {
            bail!("no hosts found");
        }
        Ok(hosts)
    }

    pub(super) async fn host(&self, id: &str) -> anyhow::Result<HostEntry> {
        let hosts = self.hosts().await?;
        let known = hosts.iter().map(|host| host.id.as_str()).collect::<Vec<_>>().join(", ");
        hosts.into_iter().find(|host| host.id == id).ok_or_else(|| anyhow!("unknown host {id:?}: there are {known}"))
    }

    /// The host that a job's id names.
    pub(super) async fn host_of(&self, job: &str) -> anyhow::Result<HostClient> {
        let id = job.parse::<flynn_types::id::JobId>().ok().and_then(|id| id.host().map(str::to_owned));
        let Some(id) = id else { bail!("invalid ID") };
        Ok(self.host(&id).await?.client)
    }

    pub(super) async fn find_job(&self, id: &str) -> anyhow::Result<(HostClient, ActiveJob)> {
        let host = self.host_of(id).await?;
        match host.job(id).await {
            Ok(job) => Ok((host, job)),
            Err(err) if err.is_not_found() => bail!("no such job"),
            Err(err) => Err(err).context("ask the host for the job"),
        }
    }

    /// The jobs of all hosts that answer; those that do not are named on stderr.
    pub(super) async fn jobs(&self, active: bool) -> anyhow::Result<Vec<ActiveJob>> {
        let hosts = self.hosts().await?;
        let answers = join_all(hosts.iter().map(|host| host.client.jobs(active))).await;
        let mut jobs = Vec::new();
        for (host, answer) in hosts.iter().zip(answers) {
            match answer {
                Ok(answer) => jobs.extend(answer.into_values()),
                Err(err) => warn(&format!("host {} ({}) does not answer: {err}", host.id, host.addr)),
            }
        }
        Ok(jobs)
    }
}

/// Tells something on stderr without failing.
pub(super) fn warn(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{text}");
}
