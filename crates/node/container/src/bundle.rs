//! What this crate keeps in a job's run directory, beside the files of `flynn_types::init::files`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use flynn_types::init::{ExitRecord, files};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::filter::Instruction;

/// OCI runtime configuration; libcontainer wants this name.
pub(crate) const OCI_CONFIG: &str = "config.json";
/// The init's configuration, bound into the container. Holds the job's secrets: mode 0600.
pub(crate) const INIT_CONFIG: &str = "init.json";
/// [`SupervisorConfig`].
pub(crate) const SUPERVISOR_CONFIG: &str = "supervisor.json";
const SUPERVISOR_CONFIG_NEW: &str = "supervisor.json.tmp";
/// Where the supervisor and after it the monitor write what they cannot say otherwise.
pub(crate) const SUPERVISOR_LOG: &str = "supervisor.log";
/// Directory that job and host share, bound to `/.container-shared`.
pub(crate) const SHARED: &str = "shared";
/// Directory of libcontainer's state.
pub(crate) const RUNTIME: &str = "runtime";
/// Process id of the container's process 1.
pub(crate) const CONTAINER_PID: &str = "container.pid";

/// All that [`crate::Runtime::start`] and the processes after it leave in a run directory, without the spool.
pub(crate) const LEFT: [&str; 11] = [
    OCI_CONFIG,
    INIT_CONFIG,
    SUPERVISOR_CONFIG,
    SUPERVISOR_CONFIG_NEW,
    SUPERVISOR_LOG,
    CONTAINER_PID,
    files::MONITOR_CONFIG,
    files::CONTROL_SOCKET,
    files::EXIT,
    files::MONITOR_PID,
    "exit.json.tmp",
];

/// What the supervisor does besides what the OCI configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SupervisorConfig {
    pub(crate) container_id: String,
    /// Becomes the monitor.
    pub(crate) init_binary: PathBuf,
    /// Path of the container's cgroup in every hierarchy, beginning with `/`.
    pub(crate) cgroup: String,
    /// Cgroup directories that the monitor moves to, away from the daemon's own.
    pub(crate) monitor_cgroups: Vec<PathBuf>,
    /// Written when the container exists and before its first own instruction runs.
    pub(crate) cgroup_writes: Vec<CgroupWrite>,
    /// Where the device program is attached (version 2), with the rules it is made of.
    pub(crate) device_program: Option<DeviceProgram>,
    /// `memory.oom_control` of the container (version 1), for a notification descriptor.
    pub(crate) oom_control: Option<PathBuf>,
    /// System calls that the container may make; `None` for all.
    pub(crate) filter: Option<Vec<Instruction>>,
    /// Hard limits that the job may want to reach: (resource name, value).
    pub(crate) hard_limits: Vec<(String, u64)>,
    /// The container shares the host's network, whose traffic is not its own.
    pub(crate) host_network: bool,
    /// Number of the loop device that was made for the job.
    pub(crate) loop_device: Option<u32>,
}

/// One line for one file of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CgroupWrite {
    pub(crate) file: PathBuf,
    pub(crate) value: String,
    /// What fails when this does, in words for the job's owner; `None` when the job runs as well without.
    pub(crate) purpose: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceProgram {
    pub(crate) cgroup: PathBuf,
    pub(crate) rules: Vec<crate::oci::DeviceRule>,
}

/// The supervisor's only words to the daemon, one line of JSON on its standard output.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// The container runs; its process 1.
    Started(i32),
    /// In words for the job's owner.
    Failed(String),
}

/// Writes a file that only root may read. Not synced: after a power cut there is no container to describe.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)
}

/// Replaces the supervisor's configuration at once: the supervisor may read it at any moment.
pub(crate) fn save(run_dir: &Path, config: &SupervisorConfig) -> io::Result<()> {
    let temporary = run_dir.join(SUPERVISOR_CONFIG_NEW);
    write_private(&temporary, &serde_json::to_vec(config)?)?;
    std::fs::rename(temporary, run_dir.join(SUPERVISOR_CONFIG))
}

pub(crate) fn load(run_dir: &Path) -> io::Result<SupervisorConfig> {
    Ok(serde_json::from_slice(&std::fs::read(run_dir.join(SUPERVISOR_CONFIG))?)?)
}

pub(crate) fn recorded_cgroup(run_dir: &Path) -> Option<String> {
    Some(load(run_dir).ok()?.cgroup)
}

/// The exit record of a run directory; an unreadable one is reported and counts as none.
pub(crate) async fn exit_record(run_dir: &Path) -> Option<ExitRecord> {
    let path = run_dir.join(files::EXIT);
    let content = match tokio::fs::read(&path).await {
        Ok(content) => content,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return None,
        Err(err) => {
            warn!(path = %path.display(), %err, "exit record cannot be read");
            return None;
        }
    };
    serde_json::from_slice(&content).map_err(|err| warn!(path = %path.display(), %err, "exit record is damaged")).ok()
}

/// The process that is a run directory's monitor, or will become it.
#[derive(Debug)]
pub(crate) struct MonitorProcess {
    pidfd: OwnedFd,
}

impl MonitorProcess {
    /// Looks the process up by the run directory's record; `None` when it has ended.
    pub(crate) fn find(run_dir: &Path) -> Option<Self> {
        let record = std::fs::read_to_string(run_dir.join(files::MONITOR_PID)).ok()?;
        let mut lines = record.lines();
        let pid: i32 = lines.next()?.trim().parse().ok()?;
        let started: u64 = lines.next()?.trim().parse().ok()?;
        let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        // The id is compared after the descriptor was opened: it cannot be reused any more.
        (start_time(pid) == Some(started)).then_some(Self { pidfd })
    }

    /// Waits until the process has ended.
    pub(crate) async fn ended(&self) {
        if let Ok(pidfd) = self.pidfd.try_clone() {
            let _ = crate::sys::readable(pidfd).await; // what cannot be waited for counts as ended
        }
    }

    pub(crate) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

/// Records the calling process as the run directory's monitor.
pub(crate) fn record_monitor(run_dir: &Path) -> io::Result<()> {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let started = start_time(pid).ok_or_else(|| io::Error::other("own process is not in /proc"))?;
    write_private(&run_dir.join(files::MONITOR_PID), format!("{pid}\n{started}\n").as_bytes())
}

/// When a process started, in clock ticks since the machine's start: field 22 of `/proc/<pid>/stat`. `None` also for a
/// process that has ended and waits to be reaped.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the program's name in parentheses, may itself hold blanks and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Opens the file that takes the supervisor's and the monitor's standard error.
pub(crate) fn open_log(run_dir: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(run_dir.join(SUPERVISOR_LOG))
}
