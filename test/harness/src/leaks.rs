//! What is left: on the machine after a cluster, and on a host after a fault.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::pool;
use crate::process::{ProcessId, in_namespaces};
use crate::record::Record;
use crate::wait::wait_until;

/// The kernel takes some things apart after the processes that had them are gone.
const KERNEL_PATIENCE: Duration = Duration::from_secs(10);

/// Everything the kernel holds for a host, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    pub mounts: BTreeSet<String>,
    pub interfaces: BTreeSet<String>,
    pub cgroups: BTreeSet<String>,
    /// Files behind loop devices.
    pub loops: BTreeSet<String>,
    /// Network namespaces that processes are in.
    pub network_namespaces: BTreeSet<String>,
    /// Other than process 1 and the daemon.
    pub processes: BTreeSet<String>,
}

impl Inventory {
    pub(crate) fn take(init: ProcessId, cgroup: &str, dir: &Path, daemons: &[ProcessId]) -> anyhow::Result<Self> {
        let mounts = std::fs::read_to_string(init.proc("mountinfo")).context("read the host's mounts")?;
        let links = std::fs::read_to_string(init.proc("net/dev")).context("read the host's interfaces")?;
        let links = links.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
        let namespace = crate::process::namespace(init.pid, "pid").context("the host has gone")?;
        let processes = in_namespaces("pid", &[namespace]);
        // A container has a process namespace of its own: found by its control group.
        let mut inside: Vec<ProcessId> = processes.iter().map(|process| process.id).collect();
        for folder in cgroup_folders(cgroup) {
            let members = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            inside.extend(members.lines().filter_map(|pid| ProcessId::of(pid.parse().ok()?).ok()));
        }
        let others = inside.iter().filter(|id| **id != init && !daemons.contains(id) && id.is_alive());
        Ok(Self {
            mounts: mounts.lines().filter_map(|line| line.split(' ').nth(4).map(str::to_owned)).collect(),
            interfaces: links.collect(),
            cgroups: cgroup_folders(cgroup).iter().map(|path| path.display().to_string()).collect(),
            loops: loop_files(dir),
            network_namespaces: inside
                .iter()
                .filter_map(|id| crate::process::namespace(id.pid, "net"))
                .map(|inode| inode.to_string())
                .collect(),
            processes: others.map(|id| describe(*id)).collect(),
        })
    }

    /// What is here and was not there before, one line each.
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        let kinds = [
            ("mount", &self.mounts, &before.mounts),
            ("interface", &self.interfaces, &before.interfaces),
            ("control group", &self.cgroups, &before.cgroups),
            ("loop device of", &self.loops, &before.loops),
            ("network namespace", &self.network_namespaces, &before.network_namespaces),
            ("process", &self.processes, &before.processes),
        ];
        kinds
            .into_iter()
            .flat_map(|(kind, now, then)| now.difference(then).map(move |name| format!("{kind} {name}")))
            .collect()
    }
}

fn describe(id: ProcessId) -> String {
    let command = std::fs::read(id.proc("cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    format!("{} {}", id.pid, command.trim())
}

/// Roots of all control group hierarchies: one on a machine with version 2 alone, else one per controller.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_cgroup = |line: &&str| line.split(" - ").nth(1).is_some_and(|rest| rest.starts_with("cgroup"));
    mounts.lines().filter(is_cgroup).filter_map(|line| line.split(' ').nth(4).map(PathBuf::from)).collect()
}

fn cgroup_folders(cgroup: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo: Vec<_> = hierarchies().iter().map(|root| root.join(cgroup)).filter(|path| path.is_dir()).collect();
    while let Some(folder) = todo.pop() {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        todo.extend(
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
        );
        found.push(folder);
    }
    found
}

/// Removes the control groups below that one, and itself, deepest first. Those with processes stay, for
/// [`after_end`] to find.
pub(crate) fn remove_cgroups(cgroup: &str) {
    let _ = wait_until(KERNEL_PATIENCE, "control groups are removed", || {
        let mut folders = cgroup_folders(cgroup);
        folders.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        let failed: Vec<_> = folders.into_iter().filter(|folder| std::fs::remove_dir(folder).is_err()).collect();
        if failed.is_empty() { Ok(()) } else { Err(failed) }
    });
}

/// Files below `dir` that are behind loop devices.
fn loop_files(dir: &Path) -> BTreeSet<String> {
    let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let files = devices.filter_map(|device| std::fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.map(|file| file.trim().to_owned()).filter(|file| Path::new(file).starts_with(dir)).collect()
}

/// What a cluster that ended has left on the machine.
pub(crate) fn after_end(record: &Record) -> Vec<String> {
    let look = || {
        let mut left = Vec::new();
        for process in in_namespaces("pid", &record.namespaces) {
            left.push(format!("process {} {}", process.id.pid, process.arguments.join(" ")));
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        left.extend(
            points.filter(|point| Path::new(point).starts_with(&record.dir)).map(|point| format!("mount {point}")),
        );
        left.extend(cgroup_folders(&record.cgroup()).iter().map(|path| format!("control group {}", path.display())));
        left.extend(loop_files(&record.dir).into_iter().map(|file| format!("loop device of {file}")));
        let pools = record.hosts.iter().map(|host| record.pool(&host.id)).filter(|name| pool::is_imported(name));
        left.extend(pools.map(|name| format!("ZFS pool {name}")));
        if left.is_empty() { Ok(()) } else { Err(left) }
    };
    match wait_until(KERNEL_PATIENCE, "nothing is left", look) {
        Ok(()) => Vec::new(),
        Err(_) => look().err().unwrap_or_default(),
    }
}
