//! What passes between the daemon, a job's monitor and the init process in its container.
//!
//! ```text
//!  daemon ──control.sock (Request/Report frames, fds)──► monitor ──socketpair, fd 3 (ToInit/FromInit frames)──► init
//!                                                          └─ pipes → spool files, exit.json
//! ```
//!
//! Every frame on both sockets is a big-endian `u32` length followed by that many bytes of JSON, at most
//! [`MAX_FRAME_LEN`]. Descriptors travel as `SCM_RIGHTS` with the first byte of the frame that announces them.
//!
//! The daemon may come and go: the monitor keeps the state and tells it again to each new connection. Only one daemon
//! connection is served at a time; a newer one replaces the older.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::host::Port;

/// Longest JSON in a frame, in bytes.
pub const MAX_FRAME_LEN: usize = 1 << 20;

/// Descriptor on which `flynn-init` finds the socket to its monitor.
pub const CONTROL_FD: i32 = 3;
/// Descriptors that become the job's standard streams when it has no terminal. Init's own stderr is the init log.
pub const JOB_STDIN_FD: i32 = 4;
pub const JOB_STDOUT_FD: i32 = 5;
pub const JOB_STDERR_FD: i32 = 6;
/// How many descriptors from 3 on the container inherits.
pub const INHERITED_FDS: u32 = 4;

/// Paths in the container.
pub const INIT_PATH: &str = "/.containerinit";
pub const CONFIG_PATH: &str = "/.containerconfig";
pub const SHARED_PATH: &str = "/.container-shared";
pub const DIFF_PATH: &str = "/.container-diff";

/// Files in a job's run directory on the host.
pub mod files {
    /// [`super::MonitorConfig`], written by the daemon.
    pub const MONITOR_CONFIG: &str = "monitor.json";
    /// Unix socket of the monitor.
    pub const CONTROL_SOCKET: &str = "control.sock";
    /// [`super::ExitRecord`], written once (to a temporary name, synced, renamed) when the container is gone.
    pub const EXIT: &str = "exit.json";
    /// Process id of the monitor and, on a second line, its start time in clock ticks (`/proc/<pid>/stat` field 22),
    /// so that a reused id is noticed.
    pub const MONITOR_PID: &str = "monitor.pid";
    /// Directory of spool segments.
    pub const SPOOL: &str = "spool";
    /// Pinned network namespace.
    pub const NETNS: &str = "netns";
}

/// Internal failures of init before the job starts end it with this status.
pub const EXIT_INTERNAL: i32 = 70;

/// What init finds at [`CONFIG_PATH`]. The capitalised names are what scripts in images read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct InitConfig {
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    #[serde(rename = "TTY")]
    pub tty: bool,
    pub open_stdin: bool,
    pub work_dir: String,
    pub uid: u32,
    pub gid: u32,
    pub hostname: String,
    /// Whether to set the host name and write `/etc/hosts` (false: the container shares the host's UTS name).
    pub host_network: bool,
    /// Hardware address, empty with host networking.
    #[serde(rename = "MAC")]
    pub mac: String,
    /// Address with prefix length, for example `100.100.3.4/24`; empty with host networking.
    #[serde(rename = "IP")]
    pub ip: String,
    pub gateway: String,
    pub ports: Vec<Port>,
    pub log_level: String,
    /// Base URLs of discoverd, in order of preference. Empty when the job asked for none.
    pub discoverd: Vec<String>,
    /// The address under which the job's ports are registered.
    pub external_ip: String,
    /// RLIMIT_NOFILE, RLIMIT_NPROC and so on: (resource name in lower case, soft, hard).
    pub rlimits: Vec<(String, u64, u64)>,
}

/// How the monitor runs: written by the daemon before the supervisor starts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MonitorConfig {
    pub job_id: String,
    pub tty: bool,
    pub disable_log: bool,
    /// `memory.oom_control` (version 1) or `memory.events` (version 2) of the container's cgroup, where its
    /// `oom_kill` count is found; empty when it cannot be watched.
    pub oom_file: String,
    /// `cgroup.procs` of the container, written `SIGKILL` to when init does not end.
    pub cgroup_procs: Vec<String>,
    /// Most bytes of output that wait on disk for the daemon; beyond it the oldest are dropped.
    pub spool_limit_bytes: u64,
}

/// Where a job is, as init and monitor see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum InitState {
    /// Init is up and waits for [`ToInit::Resume`].
    Initial,
    /// The job's process was started.
    Running,
    /// The job's process ended. `status` is what a shell would report (128 + signal for a signal), 0 when it ended by a
    /// signal and a stop was requested, or the signal was SIGTERM or SIGINT.
    Exited { status: i32 },
    /// The job could not be started, or init failed; the text is for people.
    Failed { error: String },
}

/// Monitor to init.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum ToInit {
    /// Start the job.
    Resume { id: u64 },
    /// Send a signal to the job's main process.
    Signal { id: u64, signal: i32 },
    /// Withdraw all services, keep the process. Answered when done (or after at most 5 s).
    Deregister { id: u64 },
    /// Withdraw all services (at most 5 s), remember that a stop was requested, send SIGTERM.
    Stop { id: u64 },
    /// SIGKILL the job's main process and count it as a requested stop.
    Kill { id: u64 },
    /// Terminal size in characters.
    Resize { id: u64, height: u16, width: u16 },
}

/// Init to monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum FromInit {
    State(InitState),
    /// The outcome of the call `id`: no error means it was carried out.
    Reply {
        id: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The terminal's master side accompanies this frame (once, before `Initial`).
    Pty,
}

