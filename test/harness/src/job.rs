//! Jobs by hand: `flynn-host run` is for a terminal, this is for what runs on its own.

use std::path::Path;

use anyhow::Context as _;
use flynn_host_client::Client;
use flynn_types::host::{ContainerConfig, HealthCheck, Job, Port, Service};
use flynn_types::id::{HostId, JobId};
use flynn_types::image::Artifact;

use crate::Host;

/// A service that a job offers: `NAME:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub name: String,
    pub port: u16,
}

impl std::str::FromStr for Offer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(name, port)| Some((name.to_owned(), port.parse().ok()?)));
        let (name, port) = parsed.ok_or_else(|| format!("{text:?} is not NAME:PORT"))?;
        Ok(Self { name, port })
    }
}

/// Starts a job of an image on a host, and gives its id. Its services are registered when their ports accept
/// connections.
pub fn start(host: Host<'_>, artifact: &Path, offers: &[Offer], command: Vec<String>) -> anyhow::Result<String> {
    let text = std::fs::read(artifact).with_context(|| format!("read artifact {}", artifact.display()))?;
    let artifact: Artifact =
        serde_json::from_slice(&text).context("the artifact is not the JSON of an image artifact")?;
    let id = JobId::new(&host.id().parse::<HostId>()?, uuid::Uuid::new_v4());
    let port = |offer: &Offer| Port {
        port: offer.port,
        proto: "tcp".to_owned(),
        service: Some(Service {
            name: offer.name.clone(),
            create: true,
            check: Some(HealthCheck { kind: "tcp".to_owned(), ..HealthCheck::default() }),
        }),
    };
    let config =
        ContainerConfig { args: command, ports: offers.iter().map(port).collect(), ..ContainerConfig::default() };
    let job = Job { id: id.to_string(), mountspecs: artifact.mountspecs(), config, resurrect: true, ..Job::default() };
    let client = Client::new(&host.url(1113)?, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(client.add_job(&job)).context("start the job")?;
    Ok(job.id)
}
