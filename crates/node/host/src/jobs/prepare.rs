//! What the host adds to a job before it runs: ports, environment, limits. Pure.

use std::collections::BTreeMap;

use flynn_types::host::{ContainerConfig, Job};
use flynn_types::id::JobId;
use flynn_types::resource::ResourceType;

/// First port of jobs that leave the choice to the host.
const FIRST_PORT: u16 = 5000;

/// Why a job cannot run as asked; the text ends up in the job's `error`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("unknown port proto {0:?}")]
    Proto(String),
    #[error("host: no command given: the job's args are empty")]
    NoCommand,
    #[error("host: invalid empty mount target")]
    EmptyMountTarget,
    #[error("host: invalid job partition {0:?}")]
    Partition(String),
    #[error("unknown job profile: {0}")]
    Profile(String),
}

/// What the host contributes to each job's environment.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostFacts {
    pub(crate) external_ip: String,
    pub(crate) listen_ip: String,
    /// Empty while discovery is not configured.
    pub(crate) discoverd_url: String,
}

/// Checks what needs nothing but the job itself and the names of the partitions.
pub(crate) fn check(job: &Job, partitions: &[String]) -> Result<(), Unfit> {
    if !partitions.iter().any(|name| name == job.partition()) {
        return Err(Unfit::Partition(job.partition().to_owned()));
    }
    if job.config.args.is_empty() {
        return Err(Unfit::NoCommand);
    }
    if job.config.mounts.iter().any(|mount| mount.target.is_empty()) {
        return Err(Unfit::EmptyMountTarget);
    }
    if let Some(profile) = job.profiles.iter().find(|p| !matches!(p.as_str(), "zfs" | "kvm" | "loop")) {
        return Err(Unfit::Profile(profile.clone()));
    }
    match job.config.ports.iter().find(|port| !matches!(port.proto.as_str(), "tcp" | "udp")) {
        Some(port) => Err(Unfit::Proto(port.proto.clone())),
        None => Ok(()),
    }
}

/// Gives ports their numbers and adds `PORT…` and, for jobs with an address of their own, `EXTERNAL_IP` to the job's
/// environment, where the API shows them.
pub(crate) fn assign_ports(config: &mut ContainerConfig, container_ip: Option<&str>) {
    for (index, port) in config.ports.iter_mut().enumerate() {
        if port.port == 0 {
            port.port = FIRST_PORT.saturating_add(u16::try_from(index).unwrap_or(u16::MAX));
        }
        let number = port.port.to_string();
        if index == 0 {
            config.env.insert("PORT".into(), number.clone());
        }
        config.env.insert(format!("PORT_{index}"), number);
    }
    if let Some(ip) = container_ip {
        config.env.insert("EXTERNAL_IP".into(), ip.to_owned());
    }
}

/// The environment that the job's process gets (spec flynn-host section 6.5).
pub(crate) fn environment(id: &JobId, config: &ContainerConfig, host: &HostFacts) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("TERM", "xterm"),
        ("HOME", "/"),
        ("EXTERNAL_IP", &host.external_ip),
        ("LISTEN_IP", &host.listen_ip),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    if !host.discoverd_url.is_empty() {
        env.insert("DISCOVERD".into(), host.discoverd_url.clone());
    }
    env.extend(config.env.iter().map(|(key, value)| (key.clone(), value.clone())));
    env.insert("HOSTNAME".into(), id.hostname().to_owned());
    env.insert("container".into(), String::new());
    env
}

/// `max_fd` and `max_procs` as resource limits, where both request and limit are given.
pub(crate) fn rlimits(job: &Job) -> Vec<(String, u64, u64)> {
    let limit = |name: &str, kind| {
        let resource = job.resources.0.get(&kind)?;
        let (soft, hard) = (u64::try_from(resource.request?).ok()?, u64::try_from(resource.limit?).ok()?);
        Some((name.to_owned(), soft.min(hard), hard))
    };
    [("nofile", ResourceType::MaxFd), ("nproc", ResourceType::MaxProcs)]
        .into_iter()
        .filter_map(|(name, kind)| limit(name, kind))
        .collect()
}

