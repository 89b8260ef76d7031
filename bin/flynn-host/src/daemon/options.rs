//! The daemon's command line and configuration file (spec flynn-host sections 2.2 and 2.3).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// Where the configuration file is unless `FLYNN_HOST_CONFIG` names another.
pub(crate) const CONFIG_FILE: &str = "/etc/flynn/host.json";
const DEFAULT_PARTITIONS: &str = "system=cpu_shares:4096 background=cpu_shares:4096 user=cpu_shares:8192";
const MANDATORY_PARTITIONS: [&str; 3] = ["user", "system", "background"];
const DEFAULT_JOB_CONCURRENCY: usize = 4;

/// What happens to the jobs when the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnExit {
    /// Stop them when the machine goes down, keep them otherwise.
    Auto,
    Keep,
    Stop,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Port of the host API
    #[arg(long, value_name = "PORT", default_value_t = 1113)]
    pub(crate) http_port: u16,
    /// Address published in service discovery [default: that of the interface with the default route]
    #[arg(long, value_name = "IP")]
    pub(crate) external_ip: Option<std::net::Ipv4Addr>,
    /// Address to listen on [default: all]
    #[arg(long, value_name = "IP", default_value = "")]
    pub(crate) listen_ip: String,
    /// File with the state of jobs and volumes
    #[arg(long, value_name = "PATH", default_value = "/var/lib/flynn/host-state.redb")]
    pub(crate) state: PathBuf,
    /// File with the state of log sinks [default: beside the state]
    #[arg(long, value_name = "PATH")]
    pub(crate) sink_state: Option<PathBuf>,
    /// Host id, without dashes [default: the host name without its dashes]
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Comma separated tags, KEY=VAL or KEY
    #[arg(long, value_name = "TAGS", default_value = "")]
    pub(crate) tags: String,
    /// Stop all known jobs before starting
    #[arg(long)]
    pub(crate) force: bool,
    /// Directory of volumes
    #[arg(long, value_name = "PATH", default_value = "/var/lib/flynn/volumes")]
    pub(crate) volpath: PathBuf,
    /// Volume provider, `zfs` or `dir` [default: what the volumes are in; at first zfs where the kernel has it, else dir]
    #[arg(long, value_name = "VOL")]
    pub(crate) vol_provider: Option<String>,
    /// Container backend, only `libcontainer`
    #[arg(long, value_name = "BACKEND", default_value = "libcontainer")]
    pub(crate) backend: String,
    /// Init program of containers
    #[arg(long, alias = "init-path", value_name = "PATH", default_value = "/usr/local/bin/flynn-init")]
    pub(crate) flynn_init: PathBuf,
    /// Directory of job logs and the daemon's log
    #[arg(long, value_name = "DIR", default_value = "/var/log/flynn")]
    pub(crate) log_dir: PathBuf,
    /// The daemon's log [default: flynn-host.log in the log directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
    /// Comma separated addresses of other hosts of the cluster
    #[arg(long, value_name = "IPLIST", default_value = "")]
    pub(crate) peer_ips: String,
    /// Bridge of the containers
    #[arg(long, value_name = "NAME", default_value = "flynnbr0")]
    pub(crate) bridge_name: String,
    /// Network of all hosts' containers
    #[arg(long, value_name = "CIDR", default_value = "100.100.0.0/16")]
    pub(crate) network: String,
    /// Do not start jobs again that a reboot ended
    #[arg(long)]
    pub(crate) no_resurrect: bool,
    /// Containers started at once
    #[arg(long, value_name = "NUM", default_value = "4")]
    pub(crate) max_job_concurrency: String,
    /// Resource partitions, NAME=cpu_shares:NUM, separated by spaces
    #[arg(long, value_name = "PARTITIONS", default_value = DEFAULT_PARTITIONS)]
    pub(crate) partitions: String,
    /// Log level of container inits
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = ["debug", "info", "warn", "error", "crit"])]
    pub(crate) init_log_level: String,
    /// ZFS pool of volumes
    #[arg(long, value_name = "NAME", default_value = "flynn-default")]
    pub(crate) zpool_name: String,
    /// Parent of all our control groups
    #[arg(long, value_name = "PATH", default_value = "flynn")]
    pub(crate) cgroup_root: String,
    /// Key that requests to the host API must carry [env: FLYNN_HOST_AUTH_KEY]
    #[arg(long, value_name = "KEY")]
    pub(crate) auth_key: Option<String>,
    /// Refuse host networking and the host's process namespace to jobs that are not the platform's
    #[arg(long)]
    pub(crate) restrict_privileges: bool,
    /// What happens to jobs when the daemon ends
    #[arg(long, value_name = "WHAT", default_value = "auto")]
    pub(crate) on_exit: OnExit,
    /// File written as the containers' /etc/resolv.conf
    #[arg(long, value_name = "PATH", default_value = "/etc/flynn/resolv.conf")]
    pub(crate) resolv_conf: PathBuf,
    /// Directory of programs that replace those in the containers' /bin
    #[arg(long, value_name = "DIR", default_value = "/etc/flynn/bin-overrides")]
    pub(crate) bin_overrides: PathBuf,
    /// Silence of a host in seconds, after which another one votes in its place
    #[arg(long, value_name = "SECONDS", hide = true)]
    pub(crate) replace_voters_after: Option<u64>,
    /// Remove network, control groups and mounts of this daemon, and exit
    #[arg(long)]
    pub(crate) clean_up: bool,
}

