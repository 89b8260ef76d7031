//! The supervisor: a process with one thread that builds one container and then becomes its monitor.
//!
//! ```text
//! daemon ─spawn─► supervisor ─libcontainer─► (short-lived helper) ─► /.containerinit, a child of the supervisor
//!                     └─exec─► flynn-init monitor: same process, so still the parent
//! ```
//!
//! Descriptors of the container: 0 `/dev/null`, 1 and 2 the init log, 3 the socket to the monitor, 4 to 6 the job's
//! streams. Those of the monitor: 3 the socket to init, 4 write end of stdin, 5 and 6 read ends of stdout and stderr,
//! 7 read end of the init log, 8 the listening control socket, 9 the out-of-memory event descriptor (version 1) or
//! `/dev/null`. Nothing else is inherited by either.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use flynn_types::error::with_causes;
use flynn_types::init::{CONTROL_FD, INHERITED_FDS, JOB_STDERR_FD, JOB_STDIN_FD, JOB_STDOUT_FD};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::default::get_executor;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use crate::bundle::{self, Outcome, SupervisorConfig};
use crate::filter::Instruction;
use crate::{sys, wire};

/// Descriptors below this number are laid out for container and monitor; all others are made above it.
const FIRST_FREE_FD: i32 = 20;

/// Environment variable that tells the monitor which process is the container's process 1.
const CONTAINER_PID_VARIABLE: &str = "FLYNN_CONTAINER_PID";

/// Builds the container that is described in `run_dir`, reports to the daemon on standard output and becomes the
/// container's monitor. Returns, with an exit status, only when that failed.
///
/// Must be called in a process with a single thread, before anything else has opened descriptors.
pub fn supervise(run_dir: &Path) -> i32 {
    // The report's descriptor is closed by the exec: the daemon reads to its end.
    let report = match sys::duplicate_above(rustix::stdio::stdout(), FIRST_FREE_FD) {
        Ok(report) => report,
        Err(_) => return 1,
    };
    match run(run_dir, &report) {
        Ok(Unwanted) => {}
        Err(err) => say(&report, &Outcome::Failed(err.to_string())),
    }
    1
}

/// The daemon needs no container, or is gone.
struct Unwanted;

/// Why the container could not be built; the text is for the job's owner.
#[derive(Debug, thiserror::Error)]
enum SuperviseError {
    #[error("{attempt}: {source}")]
    Io { attempt: String, source: io::Error },
    #[error("{0}")]
    Container(String),
}