/// Size of the job's writable layer in bytes.
pub(crate) fn scratch_bytes(job: &Job) -> u64 {
    let default = ResourceType::TempDisk.default_limit().unwrap_or(100 << 20);
    let limit = job.resources.limit(ResourceType::TempDisk).filter(|limit| *limit > 0).unwrap_or(default);
    limit.unsigned_abs()
}

/// Memory limit in bytes; the host limits also jobs that ask for none.
pub(crate) fn memory_bytes(job: &Job) -> i64 {
    let default = ResourceType::Memory.default_limit().unwrap_or(1 << 30);
    job.resources.limit(ResourceType::Memory).filter(|limit| *limit > 0).unwrap_or(default)
}

/// CPU shares of a job that has a limit: 1024 for a whole core.
pub(crate) fn cpu_shares(job: &Job) -> Option<u64> {
    let milli = u64::try_from(job.resources.limit(ResourceType::Cpu)?).ok()?;
    Some((milli.saturating_mul(1024) / 1000).max(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flynn_types::host::{Mount, Port};
    use flynn_types::resource::{Resource, Resources};

    fn job() -> Job {
        Job { config: ContainerConfig { args: vec!["sh".into()], ..ContainerConfig::default() }, ..Job::default() }
    }

    fn partitions() -> Vec<String> {
        vec!["user".into(), "system".into()]
    }

    #[test]
    fn unfit_jobs_are_told_why() {
        let port = |proto: &str| Port { proto: proto.into(), ..Port::default() };
        let with = |change: fn(&mut Job)| {
            let mut job = job();
            change(&mut job);
            check(&job, &partitions()).unwrap_err().to_string()
        };
        assert_eq!(with(|job| job.partition = "nonexistent".into()), "host: invalid job partition \"nonexistent\"");
        assert_eq!(with(|job| job.config.mounts.push(Mount::default())), "host: invalid empty mount target");
        assert_eq!(with(|job| job.profiles.push("gpu".into())), "unknown job profile: gpu");
        let mut job = job();
        job.config.ports = vec![port("tcp"), port("sctp")];
        assert_eq!(check(&job, &partitions()).unwrap_err().to_string(), "unknown port proto \"sctp\"");
    }

    #[test]
    fn ports_without_a_number_count_from_5000() {
        let mut config = ContainerConfig {
            ports: vec![Port::default(), Port { port: 80, ..Port::default() }],
            ..ContainerConfig::default()
        };
        assign_ports(&mut config, Some("100.100.3.2"));
        for (key, value) in [("PORT", "5000"), ("PORT_0", "5000"), ("PORT_1", "80"), ("EXTERNAL_IP", "100.100.3.2")] {
            assert_eq!(config.env[key], value, "{key}");
        }
    }

    #[test]
    fn the_jobs_environment_wins_over_the_hosts_but_not_over_its_name() {
        let mut config = ContainerConfig::default();
        for key in ["PATH", "DISCOVERD", "HOSTNAME"] {
            config.env.insert(key.into(), "mine".into());
        }
        let host =
            HostFacts { external_ip: "10.0.0.1".into(), listen_ip: String::new(), discoverd_url: "http://x".into() };
        let env = environment(&"host1-abc".parse().unwrap(), &config, &host);
        for (key, value) in [
            ("PATH", "mine"),
            ("DISCOVERD", "mine"),
            ("HOSTNAME", "abc"),
            ("EXTERNAL_IP", "10.0.0.1"),
            ("LISTEN_IP", ""),
            ("container", ""),
            ("TERM", "xterm"),
            ("HOME", "/"),
        ] {
            assert_eq!(env[key], value, "{key}");
        }
    }

    #[test]
    fn limits_apply_as_the_specification_says() {
        let mut job = job();
        assert_eq!((scratch_bytes(&job), memory_bytes(&job), cpu_shares(&job)), (100 << 20, 1 << 30, None));
        job.resources = Resources::parse("cpu=500,memory=64M,temp_disk=1G").unwrap();
        job.resources.0.insert(ResourceType::MaxFd, Resource { request: Some(100), limit: Some(200) });
        assert_eq!((scratch_bytes(&job), memory_bytes(&job), cpu_shares(&job)), (1 << 30, 64 << 20, Some(512)));
        assert_eq!(rlimits(&job), [("nofile".to_owned(), 100, 200)]);
    }
}
