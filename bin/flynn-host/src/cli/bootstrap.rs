//! `flynn-host bootstrap` (spec operations section 4.1).

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use flynn_bootstrap::{Format, Manifest, Options, Report, STANDARD_MANIFEST};

use super::cluster::Cluster;
use super::{Outcome, print};

const MANIFEST: &str = "/etc/flynn/bootstrap-manifest.json";
const IMAGES: &str = "/etc/flynn/images";
const STATE: &str = "/var/lib/flynn/bootstrap.json";
const API_PORT: u16 = 1113;

/// Make a cluster of running daemons; run it again after an interruption, and it goes on
#[derive(Args)]
pub(super) struct Bootstrap {
    /// Hosts that must be online [default: as many as peers are given, else 1]
    #[arg(short = 'n', long, value_name = "MIN")]
    min_hosts: Option<String>,
    /// Seconds to wait for hosts
    #[arg(short, long, value_name = "SECS", default_value_t = 120)]
    timeout: u64,
    /// Print an object per line to standard output
    #[arg(long)]
    json: bool,
    /// Addresses of the hosts, separated by commas [default: this host]
    #[arg(long, value_name = "IPLIST", value_delimiter = ',')]
    peer_ips: Vec<String>,
    /// Take only these steps, separated by commas
    #[arg(long, value_delimiter = ',')]
    steps: Option<Vec<String>>,
    /// Seconds to wait for each job that is started directly
    #[arg(long, value_name = "SECS", default_value_t = 30)]
    job_timeout: u64,
    /// Folder of the images' artifacts
    #[arg(long, value_name = "DIR", default_value = IMAGES)]
    images: PathBuf,
    /// File in which what is done is kept, secrets included
    #[arg(long, value_name = "FILE", default_value = STATE)]
    state: PathBuf,
    /// Print the secrets that are made
    #[arg(long)]
    show_secrets: bool,
    /// Steps to take, - for standard input [default: /etc/flynn/bootstrap-manifest.json, else those of a whole cluster]
    manifest: Option<PathBuf>,
}

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Bootstrap {
    pub(super) async fn run(self) -> Outcome {
        let min_hosts = self.min_hosts()?;
        let manifest = Manifest::parse(&self.manifest()?, &self.images)?;
        let peers: Vec<_> = self.peer_ips.iter().map(|ip| ip.trim()).filter(|ip| !ip.is_empty()).collect();
        let hosts = match peers.as_slice() {
            [] => vec![format!("http://127.0.0.1:{API_PORT}")],
            peers => peers.iter().map(|ip| format!("http://{ip}:{API_PORT}")).collect(),
        };
        let (format, out): (_, Box<dyn std::io::Write + Send>) = if self.json {
            (Format::Json, Box::new(std::io::stdout()))
        } else {
            (Format::Text, Box::new(std::io::stderr()))
        };
        let options = Options {
            hosts,
            host_key: var("FLYNN_HOST_AUTH_KEY").filter(|key| !key.is_empty()),
            min_hosts,
            timeout: Duration::from_secs(self.timeout),
            job_timeout: Duration::from_secs(self.job_timeout),
            singleton: match var("SINGLETON").unwrap_or_default().as_str() {
                "" => min_hosts == 1,
                text => text == "true",
            },
            steps: self.steps,
            state: self.state,
            show_secrets: self.show_secrets,
        };
        flynn_bootstrap::bootstrap(manifest, options, Report::new(format, out), var).await?;
        Ok(ExitCode::SUCCESS)
    }

    fn min_hosts(&self) -> anyhow::Result<usize> {
        let peers = self.peer_ips.iter().filter(|ip| !ip.trim().is_empty()).count();
        let min_hosts = match &self.min_hosts {
            None => peers.max(1),
            Some(text) => text.parse().ok().filter(|number| *number > 0).context("invalid --min-hosts value")?,
        };
        Options::check_min_hosts(min_hosts)?;
        Ok(min_hosts)
    }

    fn manifest(&self) -> anyhow::Result<String> {
        match &self.manifest {
            Some(path) if path == Path::new("-") => Ok(std::io::read_to_string(std::io::stdin())?),
            Some(path) => std::fs::read_to_string(path).with_context(|| format!("read {}", path.display())),
            None => match std::fs::read_to_string(MANIFEST) {
                Ok(text) => Ok(text),
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(STANDARD_MANIFEST.to_owned()),
                Err(err) => bail!("read {MANIFEST}: {err}"),
            },
        }
    }
}

/// Prints the line that tells the `flynn` client of this cluster.
pub(super) async fn cli_add_command() -> Outcome {
    let cluster = Cluster::connect()?;
    print(&format!("{}\n", flynn_bootstrap::add_command(&cluster.discoverd).await?));
    Ok(ExitCode::SUCCESS)
}
