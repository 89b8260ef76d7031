//! What the measurements share: the image, jobs of it, the clients.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context as _;
use flynn_harness::{Cluster, ClusterOptions, Daemon, Host, wait_until};
use flynn_host_client::Client;
use flynn_types::host::{ContainerConfig, Job, Mountspec};
use flynn_types::id::{HostId, JobId};
use flynn_types::image::Artifact;

/// The busybox image, built when it is not in the cache.
pub(crate) fn busybox() -> anyhow::Result<Artifact> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home).context("HOME is not set")?;
    let recipes = concat!(env!("CARGO_MANIFEST_DIR"), "/../../images");
    let builder = flynn_image::Builder::new(flynn_image::Config::new(PathBuf::from(recipes), cache.join("flynn")));
    Ok(builder.build("busybox", &flynn_image::Silent)?)
}

/// The image's files in a plain folder, as peers want them.
pub(crate) fn unpack(artifact: &Artifact, to: &Path) -> anyhow::Result<PathBuf> {
    let root = to.join("rootfs");
    for spec in artifact.mountspecs() {
        let layer = layer_file(&spec)?;
        let status = Command::new("unsquashfs")
            .args(["-quiet", "-no-progress", "-force", "-dest"])
            .arg(&root)
            .arg(layer)
            .status();
        anyhow::ensure!(status.context("run unsquashfs")?.success(), "unsquashfs failed");
    }
    Ok(root)
}

fn layer_file(spec: &Mountspec) -> anyhow::Result<PathBuf> {
    spec.url.strip_prefix("file://").map(PathBuf::from).with_context(|| format!("layer {} is no file", spec.url))
}

/// A job that does nothing for long.
pub(crate) fn idle_job(host: &str, artifact: &Artifact) -> anyhow::Result<Job> {
    let id = JobId::new(&host.parse::<HostId>()?, uuid::Uuid::new_v4());
    let config =
        ContainerConfig { args: ["/bin/sleep", "100000"].map(str::to_owned).into(), ..ContainerConfig::default() };
    Ok(Job { id: id.to_string(), mountspecs: artifact.mountspecs(), config, ..Job::default() })
}

/// A cluster whose hosts have their networks.
pub(crate) fn cluster(hosts: usize) -> anyhow::Result<Cluster> {
    let daemon = Daemon { args: vec!["--max-job-concurrency=64".to_owned()], ..Daemon::default() };
    let cluster = Cluster::up(ClusterOptions { hosts, daemon, ..ClusterOptions::default() })?;
    for host in cluster.hosts() {
        let client = client(host)?;
        wait_until(Duration::from_secs(60), "the host has its network", || {
            let status = runtime().block_on(client.status()).map_err(|err| err.to_string())?;
            status.network.map(drop).ok_or_else(|| "no network yet".to_owned())
        })?;
    }
    Ok(cluster)
}

pub(crate) fn client(host: Host<'_>) -> anyhow::Result<Client> {
    Ok(Client::new(&host.url(1113)?, None)?)
}

/// The runtime of all clients.
pub(crate) fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().expect("a runtime starts"))
}
