//! What the configuration of a container depends on besides the job.

use std::path::{Path, PathBuf};

/// Facts of this machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostFacts {
    /// Upper directory of the root's overlay: what the job writes.
    pub(crate) upper_dir: Option<PathBuf>,
    /// The container's own cgroups, as they appear in it.
    pub(crate) cgroup_mounts: Vec<CgroupMount>,
    /// Capabilities that this process can give, a bit each.
    pub(crate) capabilities: u64,
    pub(crate) mqueue: bool,
    pub(crate) apparmor: bool,
    pub(crate) init_binary: PathBuf,
}

/// A cgroup of the container below `/sys/fs/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CgroupMount {
    pub(crate) source: PathBuf,
    /// Name below `/sys/fs/cgroup`, empty on version 2.
    pub(crate) name: String,
    /// Never writeable: a container must not widen its own device list.
    pub(crate) always_read_only: bool,
}

/// The upper directory of the overlay that is mounted at `root`.
pub(crate) fn upper_dir(root: &Path) -> Option<PathBuf> {
    let root = std::fs::canonicalize(root).ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    // The last mount at a place is the visible one.
    mounts.lines().rev().find_map(|line| overlay_upper_dir(line, &root))
}

/// `upperdir` of a line of mountinfo (proc_pid_mountinfo(5)), if it is an overlay at `root`.
fn overlay_upper_dir(line: &str, root: &Path) -> Option<PathBuf> {
    let (place, kind) = line.split_once(" - ")?;
    if unescape(place.split(' ').nth(4)?) != root.to_str()? {
        return None;
    }
    let mut kind = kind.split(' ');
    if kind.next()? != "overlay" {
        return None;
    }
    let option = kind.nth(1)?.split(',').find_map(|option| option.strip_prefix("upperdir="))?;
    Some(unescape(option).into())
}

/// Undoes the octal escapes of mountinfo.
pub(crate) fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) => {
                out.push(code);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether the kernel has a file system of this name built in or loaded.
pub(crate) fn has_file_system(name: &str) -> bool {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known.lines().any(|line| line.split_whitespace().last() == Some(name))
}

/// Whether the administrator has loaded our AppArmor profile.
pub(crate) fn apparmor_profile_loaded() -> bool {
    let loaded = std::fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
    loaded.lines().any(|line| line.split(' ').next() == Some(super::APPARMOR_PROFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_directory_is_found_in_mountinfo() {
        let line = r"97 1 0:57 / /run/flynn/mnt/a\040b rw,relatime shared:3 - overlay overlay rw,lowerdir=/l1:/l2,upperdir=/s/a\040b/upper,workdir=/s/work";
        assert_eq!(overlay_upper_dir(line, Path::new("/run/flynn/mnt/a b")), Some("/s/a b/upper".into()));
        assert_eq!(overlay_upper_dir(line, Path::new("/run/flynn/mnt/a")), None);
        let other = "97 1 0:57 / /mnt rw - ext4 /dev/sda rw,upperdir=/x";
        assert_eq!(overlay_upper_dir(other, Path::new("/mnt")), None);
    }
}
