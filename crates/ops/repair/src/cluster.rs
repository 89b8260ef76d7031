//! The cluster as repair sees it, and the starting of jobs.

use std::collections::BTreeMap;

use flynn_discoverd_client::{Client as Discoverd, DiscoverdError};
use flynn_host_client::Client as HostClient;
use flynn_types::host::ActiveJob;
use flynn_types::id::{HostId, JobId};
use flynn_types::sirenia::ClusterState;
use futures_util::future::join_all;
use tracing::warn;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::plan::Start;

const HOSTS: &str = "flynn-host";
const CONTROLLER: &str = "controller";
const SCHEDULER: &str = "controller-scheduler";
/// Databases on whose peers the platform may stand. Their services are called like their apps and process types.
const DATABASES: [&str; 3] = ["postgres", "mariadb", "mongodb"];

/// What was seen of a cluster at one time.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Hosts that answered, each with all the jobs that it remembers, those that ended included.
    pub hosts: BTreeMap<HostId, Vec<ActiveJob>>,
    /// Hosts that did not, and why.
    pub silent: Vec<String>,
    /// A controller is registered.
    pub controller: bool,
    /// A scheduler leads.
    pub scheduler: bool,
    /// What the databases' peers keep in discovery.
    pub databases: BTreeMap<String, ClusterState>,
}

/// The way to the cluster: discovery, and the hosts that it knows.
#[derive(Clone, Debug)]
pub struct Cluster {
    discoverd: Discoverd,
    host_key: Option<String>,
}

impl Cluster {
    /// `host_key`: what hosts ask of their clients, if they do.
    pub fn new(discoverd: Discoverd, host_key: Option<String>) -> Self {
        Self { discoverd, host_key }
    }

    pub fn discoverd(&self) -> &Discoverd {
        &self.discoverd
    }

    /// Whether there are a controller and a scheduler, so that nothing must be repaired. Asks discovery alone.
    ///
    /// # Errors
    /// When discovery does not answer.
    pub async fn is_well(&self) -> Result<bool> {
        Ok(self.scheduler().await? && self.controller().await?)
    }

    async fn controller(&self) -> Result<bool> {
        Ok(!self.instances(CONTROLLER).await?.is_empty())
    }

    async fn scheduler(&self) -> Result<bool> {
        let leader = self.discoverd.leader(SCHEDULER).await;
        Ok(known(leader).map_err(|err| asked(SCHEDULER, err))?.flatten().is_some())
    }

    async fn instances(&self, service: &str) -> Result<Vec<flynn_types::discoverd::Instance>> {
        let instances = known(self.discoverd.instances(service).await);
        Ok(instances.map_err(|err| asked(service, err))?.unwrap_or_default())
    }

    /// Looks at everything that repair goes by.
    ///
    /// # Errors
    /// When discovery does not answer, or has a state of a database that is none. Hosts that do not answer are told
    /// in the view.
    pub async fn look(&self) -> Result<View> {
        let mut view =
            View { controller: self.controller().await?, scheduler: self.scheduler().await?, ..View::default() };
        for service in DATABASES {
            let meta = known(self.discoverd.meta(service).await).map_err(|err| asked(service, err))?.flatten();
            let state = meta.as_ref().map(ClusterState::from_meta).transpose();
            let state = state.map_err(|err| Error::State { service: service.to_owned(), err })?.flatten();
            view.databases.extend(state.map(|state| (service.to_owned(), state)));
        }
        let clients = self.clients().await?;
        let answers = join_all(clients.iter().map(|(_, client)| client.jobs(false))).await;
        for ((id, _), answer) in clients.into_iter().zip(answers) {
            match answer {
                Ok(jobs) => {
                    view.hosts.insert(id, jobs.into_values().collect());
                }
                Err(err) => view.silent.push(format!("host {id}: {}", flynn_types::error::with_causes(&err))),
            }
        }
        Ok(view)
    }

    /// Starts a copy of a job on its host; gives its id.
    ///
    /// # Errors
    /// When the host is not known any more, or refuses.
    pub async fn start(&self, start: &Start) -> Result<JobId> {
        let id = JobId::new(&start.host, Uuid::new_v4());
        let clients = self.clients().await?;
        let client = clients.into_iter().find(|(host, _)| *host == start.host).map(|(_, client)| client);
        let client = client.ok_or_else(|| Error::Wrong(format!("host {} is not registered any more", start.host)))?;
        let started = client.add_job_even_draining(&start.job.again(&id)).await;
        started.map_err(|err| Error::Host { host: start.host.to_string(), err })?;
        Ok(id)
    }

    async fn clients(&self) -> Result<Vec<(HostId, HostClient)>> {
        let instances = self.instances(HOSTS).await?;
        let clients = instances.into_iter().filter_map(|instance| {
            let id: HostId = instance.meta.get("id")?.parse().ok()?;
            match HostClient::new(&format!("http://{}", instance.addr), self.host_key.as_deref()) {
                Ok(client) => Some((id, client)),
                Err(err) => {
                    warn!(host_id = %id, addr = instance.addr, %err, "a host is registered with an address that is none");
                    None
                }
            }
        });
        Ok(clients.collect())
    }
}

/// A service that does not exist has nothing.
fn known<T>(answer: Result<T, DiscoverdError>) -> Result<Option<T>, DiscoverdError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(err) if err.is_not_found() => Ok(None),
        Err(err) => Err(err),
    }
}

fn asked(what: &str, err: DiscoverdError) -> Error {
    Error::Discovery { what: what.to_owned(), err }
}