fn io(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> SuperviseError {
    let attempt = attempt.into();
    move |source| SuperviseError::Io { attempt, source }
}

fn errno(attempt: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> SuperviseError {
    let attempt = attempt.into();
    move |source| SuperviseError::Io { attempt, source: source.into() }
}

fn say(report: &OwnedFd, outcome: &Outcome) {
    if let (Ok(json), Ok(fd)) = (serde_json::to_vec(outcome), report.try_clone()) {
        let _ = File::from(fd).write_all(&json); // a daemon that is gone needs no report
    }
}

fn run(run_dir: &Path, report: &OwnedFd) -> Result<Unwanted, SuperviseError> {
    sys::detach(report.as_fd()).map_err(io("leave the daemon's session"))?;
    bundle::record_monitor(run_dir).map_err(io("record the supervisor"))?;
    let load = || bundle::load(run_dir).map_err(io("read the supervisor's configuration"));
    for directory in load()?.monitor_cgroups {
        crate::cgroup::write(&directory.join("cgroup.procs"), "0")
            .map_err(io(format!("move the supervisor to cgroup {}", directory.display())))?;
    }
    if !wanted().map_err(io("wait for the daemon"))? {
        return Ok(Unwanted);
    }
    let config = load()?;
    sys::raise_hard_limits(&config.hard_limits);
    let oom_score = normal_oom_score();

    let streams = Streams::open(run_dir)?;
    streams.lay_out_for_container()?;
    let mut container = build(run_dir, &config, &streams)?;
    let pid =
        container.pid().map(|pid| pid.as_raw()).ok_or_else(|| SuperviseError::Container("it has no process".into()))?;
    let finished = (|| {
        bundle::write_private(&run_dir.join(bundle::CONTAINER_PID), format!("{pid}\n").as_bytes())
            .map_err(io("record the container's process"))?;
        confine(&config)?;
        let oom_events = out_of_memory_events(&config)?;
        container.start().map_err(|err| SuperviseError::Container(with_causes(&err)))?;
        Ok(oom_events)
    })();
    let oom_events = finished.inspect_err(|_| sys::kill_and_reap(pid))?;

    if let Some(score) = oom_score {
        let _ = std::fs::write("/proc/self/oom_score_adj", score);
    }
    streams.lay_out_for_monitor(oom_events.as_fd()).inspect_err(|_| sys::kill_and_reap(pid))?;
    say(report, &Outcome::Started(pid));
    Err(become_monitor(&config.init_binary, run_dir, pid))
}

/// Waits until the daemon has everything in place.
fn wanted() -> io::Result<bool> {
    let mut byte = [0];
    loop {
        match rustix::io::read(rustix::stdio::stdin(), &mut byte) {
            Ok(read) => return Ok(read > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
}

/// Everything that container and monitor talk over. All descriptors are above the laid out ones and close on exec.
struct Streams {
    null: OwnedFd,
    control: (OwnedFd, OwnedFd),
    stdin: (OwnedFd, OwnedFd),
    stdout: (OwnedFd, OwnedFd),
    stderr: (OwnedFd, OwnedFd),
    log: (OwnedFd, OwnedFd),
    listener: OwnedFd,
}

impl Streams {
    fn open(run_dir: &Path) -> Result<Self, SuperviseError> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let null = raise(null.map_err(errno("open /dev/null"))?)?;
        let sockets = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = sockets.map_err(errno("make a socket pair"))?;
        let directory = rustix::fs::open(run_dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(errno("open the run directory"))?;
        let path = wire::socket_path(&directory);
        match std::fs::remove_file(&path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(io("remove an old control socket")(err)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(io("bind the control socket"))?;
        Ok(Self {
            null,
            control: (raise(ours)?, raise(theirs)?),
            stdin: pipe()?,
            stdout: pipe()?,
            stderr: pipe()?,
            log: pipe()?,
            listener: raise(listener.into())?,
        })
    }

    fn lay_out_for_container(&self) -> Result<(), SuperviseError> {
        lay_out(&[
            (&self.null, 0),
            (&self.control.1, CONTROL_FD),
            (&self.stdin.0, JOB_STDIN_FD),
            (&self.stdout.1, JOB_STDOUT_FD),
            (&self.stderr.1, JOB_STDERR_FD),
        ])
    }

    fn lay_out_for_monitor(&self, oom_events: BorrowedFd<'_>) -> Result<(), SuperviseError> {
        lay_out(&[
            (&self.null, 0),
            (&self.null, 1),
            (&self.control.0, 3),
            (&self.stdin.1, 4),
            (&self.stdout.0, 5),
            (&self.stderr.0, 6),
            (&self.log.0, 7),
            (&self.listener, 8),
        ])?;
        sys::place(oom_events, 9).map_err(io("hand over the out-of-memory events"))
    }
}

fn lay_out(plan: &[(&OwnedFd, i32)]) -> Result<(), SuperviseError> {
    for (fd, target) in plan {
        sys::place(fd.as_fd(), *target).map_err(io(format!("hand over descriptor {target}")))?;
    }
    Ok(())
}

/// Moves a descriptor out of the way of those that are laid out.
fn raise(fd: OwnedFd) -> Result<OwnedFd, SuperviseError> {
    if fd.as_raw_fd() >= FIRST_FREE_FD {
        return Ok(fd);
    }
    sys::duplicate_above(fd.as_fd(), FIRST_FREE_FD).map_err(io("duplicate a descriptor"))
}

fn pipe() -> Result<(OwnedFd, OwnedFd), SuperviseError> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(errno("make a pipe"))?;
    Ok((raise(read)?, raise(write)?))
}

fn build(
    run_dir: &Path,
    config: &SupervisorConfig,
    streams: &Streams,
) -> Result<libcontainer::container::Container, SuperviseError> {
    let duplicate =
        |fd: &OwnedFd| sys::duplicate_above(fd.as_fd(), FIRST_FREE_FD).map_err(io("duplicate a descriptor"));
    let (stdin, stdout, stderr) = (duplicate(&streams.null)?, duplicate(&streams.log.1)?, duplicate(&streams.log.1)?);
    let inherited = i32::try_from(INHERITED_FDS).unwrap_or(4);
    let built = ContainerBuilder::new(config.container_id.clone(), SyscallType::default())
        .with_root_path(run_dir.join(bundle::RUNTIME))
        .map(|builder| builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr).with_preserved_fds(inherited))
        .map(|builder| builder.with_executor(Filtered { filter: config.filter.clone() }))
        .and_then(|builder| builder.as_init(run_dir).with_systemd(false).with_detach(false).build());
    built.map_err(|err| SuperviseError::Container(with_causes(&err)))
}

/// Runs the container's init under its system call filter.
#[derive(Clone)]
struct Filtered {
    filter: Option<Vec<Instruction>>,
}

impl Executor for Filtered {
    /// Called in the container's process, the last that may fail the container's creation. Needs no right, since the
    /// process can gain no privileges any more.
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        if let Some(filter) = &self.filter {
            sys::install_filter(filter).map_err(|err| {
                ExecutorValidationError::ArgValidationError(format!("restrict the job's system calls: {err}"))
            })?;
        }
        get_executor().validate(spec)
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        get_executor().exec(spec)
    }
}

/// Limits and device list, now that the container's cgroup exists and before its own program runs.
fn confine(config: &SupervisorConfig) -> Result<(), SuperviseError> {
    for write in &config.cgroup_writes {
        if let Err(err) = crate::cgroup::write(&write.file, &write.value)
            && let Some(purpose) = &write.purpose
        {
            return Err(io(purpose.clone())(err));
        }
    }
    match &config.device_program {
        Some(program) => {
            sys::attach_device_program(&program.cgroup, &program.rules).map_err(io("restrict the job's devices"))
        }
        None => Ok(()),
    }
}

/// Version 1: a descriptor that counts lack of memory. Where that is not to be had the job runs without.
fn out_of_memory_events(config: &SupervisorConfig) -> Result<OwnedFd, SuperviseError> {
    if let Some(events) = config.oom_control.as_ref().and_then(|path| subscribe(path).ok()) {
        return raise(events);
    }
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    raise(null.map_err(errno("open /dev/null"))?)
}

/// See the kernel's cgroup-v1/memory.rst, "Memory thresholds" and "OOM control".
fn subscribe(oom_control: &PathBuf) -> io::Result<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    let events = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let control = File::open(oom_control)?;
    let registration = format!("{} {}", events.as_raw_fd(), control.as_raw_fd());
    crate::cgroup::write(&oom_control.with_file_name("cgroup.event_control"), &registration)?;
    Ok(events)
}

/// The daemon may be protected from the kernel's killer, its jobs must not be. Gives the old value, for the monitor.
fn normal_oom_score() -> Option<String> {
    let score = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?;
    if !score.trim().starts_with('-') {
        return None;
    }
    std::fs::write("/proc/self/oom_score_adj", "0").ok()?;
    Some(score)
}

fn become_monitor(init_binary: &Path, run_dir: &Path, pid: i32) -> SuperviseError {
    use std::os::unix::ffi::OsStrExt as _;
    let attempt = format!("become the monitor, {}", init_binary.display());
    let text = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::from);
    let result = (|| {
        let arguments = [text(b"flynn-init")?, text(b"monitor")?, text(run_dir.as_os_str().as_bytes())?];
        let environment = [text(format!("{CONTAINER_PID_VARIABLE}={pid}").as_bytes())?];
        nix::unistd::execve(&text(init_binary.as_os_str().as_bytes())?, &arguments, &environment)
            .map_err(io::Error::from)
    })();
    sys::kill_and_reap(pid);
    match result {
        Ok(never) => match never {},
        Err(source) => SuperviseError::Io { attempt, source },
    }
}
