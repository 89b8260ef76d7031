//! Control groups of the containers, on version 1 (also hybrid) and version 2.
//!
//! A container's cgroup is `/<root>/<partition>/<job id>` in every hierarchy; libcontainer makes it and puts the
//! container in. The monitors live in `/<root>/.monitors`, outside of the daemon's cgroup, so that neither its limits
//! nor systemd's stopping of the daemon's cgroup reaches them.

mod hierarchy;
mod limits;
mod usage;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal};

use crate::bundle::{CgroupWrite, DeviceProgram};
use crate::oci::{CgroupMount, DeviceRule};
use crate::spec::Limits;
use hierarchy::Hierarchies;
pub(crate) use limits::cpu_weight;
pub(crate) use usage::Usage;

/// Begins with a dot, which no partition's name does.
const MONITORS: &str = ".monitors";
/// Controllers for containers.
const CONTROLLERS: [&str; 8] = ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"];
/// Controllers of version 2 that are switched on for containers.
const CONTROLLERS_V2: [&str; 5] = ["cpu", "memory", "io", "pids", "cpuset"];

/// Why cgroups cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("no cgroups are mounted at /sys/fs/cgroup; containers need them, mount the cgroup2 file system there")]
    NotMounted,
    #[error("the cgroup controllers {0:?} are not mounted; containers cannot be limited without")]
    Missing(Vec<String>),
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl CgroupError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// The machine's cgroups, seen from our root.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    hierarchies: Hierarchies,
    /// Without a leading slash.
    root: String,
}

impl Cgroups {
    pub(crate) fn detect(root: &str) -> Result<Self, CgroupError> {
        Ok(Self { hierarchies: Hierarchies::detect()?, root: root.to_owned() })
    }

    /// Makes the partitions with their weights, and mounts controllers that are missing (version 1).
    pub(crate) fn ensure_partitions(&self, partitions: &[(String, u64)]) -> Result<(), CgroupError> {
        if let Hierarchies::V2(mount) = &self.hierarchies {
            let mut path = mount.clone();
            enable_controllers(&path);
            for component in self.root.split('/') {
                path.push(component);
                create(&path)?;
                enable_controllers(&path);
            }
        }
        for (name, shares) in partitions {
            let partition = format!("{}/{name}", self.root);
            for (hierarchy, directory) in self.hierarchies.directories(&partition) {
                create(&directory)?;
                if hierarchy.is("cpuset") {
                    inherit_cpuset(&hierarchy.mount, &partition)?;
                }
                if hierarchy.is("cpu") {
                    let file = directory.join("cpu.shares");
                    write(&file, &(*shares).clamp(2, 262_144).to_string())
                        .map_err(CgroupError::io("set weight in", &file))?;
                }
            }
            if let Hierarchies::V2(mount) = &self.hierarchies {
                let directory = mount.join(&partition);
                create(&directory)?;
                enable_controllers(&directory);
                let file = directory.join("cpu.weight");
                write(&file, &cpu_weight(*shares).to_string()).map_err(CgroupError::io("set weight in", &file))?;
            }
        }
        Ok(())
    }

    /// Path of a container's cgroup.
    pub(crate) fn container(&self, partition: &str, id: &str) -> String {
        format!("/{}/{partition}/{id}", self.root)
    }