/// A resource partition and its weight.
pub(crate) type Partition = (String, u64);

/// Parses `--partitions`.
pub(crate) fn partitions(text: &str) -> anyhow::Result<Vec<Partition>> {
    let mut partitions = Vec::new();
    for spec in text.split_whitespace() {
        let parsed = spec.split_once('=').and_then(|(name, shares)| {
            let shares = shares.strip_prefix("cpu_shares:")?.parse::<u64>().ok().filter(|shares| *shares >= 2)?;
            flynn_types::id::is_path_safe(name).then(|| (name.to_owned(), shares))
        });
        match parsed {
            Some(partition) => partitions.push(partition),
            None => bail!("invalid partition specifier: {spec:?}"),
        }
    }
    match MANDATORY_PARTITIONS.iter().find(|name| !partitions.iter().any(|(known, _)| known == *name)) {
        Some(missing) => bail!("missing mandatory resource partition: {missing}"),
        None => Ok(partitions),
    }
}

/// Parses `--tags`: items separated by commas, `KEY` alone means `KEY=true`.
pub(crate) fn tags(text: &str) -> BTreeMap<String, String> {
    let items = text.split(',').filter(|item| !item.is_empty());
    items
        .map(|item| item.split_once('=').unwrap_or((item, "true")))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

/// Parses `--max-job-concurrency`; anything unusable means the default.
pub(crate) fn job_concurrency(text: &str) -> usize {
    text.parse().ok().filter(|n| *n > 0).unwrap_or(DEFAULT_JOB_CONCURRENCY)
}

/// Parses `--peer-ips`.
pub(crate) fn peer_ips(text: &str) -> anyhow::Result<Vec<std::net::IpAddr>> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(|item| item.parse().with_context(|| format!("invalid peer address {item:?} in --peer-ips"))).collect()
}

/// The configuration file. Unknown keys are kept by `init`, and ignored here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigFile {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) args: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) env: BTreeMap<String, String>,
}

/// Reads the configuration file. The default one may be absent; one named explicitly must exist.
pub(crate) fn read_config(named: Option<&Path>) -> anyhow::Result<ConfigFile> {
    let path = named.unwrap_or(Path::new(CONFIG_FILE));
    let text = match std::fs::read_to_string(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound && named.is_none() => return Ok(ConfigFile::default()),
        text => text.map_err(|err| anyhow::anyhow!("error opening config file {}: {err}", path.display()))?,
    };
    serde_json::from_str(&text).map_err(|err| anyhow::anyhow!("error opening config file {}: {err}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_split_at_the_first_equals_sign() {
        let tags = tags("foo,bar=1=2,,baz=");
        let tags: Vec<_> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(tags, [("bar", "1=2"), ("baz", ""), ("foo", "true")]);
    }

    #[test]
    fn partitions_must_be_complete_and_well_formed() {
        assert_eq!(partitions(DEFAULT_PARTITIONS).unwrap().len(), 3);
        for (text, error) in [
            ("user=cpu_shares:10", "missing mandatory resource partition: system"),
            ("user", "invalid partition specifier: \"user\""),
            ("user=cpu_shares:1", "invalid partition specifier: \"user=cpu_shares:1\""),
            ("../x=cpu_shares:10", "invalid partition specifier: \"../x=cpu_shares:10\""),
        ] {
            assert_eq!(partitions(text).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn unusable_numbers_mean_the_default() {
        for (text, number) in [("8", 8), ("x", 4), ("0", 4), ("", 4)] {
            assert_eq!(job_concurrency(text), number, "{text:?}");
        }
    }

    #[test]
    fn a_named_configuration_file_must_exist() {
        assert!(read_config(Some(Path::new("/nonexistent/host.json"))).is_err());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("host.json");
        std::fs::write(&path, r#"{"args":["--peer-ips","10.0.0.1"],"env":{"K":"V"}}"#).unwrap();
        assert_eq!(read_config(Some(&path)).unwrap().args, ["--peer-ips", "10.0.0.1"]);
        std::fs::write(&path, "{").unwrap();
        assert!(read_config(Some(&path)).unwrap_err().to_string().starts_with("error opening config file"));
    }
}
