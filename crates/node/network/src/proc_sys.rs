//! Kernel parameters of the calling thread's network namespace.

use std::fs;
use std::path::PathBuf;

use tracing::debug;

use crate::KernelError;

/// Lets the host forward packets between containers and the rest; whether it had to be switched on.
pub(crate) fn enable_forwarding() -> Result<bool, KernelError> {
    let path = "/proc/sys/net/ipv4/ip_forward";
    let failed = |err| KernelError::new(format!("enable forwarding in {path}"), err);
    if fs::read_to_string(path).map_err(failed)?.trim() == "1" {
        return Ok(false);
    }
    fs::write(path, "1").map_err(failed)?;
    Ok(true)
}

/// Keeps an interface (or `default`: those to come) free of IPv6, which the overlay does not carry: no address
/// detection, no router solicitations. A kernel without IPv6 is as good.
pub(crate) fn disable_ipv6(interface: &str) {
    let path = PathBuf::from("/proc/sys/net/ipv6/conf").join(interface).join("disable_ipv6");
    if let Err(err) = fs::write(&path, "1") {
        debug!(path = %path.display(), %err, "IPv6 stays as it is");
    }
}
