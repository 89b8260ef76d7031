//! What is mounted in a container (spec flynn-host section 6.4).

use std::path::Path;

use flynn_types::{host, init};
use serde_json::{Value, json};

use super::{HostFacts, InvalidSpec, text};
use crate::bundle;
use crate::profile::Granted;
use crate::spec::{ContainerSpec, Mount};

pub(super) const CGROUP_PATH: &str = "/sys/fs/cgroup";

/// Size of `/dev/shm`.
const SHM_SIZE: &str = "size=65536k";

/// `MS_*` flags of mount(2) that a job may ask for, with the names of mount(8).
const FLAGS: [(i64, &str); 9] = [
    (1, "ro"),
    (2, "nosuid"),
    (4, "nodev"),
    (8, "noexec"),
    (16, "sync"),
    (128, "dirsync"),
    (1024, "noatime"),
    (2048, "nodiratime"),
    (1 << 21, "relatime"),
];

/// All mounts in order.
pub(super) fn all(spec: &ContainerSpec, granted: &Granted, host: &HostFacts) -> Result<Vec<Value>, InvalidSpec> {
    let mut mounts = kernel(host.mqueue);
    mounts.extend(cgroups(spec.writeable_cgroups, host)?);
    mounts.extend(ours(spec, host)?);
    for mount in &spec.mounts {
        mounts.push(asked(mount)?);
    }
    for volume in &spec.volumes {
        mounts.push(bind_tree(&volume.source, &volume.target, volume.writeable)?);
    }
    for Mount { source, target, writeable } in &granted.mounts {
        let access = if *writeable { "rw" } else { "rro" };
        // With its devices: that is what the profile is for.
        mounts.push(mount("bind", text(source)?, text(target)?, &["rbind", "rnosuid", access]));
    }
    Ok(mounts)
}

fn kernel(mqueue: bool) -> Vec<Value> {
    let mut mounts = vec![
        mount("proc", "proc", "/proc", &["noexec", "nosuid", "nodev"]),
        mount("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "devpts",
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("tmpfs", "shm", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", SHM_SIZE]),
    ];
    if mqueue {
        mounts.push(mount("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]));
    }
    mounts.push(mount("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]));
    mounts
}

/// The container's own cgroups, and no others, where programs look for their limits.
fn cgroups(writeable: bool, host: &HostFacts) -> Result<Vec<Value>, InvalidSpec> {
    let mut mounts = Vec::new();
    if host.cgroup_mounts.iter().any(|cgroup| !cgroup.name.is_empty()) {
        mounts.push(mount("tmpfs", "tmpfs", CGROUP_PATH, &["nosuid", "noexec", "nodev", "mode=755", "size=64k"]));
    }
    for cgroup in &host.cgroup_mounts {
        let target = Path::new(CGROUP_PATH).join(&cgroup.name);
        let access = if writeable && !cgroup.always_read_only { "rw" } else { "ro" };
        let options = ["bind", "nosuid", "noexec", "nodev", access];
        mounts.push(mount("bind", text(&cgroup.source)?, text(&target)?, &options));
    }
    Ok(mounts)
}

/// The files that belong to our contract with init and images.
fn ours(spec: &ContainerSpec, host: &HostFacts) -> Result<Vec<Value>, InvalidSpec> {
    const FILE: [&str; 4] = ["bind", "nosuid", "nodev", "ro"];
    let in_run_dir = |name: &str| spec.run_dir.join(name);
    let mut mounts = vec![
        mount("bind", text(&host.init_binary)?, init::INIT_PATH, &FILE),
        mount("bind", text(&in_run_dir(bundle::INIT_CONFIG))?, init::CONFIG_PATH, &FILE),
        mount("bind", text(&in_run_dir(bundle::SHARED))?, init::SHARED_PATH, &["bind", "nosuid", "nodev", "rw"]),
    ];
    if let Some(upper) = &host.upper_dir {
        mounts.push(mount("bind", text(upper)?, init::DIFF_PATH, &FILE));
    }
    if let Some(resolv_conf) = &spec.resolv_conf {
        mounts.push(mount("bind", text(resolv_conf)?, "/etc/resolv.conf", &FILE));
    }
    Ok(mounts)
}

/// A mount that the job asks for. Note that `target` is the host's side.
fn asked(asked: &host::Mount) -> Result<Value, InvalidSpec> {
    let location = Path::new(&asked.location);
    if asked.device.is_empty() {
        return bind_tree(Path::new(&asked.target), location, asked.writeable);
    }
    if asked.data.contains(['\0', '\n']) {
        return Err(InvalidSpec::MountData(asked.location.clone()));
    }
    let mut options: Vec<&str> =
        FLAGS.iter().filter(|(flag, _)| asked.flags & flag != 0).map(|(_, name)| *name).collect();
    if !asked.writeable && !options.contains(&"ro") {
        options.push("ro");
    }
    options.extend(asked.data.split(',').filter(|option| !option.is_empty()));
    Ok(mount(&asked.device, &asked.target, absolute(location)?, &options))
}

/// A directory of the host with all that is mounted below it. It brings neither set-id programs nor devices, unless it
/// is one of the host's devices itself.
fn bind_tree(source: &Path, target: &Path, writeable: bool) -> Result<Value, InvalidSpec> {
    let mut options = vec!["rbind", "rnosuid"];
    if !source.starts_with("/dev") {
        options.push("rnodev");
    }
    if !writeable {
        options.push("rro");
    }
    Ok(mount("bind", text(source)?, absolute(target)?, &options))
}

fn absolute(path: &Path) -> Result<&str, InvalidSpec> {
    let text = text(path)?;
    if path.is_absolute() { Ok(text) } else { Err(InvalidSpec::MountLocation(text.to_owned())) }
}

fn mount(kind: &str, source: &str, target: &str, options: &[&str]) -> Value {
    json!({ "destination": target, "type": kind, "source": source, "options": options })
}
