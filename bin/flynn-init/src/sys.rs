//! System calls that need care. The only unsafe code of this program.
#![expect(unsafe_code, reason = "see each SAFETY comment")]

use std::ffi::{CString, NulError};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::process::{Resource, Rlimit};

/// Takes over the descriptors from `first` on that this program was started with, and keeps them from its children.
///
/// Only for a process that has opened nothing yet.
pub(crate) fn inherited<const N: usize>(first: i32) -> io::Result<[OwnedFd; N]> {
    let mut fds = Vec::with_capacity(N);
    for number in (first..).take(N) {
        // SAFETY: the call fails for a number that is not open; borrowed for its duration only.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)
            .map_err(|err| io::Error::other(format!("descriptor {number} was not handed over: {err}")))?;
        // SAFETY: it is open, as the call above has shown, and by our contract with whoever started us it is ours.
        fds.push(unsafe { OwnedFd::from_raw_fd(number) });
    }
    fds.try_into().map_err(|_| io::Error::other("too few descriptors"))
}

pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}

/// What to poll a connection for.
pub(crate) fn interest(input: bool, output: bool) -> PollFlags {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN, input);
    flags.set(PollFlags::OUT, output);
    flags
}

/// Waits until one of the descriptors is ready; `None` waits without limit.
pub(crate) fn wait(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<()> {
    let timeout = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match rustix::event::poll(fds, timeout.as_ref()) {
        Ok(_) => Ok(()),
        Err(Errno::INTR) => {
            for fd in fds {
                fd.clear_revents();
            }
            Ok(())
        }
        Err(err) => Err(err.into()),
    }
}

/// Ignores the signals that ordinary programs end by, and that a terminal or a service manager sends to everybody.
pub(crate) fn ignore_signals() -> io::Result<()> {
    use Signal::{SIGALRM, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM] {
        // SAFETY: no function of ours is installed as handler.
        unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }?;
    }
    Ok(())
}

/// Makes all signals arrive on a descriptor instead of interrupting us. Holds for threads that are made later.
pub(crate) fn signals() -> io::Result<SignalFd> {
    let mut all = SigSet::all();
    for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT] {
        all.remove(fault); // caused by this very process: blocked, it would go on with nonsense
    }
    all.thread_block()?;
    Ok(SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// How the job's process is set up between fork and exec.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) program: Program,
    /// Standard input becomes the terminal of the new session.
    pub(crate) terminal: bool,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) limits: Vec<(Resource, Rlimit)>,
}

/// What failed on the way to the job's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Session = 1,
    Terminal,
    Limits,
    User,
    Exec,
}

impl Step {
    fn of(number: u8) -> Self {
        match number {
            1 => Self::Session,
            2 => Self::Terminal,
            3 => Self::Limits,
            4 => Self::User,
            _ => Self::Exec,
        }
    }
}

/// What is executed: all that execve(2) needs, made before the fork.
#[derive(Debug)]
pub(crate) struct Program {
    path: CString,
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    /// What the pointers point to; never changed.
    _texts: Vec<CString>,
}

// SAFETY: the pointers lead to memory that belongs to the same value and does not change.
unsafe impl Send for Program {}
// SAFETY: as above.
unsafe impl Sync for Program {}

impl Program {
    /// Fails for texts with a NUL.
    pub(crate) fn new<'a>(
        path: &Path,
        arguments: impl Iterator<Item = &'a str>,
        environment: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, NulError> {
        let mut texts = Vec::new();
        let mut pointers = |text: Vec<u8>| {
            let text = CString::new(text)?;
            let pointer = text.as_ptr(); // to the heap: it stays where it is when `text` moves
            texts.push(text);
            Ok(pointer)
        };
        let mut arguments = arguments.map(|text| pointers(text.into())).collect::<Result<Vec<_>, _>>()?;
        let environment = environment.map(|(key, value)| pointers(format!("{key}={value}").into_bytes()));
        let mut environment = environment.collect::<Result<Vec<_>, _>>()?;
        arguments.push(std::ptr::null());
        environment.push(std::ptr::null());
        Ok(Self { path: CString::new(path.as_os_str().as_bytes())?, arguments, environment, _texts: texts })
    }

    /// Returns only when that failed. `Command` would use execvp(3), which gives what the kernel does not understand to
    /// the shell: people whose program is for another machine would read about syntax errors.
    fn execute(&self) -> Errno {
        // SAFETY: both arrays end with a null pointer, and their texts are owned by `self`.
        unsafe { libc::execve(self.path.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr()) };
        Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
    }
}

/// Starts a program in a session of its own; gives its process id, or what failed. `command` has the streams and the
/// working directory.
pub(crate) fn spawn(mut command: Command, setup: Setup) -> Result<i32, (Step, io::Error)> {
    // The error that `Command` gives does not say which step it is of.
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|err| (Step::Exec, err.into()))?;
    let prepare = move || {
        set_up(&setup).map_err(|(step, err)| {
            let _ = rustix::io::write(&write, &[step as u8]);
            io::Error::from(err)
        })
    };
    // SAFETY: the closure makes system calls on data that exist already; it neither allocates nor locks (an error made
    // of an errno is a number).
    unsafe { command.pre_exec(prepare) };
    let spawned = command.spawn();
    drop(command); // and with it our copies of the job's streams and of the pipe's write end
    match spawned {
        Ok(child) => i32::try_from(child.id()).map_err(|err| (Step::Exec, io::Error::other(err))),
        Err(err) => {
            let mut step = [0];
            let _ = rustix::io::read(&read, &mut step);
            Err((Step::of(step[0]), err))
        }
    }
}

/// Runs between fork and exec.
fn set_up(setup: &Setup) -> Result<(), (Step, Errno)> {
    rustix::process::setsid().map_err(|err| (Step::Session, err))?;
    if setup.terminal {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()).map_err(|err| (Step::Terminal, err))?;
    }
    for (resource, limit) in &setup.limits {
        rustix::process::setrlimit(*resource, *limit).map_err(|err| (Step::Limits, err))?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    become_user(setup.uid, setup.gid).map_err(|err| (Step::User, err))?;
    reset_signals();
    Err((Step::Exec, setup.program.execute()))
}

/// What is blocked here, or ignored by whoever started the daemon, would be so in the job.
fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: installs no function. Fails for the numbers that cannot be changed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// The system calls of one thread are enough: there is no other one in a new process.
fn become_user(uid: u32, gid: u32) -> rustix::io::Result<()> {
    use rustix::process::{Gid, Uid, getgid, getuid};
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let same = (getuid(), getgid()) == (uid, gid);
    let changed = rustix::thread::set_thread_groups(&[])
        .and_then(|()| rustix::thread::set_thread_res_gid(gid, gid, gid))
        .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid));
    // A container without the capabilities for it can still run what needs no change.
    if same { Ok(()) } else { changed }
}

/// Forwarding and stopping.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    if pid <= 1 {
        return Err(io::ErrorKind::InvalidInput.into()); // other numbers mean groups of processes, or everybody
    }
    // SAFETY: takes no pointers. Real-time signals, which typed wrappers do not know, can be sent like this.
    if unsafe { libc::kill(pid, signal) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