/// Daemon to monitor. All but the last three are passed on to init.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    ToInit(ToInit),
    /// Asks for descriptors; answered by [`Report::Fds`].
    Take {
        id: u64,
        what: Stream,
    },
    /// Output before `offset` is safe elsewhere: segments that end there or before may be deleted.
    Ack {
        offset: u64,
    },
    /// The exit was recorded: the monitor may end.
    Release,
}

/// Which descriptors the daemon wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Write end of the job's stdin: once.
    Stdin,
    /// Master of the job's terminal: a duplicate each time.
    Pty,
    /// Read ends of stdout, stderr and init log, in this order (`disable_log` jobs without a terminal): once.
    Output,
}

/// Monitor to daemon. On connection it sends `Hello`, then changes as they come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Report {
    /// `pid` is the container's process 1 in the host's process namespace.
    Hello {
        pid: i32,
        state: InitState,
        spool: SpoolProgress,
        stdin_taken: bool,
    },
    State {
        state: InitState,
    },
    /// Output was appended, or all of the job's streams were closed.
    Spool {
        progress: SpoolProgress,
    },
    Reply {
        id: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// Answer to `Take`; the descriptors accompany the frame when there is no error.
    Fds {
        id: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The container is gone and this is how; the record is on disk.
    Exit {
        record: ExitRecord,
    },
}

/// How far the spool was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolProgress {
    /// Offset behind the last record.
    pub written: u64,
    /// All streams have ended: nothing follows.
    pub closed: bool,
}

/// How a container ended, kept on disk until the daemon has taken note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// `Exited` or `Failed`.
    pub state: InitState,
    /// Unix time in microseconds.
    pub at_micros: i64,
    /// Processes of the container that the kernel killed for lack of memory.
    pub oom_kills: u64,
    pub spool: SpoolProgress,
}

/// The spool: a job's output on its way from the monitor to the log files.
///
/// A directory of segments named `<offset>.spool`, where offset is the 20-digit, zero padded position of the segment's
/// first byte in the whole stream. A segment is a sequence of records, never split over two segments:
///
/// | bytes | |
/// |---|---|
/// | 1 | stream: 1 stdout, 2 stderr, 3 init log |
/// | 4 | length of the payload, big-endian |
/// | 8 | unix time in microseconds, big-endian |
/// | n | payload as read from the pipe, not split into lines |
pub mod spool {
    pub const HEADER_LEN: usize = 13;
    /// Longest payload of one record, in bytes.
    pub const MAX_PAYLOAD: usize = 64 * 1024;
    /// A segment that reached this size is followed by a new one.
    pub const SEGMENT_LEN: u64 = 4 << 20;
    pub const STDOUT: u8 = 1;
    pub const STDERR: u8 = 2;
    pub const INIT: u8 = 3;
    pub const EXTENSION: &str = "spool";

    /// Name of the segment that begins at `offset`.
    pub fn segment_name(offset: u64) -> String {
        format!("{offset:020}.{EXTENSION}")
    }

    /// Offset of a segment by its file name; `None` for other files.
    pub fn segment_offset(name: &str) -> Option<u64> {
        let digits = name.strip_suffix(".spool")?;
        if digits.len() == 20 { digits.parse().ok() } else { None }
    }

    /// Header of a record.
    pub fn header(stream: u8, len: u32, micros: u64) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[0] = stream;
        header[1..5].copy_from_slice(&len.to_be_bytes());
        header[5..].copy_from_slice(&micros.to_be_bytes());
        header
    }

    /// `(stream, payload length, unix microseconds)`; `None` if this is no header.
    pub fn parse_header(header: &[u8; HEADER_LEN]) -> Option<(u8, usize, u64)> {
        let (stream, rest) = header.split_first()?;
        let len = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let micros = u64::from_be_bytes(rest.get(4..12)?.try_into().ok()?);
        let valid = matches!(*stream, STDOUT..=INIT) && len <= MAX_PAYLOAD;
        valid.then_some((*stream, len, micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_find_their_keys_in_the_init_configuration() {
        let config = InitConfig { mac: "fe:00".into(), ip: "100.100.3.4/24".into(), ..InitConfig::default() };
        let json = serde_json::to_value(&config).unwrap();
        for key in ["Env", "MAC", "Hostname", "IP", "Gateway"] {
            assert!(json.get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn frames_survive_a_round_trip() {
        for request in [
            Request::ToInit(ToInit::Signal { id: 7, signal: 15 }),
            Request::Take { id: 1, what: Stream::Pty },
            Request::Ack { offset: u64::MAX },
            Request::Release,
        ] {
            let json = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), request, "{json}");
        }
        for event in
            [FromInit::State(InitState::Exited { status: 3 }), FromInit::Reply { id: 2, error: None }, FromInit::Pty]
        {
            let json = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<FromInit>(&json).unwrap(), event, "{json}");
        }
    }

    #[test]
    fn spool_headers_reject_what_is_not_one() {
        let header = spool::header(spool::STDERR, 5, 1_700_000_000_000_000);
        assert_eq!(spool::parse_header(&header), Some((2, 5, 1_700_000_000_000_000)));
        assert_eq!(spool::parse_header(&spool::header(4, 5, 0)), None);
        assert_eq!(spool::parse_header(&spool::header(1, u32::MAX, 0)), None);
        assert_eq!(spool::segment_offset(&spool::segment_name(42)), Some(42));
        assert_eq!(spool::segment_offset("42.spool"), None);
    }
}
