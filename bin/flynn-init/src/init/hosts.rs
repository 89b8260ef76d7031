//! `/etc/hosts` of the container.

use std::io;
use std::path::Path;

const PATH: &str = "/etc/hosts";

/// Writes the container's own name. A file that the job mounts there is the job's.
pub(super) fn write(hostname: &str) -> io::Result<()> {
    if is_mount_point(&std::fs::read_to_string("/proc/self/mountinfo")?, PATH) {
        return Ok(());
    }
    if let Some(directory) = Path::new(PATH).parent() {
        std::fs::create_dir_all(directory)?;
    }
    // Replaced, not followed: a link may lead to a volume.
    match std::fs::remove_file(PATH) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    std::fs::write(PATH, format!("127.0.0.1 localhost {hostname}\n"))
}

/// Looks a path up in proc_pid_mountinfo(5).
fn is_mount_point(mountinfo: &str, path: &str) -> bool {
    mountinfo.lines().any(|line| line.split(' ').nth(4) == Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounted_files_are_noticed() {
        let mountinfo = "36 35 0:30 / / rw - overlay overlay rw\n37 36 8:1 /x /etc/hosts ro - ext4 /dev/sda1 rw\n";
        assert!(is_mount_point(mountinfo, "/etc/hosts"));
        assert!(!is_mount_point(mountinfo, "/etc"));
    }
}
