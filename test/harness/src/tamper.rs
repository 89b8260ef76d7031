//! Faults at the system calls of a daemon: strace, which runs outside of the host, holds the daemon at a call and lets it
//! fail, wait, or be the last one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use nix::sys::signal::Signal;

use crate::host::Host;
use crate::process::ProcessId;
use crate::wait::wait_until;

/// Longest until strace has a process with all its threads.
const ATTACH: Duration = Duration::from_secs(20);

/// What is done to which system calls of a daemon and of the processes that it starts meanwhile.
#[derive(Clone, Debug)]
pub struct Tampering {
    /// Names of system calls.
    pub calls: Vec<String>,
    /// Only calls that name this file, or have it open; else all.
    pub file: Option<PathBuf>,
    pub effect: Effect,
    /// Only the so manieth of these calls in a thread, counted from 1 for each name; else every one.
    pub nth: Option<usize>,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is only noted.
    Watch,
    /// The process is killed before the call.
    Kill,
    /// The call does nothing and fails with this error, as errno(3) names it.
    Fail(&'static str),
    /// The call takes so much longer.
    Delay(Duration),
}

impl Tampering {
    fn arguments(&self) -> Vec<String> {
        let calls = self.calls.join(",");
        let mut arguments = vec!["-e".to_owned(), format!("trace={calls}")];
        if let Some(file) = &self.file {
            arguments.extend(["-P".to_owned(), file.display().to_string()]);
        }
        let effect = match self.effect {
            Effect::Watch => return arguments,
            Effect::Kill => "signal=KILL".to_owned(),
            Effect::Fail(error) => format!("error={error}"),
            Effect::Delay(time) => format!("delay_enter={}", time.as_micros()),
        };
        let when = self.nth.map(|nth| format!(":when={nth}")).unwrap_or_default();
        arguments.extend(["-e".to_owned(), format!("inject={calls}:{effect}{when}")]);
        arguments
    }
}

/// A daemon under strace. It goes on alone when this is dropped.
#[derive(Debug)]
pub struct Tampered {
    strace: Child,
    log: PathBuf,
}

/// One system call, as strace noted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub thread: i32,
    pub name: String,
    /// Of files that it has or names the last one: what is synced, or the new name of what is renamed.
    pub file: Option<PathBuf>,
    /// Whether something was done to it.
    pub injected: bool,
}

impl Host<'_> {
    /// Starts the daemon, without waiting for it, and tampers with it from its first system call on.
    pub fn launch_daemon_tampered(&self, tampering: &Tampering) -> anyhow::Result<Tampered> {
        let process = self.launch_stopped()?;
        let tampered = self.hold(process, tampering)?;
        process.signal(Signal::SIGCONT)?;
        wait_until(ATTACH, "the process is the daemon, or has ended", || {
            let daemons = self.daemon_processes();
            if daemons.contains(&process) || !process.is_alive() { Ok(()) } else { Err(daemons) }
        })?;
        Ok(tampered)
    }

    /// Tampers with the running daemon.
    pub fn tamper(&self, tampering: &Tampering) -> anyhow::Result<Tampered> {
        let daemons = self.daemon_processes();
        let daemon = daemons.first().with_context(|| format!("the daemon of {} does not run", self.id()))?;
        self.hold(*daemon, tampering)
    }

    fn hold(&self, process: ProcessId, tampering: &Tampering) -> anyhow::Result<Tampered> {
        Tampered::attach(process, tampering, &self.dir().join("strace.log"))
    }
}

impl Tampered {
    /// Takes hold of a process with all its threads, and of everything that it will start.
    fn attach(process: ProcessId, tampering: &Tampering, log: &Path) -> anyhow::Result<Self> {
        // What the last one noted is no business of this one.
        let _ = std::fs::remove_file(log);
        let mut command = Command::new("strace");
        command.args(["--follow-forks", "--quiet=all", "--decode-fds=path", "--signal=none", "-o"]).arg(log);
        command.args(tampering.arguments()).arg("-p").arg(process.pid.to_string());
        let errors = std::fs::File::create(log.with_extension("strace-errors"))?;
        let strace = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn();
        let mut tampered =
            Self { strace: strace.context("run strace (script/setup installs it)")?, log: log.to_owned() };
        wait_until(ATTACH, &format!("strace has process {}", process.pid), || {
            if let Ok(Some(status)) = tampered.strace.try_wait() {
                return Err(format!("it ended: {status}: {}", tampered.errors()));
            }
            let free = threads(process).into_iter().filter(|thread| !is_traced(thread)).count();
            if free == 0 { Ok(()) } else { Err(format!("{free} threads are free")) }
        })?;
        Ok(tampered)
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(self.log.with_extension("strace-errors")).unwrap_or_default()
    }

    /// What strace has noted so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let mut unfinished = BTreeMap::new();
        let mut calls: Vec<Call> = Vec::new();
        for line in String::from_utf8_lossy(&log).lines() {
            let injected = line.ends_with("(INJECTED)") || line.ends_with("(DELAYED)");
            let Some((thread, rest)) = line.split_once(' ') else { continue };
            let Ok(thread) = thread.parse() else { continue };
            let rest = rest.trim_start();
            if rest.starts_with("<... ") {
                if injected && let Some(index) = unfinished.remove(&thread) {
                    let call: &mut Call = &mut calls[index];
                    call.injected = true;
                }
                continue;
            }
            let Some((name, arguments)) = rest.split_once('(') else { continue };
            if rest.ends_with("<unfinished ...>") {
                unfinished.insert(thread, calls.len());
            }
            calls.push(Call { thread, name: name.to_owned(), file: last_file(arguments), injected });
        }
        calls
    }
}

impl Drop for Tampered {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// The last file among arguments such as `5</a/file>` and `"/a/file"`.
fn last_file(arguments: &str) -> Option<PathBuf> {
    let arguments = arguments.trim_end_matches("<unfinished ...>");
    let open = arguments.rfind(['<', '"'])?;
    let file = match arguments.as_bytes()[open] {
        b'<' => arguments[open + 1..].split('>').next()?,
        _ => arguments[..open].rsplit('"').next()?,
    };
    file.starts_with('/').then(|| PathBuf::from(file))
}

fn threads(process: ProcessId) -> Vec<PathBuf> {
    let tasks = std::fs::read_dir(process.proc("task")).into_iter().flatten().flatten();
    tasks.map(|task| task.path()).collect()
}

fn is_traced(thread: &Path) -> bool {
    let status = std::fs::read_to_string(thread.join("status")).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|tracer| tracer.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_calls_are_found() {
        for (arguments, file) in [
            ("5</a/file>) = 0", Some("/a/file")),
            (r#""/a/new", "/a/file") = 0"#, Some("/a/file")),
            (r#"AT_FDCWD</>, "/a/new", AT_FDCWD</>, "/a/file", RENAME_NOREPLACE) = 0"#, Some("/a/file")),
            ("5</a/file> <unfinished ...>", Some("/a/file")),
            ("5<socket:[1]>) = 0", None),
            (") = 0", None),
        ] {
            assert_eq!(last_file(arguments), file.map(PathBuf::from), "{arguments}");
        }
    }
}
