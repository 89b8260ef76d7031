//! ZFS pools of hosts, on machines that have ZFS. The kernel keeps a pool when the host that made or imported it is gone,
//! so the harness takes it away with the power; its file stays on the host's disk.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::wait::wait_until;

/// The kernel lets go of a dead host's mounts a moment after its processes.
const UNMOUNTED: Duration = Duration::from_secs(10);

/// Whether the kernel has a pool of that name.
pub(crate) fn is_imported(name: &str) -> bool {
    Path::new("/dev/zfs").exists() && zpool(&["list", name]).is_ok()
}

/// Takes the pool from the kernel, for its file to be imported when the host has power again. What cannot be let go of is
/// found by [`crate::leaks`].
pub(crate) fn let_go(name: &str) {
    if is_imported(name) {
        let _ = wait_until(UNMOUNTED, "the pool is exported", || zpool(&["export", "-f", name]));
    }
}

fn zpool(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("zpool").args(arguments).stdin(Stdio::null()).output().map_err(|err| err.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
