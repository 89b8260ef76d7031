//! Which capabilities a container has (spec flynn-host section 6.2).

use super::InvalidSpec;
use crate::profile::Granted;
use crate::spec::ContainerSpec;

/// By number (linux/capability.h).
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a job has unless it names its own.
pub const DEFAULT_CAPABILITIES: [&str; 12] = [
    "CAP_NET_BIND_SERVICE",
    "CAP_AUDIT_READ",
    "CAP_AUDIT_WRITE",
    "CAP_DAC_OVERRIDE",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_CHOWN",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
];
/// Make files that are no files, and change the root directory: for those who build images.
const BUILDER: [&str; 2] = ["CAP_MKNOD", "CAP_SYS_CHROOT"];
/// What the Go implementation gave to everybody.
const SYSTEM: [&str; 3] = ["CAP_NET_RAW", "CAP_MKNOD", "CAP_SYS_CHROOT"];

/// The container's capabilities, without those that this host cannot give (`available` has a bit for each it can).
pub(super) fn of(spec: &ContainerSpec, granted: &Granted, available: u64) -> Result<Vec<String>, InvalidSpec> {
    let mut wanted: Vec<&str> = match &spec.capabilities {
        Some(exactly) => exactly.iter().map(String::as_str).collect(),
        None => {
            let mut wanted = DEFAULT_CAPABILITIES.to_vec();
            if spec.builder {
                wanted.extend(BUILDER);
            }
            if spec.system {
                wanted.extend(SYSTEM);
            }
            if spec.netns.is_none() {
                wanted.push("CAP_NET_ADMIN");
            }
            wanted
        }
    };
    wanted.extend(&granted.capabilities);
    let mut numbers = Vec::new();
    for name in wanted {
        let number = NAMES.iter().position(|known| *known == name);
        let number = number.ok_or_else(|| InvalidSpec::Capability(name.to_owned()))?;
        if available & (1 << number) != 0 {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers.into_iter().map(|number| NAMES[number].to_owned()).collect())
}
