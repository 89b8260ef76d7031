//! Which cgroup hierarchies are mounted where.

use std::path::{Path, PathBuf};

use rustix::fs::statfs;
use rustix::mount::MountFlags;

use super::{CONTROLLERS, CgroupError};

const CGROUP: &str = "/sys/fs/cgroup";
/// linux/magic.h
const CGROUP2_SUPER_MAGIC: i128 = 0x6367_7270;

/// One hierarchy of version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// For example `cpu` and `cpuacct`, or `name=systemd`.
    pub(super) controllers: Vec<String>,
    pub(super) mount: PathBuf,
}

impl Hierarchy {
    pub(super) fn is(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hierarchies {
    V1 {
        /// Those with the controllers for containers.
        controllers: Vec<Hierarchy>,
        /// Those that only group processes: systemd's, and the unified one of hybrid machines.
        tracking: Vec<PathBuf>,
    },
    V2(PathBuf),
}

impl Hierarchies {
    /// Looks at what is mounted; on version 1 mounts the controllers that the kernel has and nobody mounted.
    pub(super) fn detect() -> Result<Self, CgroupError> {
        let root = Path::new(CGROUP);
        // The same rule as libcontainer's, which must come to the same result.
        let kind = statfs(root).map_err(|_| CgroupError::NotMounted)?.f_type;
        if i128::from(kind) == CGROUP2_SUPER_MAGIC {
            return Ok(Self::V2(root.to_owned()));
        }
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")
            .map_err(CgroupError::io("read", Path::new("/proc/self/mountinfo")))?;
        let mut found = Self::v1(&mountinfo);
        let Self::V1 { controllers, .. } = &mut found else { return Err(CgroupError::NotMounted) };
        if controllers.is_empty() {
            return Err(CgroupError::NotMounted);
        }
        let missing: Vec<&str> =
            CONTROLLERS.into_iter().filter(|name| !controllers.iter().any(|hierarchy| hierarchy.is(name))).collect();
        let mut unavailable = Vec::new();
        for name in missing {
            match mount(name) {
                Ok(hierarchy) => controllers.push(hierarchy),
                Err(_) => unavailable.push(name.to_owned()),
            }
        }
        let needed = |name: &String| matches!(name.as_str(), "cpu" | "memory" | "devices");
        if unavailable.iter().any(needed) {
            return Err(CgroupError::Missing(unavailable));
        }
        Ok(found)
    }

    /// The hierarchies of a version 1 or hybrid machine by its mountinfo (proc_pid_mountinfo(5)).
    fn v1(mountinfo: &str) -> Self {
        let (mut controllers, mut tracking): (Vec<Hierarchy>, Vec<PathBuf>) = (Vec::new(), Vec::new());
        for line in mountinfo.lines() {
            let Some((place, kind)) = line.split_once(" - ") else { continue };
            let Some(mount) = place.split(' ').nth(4).map(PathBuf::from).filter(|mount| mount.starts_with(CGROUP))
            else {
                continue;
            };
            match kind.split(' ').collect::<Vec<_>>()[..] {
                ["cgroup2", ..] => tracking.push(mount),
                ["cgroup", _, options] => {
                    let of_interest = |option: &&str| CONTROLLERS.contains(option);
                    let own: Vec<String> = options.split(',').filter(of_interest).map(str::to_owned).collect();
                    if !own.is_empty() {
                        if !controllers.iter().any(|known| known.controllers == own) {
                            controllers.push(Hierarchy { controllers: own, mount });
                        }
                    } else if options.split(',').any(|option| option == "name=systemd") {
                        tracking.push(mount);
                    }
                }
                _ => {}
            }
        }
        Self::V1 { controllers, tracking }
    }

    /// Directories of `cgroup` in the hierarchies with controllers (version 1; none on version 2).
    pub(super) fn directories(&self, cgroup: &str) -> Vec<(&Hierarchy, PathBuf)> {
        match self {
            Self::V1 { controllers, .. } => {
                controllers.iter().map(|hierarchy| (hierarchy, below(&hierarchy.mount, cgroup))).collect()
            }
            Self::V2(_) => Vec::new(),
        }
    }

    /// Every directory in which a container's cgroup may be.
    pub(super) fn all_directories(&self, cgroup: &str) -> Vec<PathBuf> {
        match self {
            Self::V1 { .. } => self.directories(cgroup).into_iter().map(|(_, directory)| directory).collect(),
            Self::V2(mount) => vec![below(mount, cgroup)],
        }
    }

    /// Where a process has to go to be accounted and tracked apart from its parent.
    pub(super) fn accounting_directories(&self, cgroup: &str) -> Vec<PathBuf> {
        match self {
            Self::V1 { tracking, .. } => {
                let memory = self.directory("memory", cgroup);
                tracking.iter().map(|mount| below(mount, cgroup)).chain(memory).collect()
            }
            Self::V2(mount) => vec![below(mount, cgroup)],
        }
    }

    /// Directory of `cgroup` where `controller` is found.
    pub(super) fn directory(&self, controller: &str, cgroup: &str) -> Option<PathBuf> {
        match self {
            Self::V1 { controllers, .. } => {
                let hierarchy = controllers.iter().find(|hierarchy| hierarchy.is(controller))?;
                Some(below(&hierarchy.mount, cgroup))
            }
            Self::V2(mount) => Some(below(mount, cgroup)),
        }
    }
}

pub(super) fn below(mount: &Path, cgroup: &str) -> PathBuf {
    mount.join(cgroup.trim_start_matches('/'))
}

fn mount(controller: &str) -> std::io::Result<Hierarchy> {
    let place = Path::new(CGROUP).join(controller);
    std::fs::create_dir_all(&place)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let data = std::ffi::CString::new(controller)?;
    if let Err(err) = rustix::mount::mount("cgroup", &place, "cgroup", flags, data.as_c_str()) {
        let _ = std::fs::remove_dir(&place);
        return Err(err.into());
    }
    Ok(Hierarchy { controllers: vec![controller.to_owned()], mount: place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_machine_is_understood() {
        let mountinfo = "\
            30 24 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755\n\
            31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw\n\
            32 30 0:28 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd\n\
            33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:12 - cgroup cgroup rw,cpu,cpuacct\n\
            34 30 0:30 / /sys/fs/cgroup/memory rw shared:13 - cgroup cgroup rw,memory\n\
            35 30 0:31 / /sys/fs/cgroup/net_cls rw shared:14 - cgroup cgroup rw,net_cls\n\
            36 30 0:30 / /elsewhere rw shared:13 - cgroup cgroup rw,memory\n";
        let found = Hierarchies::v1(mountinfo);
        let directory = |controller| found.directory(controller, "/flynn/user/a");
        assert_eq!(directory("cpuacct"), Some("/sys/fs/cgroup/cpu,cpuacct/flynn/user/a".into()));
        assert_eq!(directory("memory"), Some("/sys/fs/cgroup/memory/flynn/user/a".into()));
        assert_eq!(directory("net_cls"), None);
        let monitors: Vec<PathBuf> =
            ["unified", "systemd", "memory"].map(|name| format!("/sys/fs/cgroup/{name}/flynn/.monitors").into()).into();
        assert_eq!(found.accounting_directories("flynn/.monitors"), monitors);
    }

    #[test]
    fn version_2_has_one_directory_for_all() {
        let found = Hierarchies::V2("/sys/fs/cgroup".into());
        let expected: PathBuf = "/sys/fs/cgroup/flynn/user/a".into();
        assert_eq!(found.directory("memory", "/flynn/user/a"), Some(expected.clone()));
        assert_eq!(found.all_directories("/flynn/user/a"), [expected]);
    }
}