    /// Ids of the jobs that have a cgroup.
    pub(crate) fn job_ids(&self) -> Vec<String> {
        self.children().into_iter().map(|(_, id)| id).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The cgroup of the job `id` in whatever partition.
    pub(crate) fn find(&self, id: &str) -> Option<String> {
        let (partition, id) = self.children().into_iter().find(|(_, child)| child == id)?;
        Some(self.container(&partition, &id))
    }

    /// Partition and name of all cgroups that are a container's.
    fn children(&self) -> BTreeSet<(String, String)> {
        let mut children = BTreeSet::new();
        for directory in self.hierarchies.all_directories(&self.root) {
            for partition in subdirectories(&directory).filter(|name| !name.starts_with('.')) {
                let inside = subdirectories(&directory.join(&partition));
                children.extend(inside.map(|id| (partition.clone(), id)));
            }
        }
        children
    }

    pub(crate) fn exists(&self, cgroup: &str) -> bool {
        self.hierarchies.all_directories(cgroup).iter().any(|directory| directory.exists())
    }

    /// Sends SIGKILL to all processes of a cgroup and of those below it, and lets no new ones appear. They may take
    /// their time to die.
    pub(crate) fn kill(&self, cgroup: &str) {
        for directory in self.hierarchies.all_directories(cgroup) {
            // Each of these exists in some versions and hierarchies only.
            let _ = write(&directory.join("pids.max"), "0");
            let _ = write(&directory.join("freezer.state"), "THAWED");
            if write(&directory.join("cgroup.kill"), "1").is_err() {
                kill_tree(&directory);
            }
        }
    }

    /// Removes an empty cgroup and those below it, in all hierarchies.
    pub(crate) fn remove(&self, cgroup: &str) -> Result<(), CgroupError> {
        for directory in self.hierarchies.all_directories(cgroup) {
            remove_tree(&directory).map_err(CgroupError::io("remove cgroup", &directory))?;
        }
        Ok(())
    }

    /// Removes our root and all below it, the monitors' cgroup included, once no process is left.
    pub(crate) fn remove_root(&self) -> Result<(), CgroupError> {
        let tracking = self.hierarchies.accounting_directories(&self.root);
        for directory in tracking.into_iter().chain(self.hierarchies.all_directories(&self.root)) {
            remove_tree(&directory).map_err(CgroupError::io("remove cgroup", &directory))?;
        }
        Ok(())
    }

    /// Makes the monitors' cgroup and gives its directories.
    pub(crate) fn monitor_directories(&self) -> Result<Vec<PathBuf>, CgroupError> {
        let directories = self.hierarchies.accounting_directories(&format!("{}/{MONITORS}", self.root));
        for directory in &directories {
            create(directory)?;
        }
        Ok(directories)
    }

    /// What has to be written for the limits and, on version 1, the list of devices.
    pub(crate) fn limits(&self, cgroup: &str, limits: &Limits, rules: &[DeviceRule]) -> Vec<CgroupWrite> {
        limits::writes(&self.hierarchies, cgroup, limits, rules)
    }

    pub(crate) fn device_program(&self, cgroup: &str, rules: Vec<DeviceRule>) -> Option<DeviceProgram> {
        match &self.hierarchies {
            Hierarchies::V1 { .. } => None,
            Hierarchies::V2(mount) => Some(DeviceProgram { cgroup: hierarchy::below(mount, cgroup), rules }),
        }
    }

    /// Version 1: the file that announces lack of memory to an event descriptor.
    pub(crate) fn oom_control(&self, cgroup: &str) -> Option<PathBuf> {
        Some(self.hierarchies.directory("memory", cgroup)?.join("memory.oom_control"))
            .filter(|_| matches!(self.hierarchies, Hierarchies::V1 { .. }))
    }

    /// The file that counts processes killed for lack of memory.
    pub(crate) fn oom_file(&self, cgroup: &str) -> Option<PathBuf> {
        match &self.hierarchies {
            Hierarchies::V1 { .. } => self.oom_control(cgroup),
            Hierarchies::V2(mount) => Some(hierarchy::below(mount, cgroup).join("memory.events")),
        }
    }

    /// Files that name the container's processes: one is enough, as it is in all hierarchies.
    pub(crate) fn procs_files(&self, cgroup: &str) -> Vec<PathBuf> {
        self.hierarchies
            .directory("memory", cgroup)
            .map(|directory| directory.join("cgroup.procs"))
            .into_iter()
            .collect()
    }

    /// How the container sees its own cgroups.
    pub(crate) fn container_mounts(&self, cgroup: &str) -> Vec<CgroupMount> {
        match &self.hierarchies {
            Hierarchies::V2(mount) => {
                let source = hierarchy::below(mount, cgroup);
                vec![CgroupMount { source, name: String::new(), always_read_only: false }]
            }
            Hierarchies::V1 { controllers, .. } => {
                let mounts = controllers.iter().filter_map(|hierarchy| {
                    let name = hierarchy.mount.file_name()?.to_str()?.to_owned();
                    let source = hierarchy::below(&hierarchy.mount, cgroup);
                    Some(CgroupMount { source, name, always_read_only: hierarchy.is("devices") })
                });
                mounts.collect()
            }
        }
    }

    /// What the container used so far. What cannot be read is 0; an error means that there is no such cgroup.
    pub(crate) fn usage(&self, cgroup: &str) -> io::Result<Usage> {
        Usage::read(&self.hierarchies, cgroup)
    }
}

fn create(directory: &Path) -> Result<(), CgroupError> {
    std::fs::create_dir_all(directory).map_err(CgroupError::io("make cgroup", directory))
}

/// Writes a cgroup's file, which must exist.
pub(crate) fn write(file: &Path, value: &str) -> io::Result<()> {
    use std::io::Write as _;
    std::fs::OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

/// Lets children have the controllers; what cannot be had is missing later, where it is needed.
fn enable_controllers(directory: &Path) {
    let file = directory.join("cgroup.subtree_control");
    for controller in CONTROLLERS_V2 {
        if let Err(err) = write(&file, &format!("+{controller}")) {
            tracing::debug!(file = %file.display(), controller, %err, "cgroup controller cannot be enabled");
        }
    }
}

/// A new cgroup of version 1 has no processors and memory nodes, and can then hold no process.
fn inherit_cpuset(mount: &Path, cgroup: &str) -> Result<(), CgroupError> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let mut directory = mount.to_owned();
        let mut value = String::new();
        for component in std::iter::once("").chain(cgroup.split('/')) {
            if !component.is_empty() {
                directory.push(component);
            }
            let file = directory.join(name);
            let own = std::fs::read_to_string(&file).map_err(CgroupError::io("read", &file))?;
            if own.trim().is_empty() {
                write(&file, value.trim()).map_err(CgroupError::io("set processors in", &file))?;
            } else {
                value = own;
            }
        }
    }
    Ok(())
}

fn subdirectories(directory: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.filter_map(|entry| entry.file_name().into_string().ok())
}

fn kill_tree(directory: &Path) {
    for child in subdirectories(directory) {
        kill_tree(&directory.join(child));
    }
    let processes = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for processes of other process namespaces, where we run in one ourselves.
    for pid in processes.lines().filter_map(|line| line.trim().parse().ok()).filter_map(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    for child in subdirectories(directory) {
        remove_tree(&directory.join(child))?;
    }
    match std::fs::remove_dir(directory) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}
