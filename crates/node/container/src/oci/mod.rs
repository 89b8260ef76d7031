//! What a container may see and do, as an OCI runtime configuration. Pure: the host's facts come in as values.
//!
//! The configuration is plain JSON in the format of the OCI runtime specification 1.x, so that any runtime could carry
//! it out.

mod capabilities;
mod devices;
mod host;
mod mounts;
mod seccomp;
#[cfg(test)]
mod tests;

pub use capabilities::DEFAULT_CAPABILITIES;
use flynn_types::init;
use serde_json::{Value, json};

pub(crate) use devices::{DeviceRule, device_rules};
pub(crate) use host::{CgroupMount, HostFacts, apparmor_profile_loaded, has_file_system, upper_dir};

use crate::filter::Policy;
use crate::profile::Granted;
use crate::spec::ContainerSpec;

/// Name of the AppArmor profile that confines jobs where it is loaded.
const APPARMOR_PROFILE: &str = "flynn-default";

/// Hidden from the container (spec flynn-host section 6.4).
const MASKED_PATHS: [&str; 11] = [
    "/proc/kcore",
    "/proc/acpi",
    "/proc/asound",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: [&str; 5] = ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"];

/// Why a job asks for a container that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpec {
    #[error("unknown capability {0:?}; capabilities are named as in capabilities(7), for example CAP_NET_ADMIN")]
    Capability(String),
    #[error("mount location {0:?} is not an absolute path")]
    MountLocation(String),
    #[error("mount of {0}: its data may hold no NUL and no newline")]
    MountData(String),
    #[error("device path {0:?} is not below /dev")]
    DevicePath(String),
    #[error("path {0:?} is not valid UTF-8")]
    Path(std::path::PathBuf),
}

/// The configuration of a container whose cgroup is `cgroup`.
pub(crate) fn config(
    spec: &ContainerSpec,
    granted: &Granted,
    cgroup: &str,
    host: &HostFacts,
) -> Result<Value, InvalidSpec> {
    let capabilities = capabilities::of(spec, granted, host.capabilities)?;
    let mut process = json!({
        "terminal": false,
        "user": { "uid": 0, "gid": 0, "umask": 0o022 },
        "args": [init::INIT_PATH],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"],
        "cwd": "/",
        "capabilities": {
            "bounding": capabilities,
            "effective": capabilities,
            "inheritable": capabilities,
            "permitted": capabilities,
            "ambient": capabilities,
        },
        "noNewPrivileges": true,
    });
    if host.apparmor && !spec.builder {
        process["apparmorProfile"] = json!(APPARMOR_PROFILE);
    }
    let mut readonly: Vec<&str> = READONLY_PATHS.into();
    if !host.cgroup_mounts.is_empty() && !spec.writeable_cgroups {
        readonly.push(mounts::CGROUP_PATH);
    }
    let linux = json!({
        "namespaces": namespaces(spec)?,
        "cgroupsPath": cgroup,
        "devices": devices::created(spec, granted)?,
        "maskedPaths": MASKED_PATHS,
        "readonlyPaths": readonly,
    });
    let mut config = json!({
        "ociVersion": "1.2.0",
        "root": { "path": text(&spec.rootfs)?, "readonly": false },
        "process": process,
        "mounts": mounts::all(spec, granted, host)?,
        "linux": linux,
    });
    if spec.netns.is_some() {
        config["hostname"] = json!(spec.hostname);
    }
    Ok(config)
}

/// The container's system call filter. Who may administer the system is not held by one.
pub(crate) fn filter(spec: &ContainerSpec, granted: &Granted, host: &HostFacts) -> Result<Option<Policy>, InvalidSpec> {
    let capabilities = capabilities::of(spec, granted, host.capabilities)?;
    let administers = capabilities.iter().any(|capability| *capability == "CAP_SYS_ADMIN");
    Ok((!administers).then(|| seccomp::policy(&capabilities, spec.builder)))
}

fn namespaces(spec: &ContainerSpec) -> Result<Vec<Value>, InvalidSpec> {
    let mut namespaces = vec![json!({ "type": "mount" }), json!({ "type": "uts" }), json!({ "type": "ipc" })];
    if !spec.host_pid {
        namespaces.push(json!({ "type": "pid" }));
    }
    if let Some(path) = &spec.netns {
        namespaces.push(json!({ "type": "network", "path": text(path)? }));
    }
    Ok(namespaces)
}

fn text(path: &std::path::Path) -> Result<&str, InvalidSpec> {
    path.to_str().ok_or_else(|| InvalidSpec::Path(path.to_owned()))
}
