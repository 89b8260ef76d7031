//! What the daemon asks for: a job, already prepared, in the terms of this crate.

use std::path::PathBuf;

use flynn_types::host;
use flynn_types::id::JobId;
use flynn_types::init::InitConfig;

/// Everything that a container is made of.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    pub job_id: JobId,
    /// The job's own directory, for example `<run root>/container/<job id>`. Made when missing; its last component is
    /// the job's id, by which the cgroups are found when nothing else is left.
    pub run_dir: PathBuf,
    /// Mounted root file system.
    pub rootfs: PathBuf,
    /// At most 64 characters; not used with host networking.
    pub hostname: String,
    /// Pinned network namespace; `None` shares the host's network.
    pub netns: Option<PathBuf>,
    pub host_pid: bool,
    /// Name of an existing partition.
    pub partition: String,
    pub limits: Limits,
    pub mounts: Vec<host::Mount>,
    pub volumes: Vec<Mount>,
    /// Bound to `/etc/resolv.conf`, where the root file system must hold a regular file or nothing.
    pub resolv_conf: Option<PathBuf>,
    /// `None`: the defaults. A list, also an empty one: exactly these.
    pub capabilities: Option<Vec<String>>,
    /// `None`: the defaults. The devices without which no program runs (`/dev/null` and so on, pseudo terminals) are
    /// always allowed.
    pub allowed_devices: Option<Vec<host::Device>>,
    pub created_devices: Option<Vec<host::Device>>,
    pub writeable_cgroups: bool,
    /// A job of the platform itself: gets the wider defaults of the Go implementation.
    pub system: bool,
    /// A job that builds images: may `mknod` and `chroot`, and is not confined by AppArmor.
    pub builder: bool,
    /// Some of `zfs`, `kvm`, `loop`.
    pub profiles: Vec<String>,
    pub init: InitConfig,
    pub disable_log: bool,
    /// Most bytes of output that wait on disk for the daemon.
    pub spool_limit_bytes: u64,
}

/// What the kernel enforces on the container as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Hard limit; there is no swap beyond it. 0 or less means none.
    pub memory_bytes: i64,
    /// Relative weight, 1024 for one core. `None` leaves the kernel's default.
    pub cpu_shares: Option<u64>,
}

/// A directory or file of the host in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// On the host.
    pub source: PathBuf,
    /// In the container.
    pub target: PathBuf,
    pub writeable: bool,
}
