//! The job's main process and what it is connected to.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flynn_types::init::InitConfig;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::process::{Resource, Rlimit};
use rustix::pty::OpenptFlags;

use super::command;
use crate::sys::{self, Program, Setup, Step};

/// The job's ends of its pipes.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Streams {
    /// Lets the job's user open its streams again, as `/dev/stdout`. A container without the capability for it goes
    /// without.
    pub(super) fn belong_to(&self, uid: u32, gid: u32) {
        for stream in [&self.stdin, &self.stdout, &self.stderr] {
            let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        }
    }
}

/// A pseudo terminal of the container.
#[derive(Debug)]
pub(super) struct Terminal {
    master: OwnedFd,
}

impl Terminal {
    pub(super) fn open() -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let master = rustix::fs::open("/dev/ptmx", flags, Mode::empty())?;
        rustix::pty::unlockpt(&master)?;
        Ok(Self { master })
    }

    /// A duplicate of the master side.
    pub(super) fn master(&self) -> io::Result<OwnedFd> {
        self.master.as_fd().try_clone_to_owned()
    }

    pub(super) fn resize(&self, height: u16, width: u16) -> io::Result<()> {
        let size = rustix::termios::Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(&self.master, size)?)
    }

    /// The job's side. Readers of the master see the end when all of these are closed.
    fn slave(&self, uid: u32) -> io::Result<OwnedFd> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&self.master, flags)?;
        let _ = rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), None); // as for pipes
        Ok(slave)
    }
}

/// The main process.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) pid: i32,
}

impl Job {
    /// Starts the job; errors are for its owner.
    pub(super) fn start(
        config: &InitConfig,
        streams: Option<Streams>,
        terminal: Option<&Terminal>,
    ) -> Result<Self, String> {
        let work_dir = work_dir(config)?;
        let name = config.args.first().map_or("", String::as_str);
        let path = config.env.get("PATH").map_or("", String::as_str);
        let found = command::find(name, path, &work_dir)?;
        let environment = config.env.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let program = Program::new(&found, config.args.iter().map(String::as_str), environment)
            .map_err(|_| "the job's arguments or its environment contain a NUL byte".to_owned())?;

        let mut command = Command::new(&found);
        command.current_dir(&work_dir);
        if let Some(terminal) = terminal {
            let slave = || terminal.slave(config.uid).map_err(|err| format!("open the terminal: {err}"));
            command.stdin(slave()?).stdout(slave()?).stderr(slave()?);
        } else if let Some(Streams { stdin, stdout, stderr }) = streams {
            let stdin = if config.open_stdin { Stdio::from(stdin) } else { Stdio::null() };
            command.stdin(stdin).stdout(stdout).stderr(stderr);
        }
        let limits = limits(&config.rlimits)?;
        let setup = Setup { program, terminal: config.tty, uid: config.uid, gid: config.gid, limits };
        match sys::spawn(command, setup) {
            Ok(pid) => Ok(Self { pid }),
            Err((step, err)) => Err(explain(config, name, &found, step, &err)),
        }
    }

    pub(super) fn signal(&self, signal: i32) -> io::Result<()> {
        sys::kill(self.pid, signal)
    }
}

fn work_dir(config: &InitConfig) -> Result<PathBuf, String> {
    let work_dir = Path::new("/").join(&config.work_dir);
    match std::fs::metadata(&work_dir) {
        Ok(found) if found.is_dir() => Ok(work_dir),
        Ok(_) => Err(format!("working directory {:?} is not a directory", config.work_dir)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            Err(format!("working directory {:?} does not exist", config.work_dir))
        }
        Err(err) => Err(format!("working directory {:?}: {err}", config.work_dir)),
    }
}

fn explain(config: &InitConfig, name: &str, program: &Path, step: Step, err: &io::Error) -> String {
    match step {
        Step::Session => format!("begin a session for the job: {err}"),
        Step::Terminal => format!("give the job its terminal: {err}"),
        Step::Limits => format!("set the job's resource limits {:?}: {err}", config.rlimits),
        Step::User => format!("become user {} of group {}: {err}", config.uid, config.gid),
        Step::Exec => command::explain(name, program, err),
    }
}

/// Names as in getrlimit(2), in lower case and without the prefix.
const RESOURCES: [(&str, Resource); 15] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

fn limits(wanted: &[(String, u64, u64)]) -> Result<Vec<(Resource, Rlimit)>, String> {
    let limit = |(name, soft, hard): &(String, u64, u64)| {
        let (_, resource) =
            RESOURCES.iter().find(|(known, _)| known == name).ok_or(format!("unknown resource limit {name:?}"))?;
        Ok((*resource, Rlimit { current: Some(*soft), maximum: Some(*hard) }))
    };
    wanted.iter().map(limit).collect()
}

/// In the host's process namespace we are not process 1, to which orphans go by themselves.
pub(super) fn adopt_orphans() {
    if rustix::process::getpid().as_raw_nonzero().get() != 1 {
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_known_by_name() {
        let known = limits(&[("nofile".into(), 100, 200)]).unwrap();
        assert_eq!(known, [(Resource::Nofile, Rlimit { current: Some(100), maximum: Some(200) })]);
        assert_eq!(limits(&[("files".into(), 1, 1)]).unwrap_err(), "unknown resource limit \"files\"");
    }

    #[test]
    fn a_working_directory_that_is_missing_is_named() {
        let config = |work_dir: &str| InitConfig { work_dir: work_dir.into(), ..InitConfig::default() };
        assert_eq!(work_dir(&config("")).unwrap(), Path::new("/"));
        assert_eq!(work_dir(&config("/nope")).unwrap_err(), "working directory \"/nope\" does not exist");
        assert_eq!(work_dir(&config("/dev/null")).unwrap_err(), "working directory \"/dev/null\" is not a directory");
    }
}
