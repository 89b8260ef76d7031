//! `version` and `init`: commands that need no cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::{Outcome, print};
use crate::daemon::{CONFIG_FILE, ConfigFile};
use crate::version;

#[derive(Args)]
pub(super) struct Version {
    /// Without the commit
    #[arg(long)]
    release: bool,
}

impl Version {
    pub(super) fn run(&self) -> Outcome {
        print(&format!("{}\n", if self.release { version::release() } else { version::VERSION }));
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Args)]
pub(super) struct Init {
    /// Comma separated addresses of other hosts of the cluster
    #[arg(long, value_name = "IPLIST")]
    peer_ips: Option<String>,
    /// Address published in service discovery
    #[arg(long, value_name = "IP")]
    external_ip: Option<String>,
    /// Configuration file to write
    #[arg(long, value_name = "NAME", default_value = CONFIG_FILE)]
    file: PathBuf,
}

impl Init {
    pub(super) fn run(&self) -> Outcome {
        let mut config = ConfigFile::default();
        for (flag, value) in [("--external-ip", &self.external_ip), ("--peer-ips", &self.peer_ips)] {
            if let Some(value) = value {
                config.args.extend([flag.to_owned(), value.clone()]);
            }
        }
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        serde::Serialize::serialize(&config, &mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
        text.push(b'\n');
        if let Some(directory) = self.file.parent() {
            std::fs::create_dir_all(directory).with_context(|| format!("create directory {}", directory.display()))?;
        }
        std::fs::write(&self.file, text).with_context(|| format!("write {}", self.file.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}
