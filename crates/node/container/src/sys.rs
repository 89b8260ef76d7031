//! System calls for which no safe wrapper exists. The only unsafe code of this crate.
#![expect(unsafe_code, reason = "see each SAFETY comment")]

mod device_program;

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::filter::Instruction;

pub(crate) use device_program::attach_device_program;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A duplicate with the lowest free number from `minimum`, closed by exec.
pub(crate) fn duplicate_above(fd: BorrowedFd<'_>, minimum: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes no pointers.
    let duplicate = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, minimum) })?;
    // SAFETY: the descriptor was made just now and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

/// Makes `target` another name of `fd` that survives exec, whatever it was before.
///
/// Only for numbers that no `OwnedFd` of this process holds: the supervisor keeps its own above those it lays out.
pub(crate) fn place(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: dup2 takes no pointers; what `target` was is not owned by anyone here, see above.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) }).map(drop)
}

/// Begins a session of its own and closes all inherited descriptors but the standard ones and `keep`.
///
/// Only for a process that has opened nothing yet.
pub(crate) fn detach(keep: BorrowedFd<'_>) -> io::Result<()> {
    let _ = rustix::process::setsid(); // fails for the leader of a process group, which `fork` below avoids
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let keep = libc::c_uint::try_from(keep.as_raw_fd()).map_err(io::Error::other)?;
    for (first, last) in [(3, keep - 1), (keep + 1, libc::c_uint::MAX)] {
        // SAFETY: takes no pointers; the descriptors are leaks of whoever started us, not ours.
        check(unsafe { libc::close_range(first, last, 0) })?;
    }
    Ok(())
}

/// Puts this process, and all that come from it, under a system call filter. See seccomp(2).
pub(crate) fn install_filter(filter: &[Instruction]) -> io::Result<()> {
    let mut program: Vec<libc::sock_filter> =
        filter.iter().map(|&Instruction(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let len = libc::c_ushort::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the instructions that the pointers lead to, which live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Kills a child and takes note of its end.
pub(crate) fn kill_and_reap(pid: i32) {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return };
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
}

/// Raises hard resource limits of this process towards what jobs may ask for, as far as we may: in the container init
/// has no right to. The limits of the job itself are set by init.
pub(crate) fn raise_hard_limits(wanted: &[(String, u64)]) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    for (name, hard) in wanted {
        let resource = match name.as_str() {
            "nofile" => Resource::Nofile,
            "nproc" => Resource::Nproc,
            _ => continue,
        };
        let now = getrlimit(resource);
        if now.maximum.is_some_and(|maximum| maximum < *hard) {
            let _ = setrlimit(resource, Rlimit { current: now.current, maximum: Some(*hard) });
        }
    }
}

/// Capabilities that processes started by this one can have at most, a bit each.
pub(crate) fn bounding_set() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok());
    set.unwrap_or(u64::MAX)
}

/// Waits until a descriptor becomes readable; for process descriptors: until the process has ended.
pub(crate) async fn readable(fd: OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is owned, so it stays open and the same until the registration is dropped.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered?.readable().await.map(drop)
}

// linux/loop.h
const LOOP_CLR_FD: libc::c_ulong = 0x4c01;
const LOOP_CTL_ADD: libc::c_ulong = 0x4c80;
const LOOP_CTL_REMOVE: libc::c_ulong = 0x4c81;

/// Makes a new loop device with a number of `range`.
pub(crate) fn add_loop_device(range: Range<u32>) -> io::Result<u32> {
    let control = std::fs::File::options().read(true).write(true).open("/dev/loop-control")?;
    for number in range {
        // SAFETY: the argument is a number.
        match check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_ADD as _, libc::c_ulong::from(number)) }) {
            Ok(_) => return Ok(number),
            Err(err) if err.raw_os_error() == Some(libc::EEXIST) => {}
            Err(err) => return Err(err),
        }
    }
    Err(io::Error::new(io::ErrorKind::QuotaExceeded, "all loop devices for jobs are in use"))
}

/// Detaches a loop device from its file and removes it. One that is gone is fine.
pub(crate) fn remove_loop_device(number: u32) -> io::Result<()> {
    if let Ok(device) = std::fs::File::open(format!("/dev/loop{number}")) {
        // SAFETY: no argument. Fails for a device that has no file.
        let _ = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD as _, 0) };
    }
    let control = std::fs::File::options().read(true).write(true).open("/dev/loop-control")?;
    // SAFETY: the argument is a number.
    match check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_REMOVE as _, libc::c_ulong::from(number)) }) {
        Err(err) if !matches!(err.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => Err(err),
        _ => Ok(()),
    }
}
