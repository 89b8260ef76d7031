//! The inside of a host: process 1 of its namespaces.
//!
//! Started by `unshare` with fresh mount, network, process, UTS and IPC namespaces; makes them look like a machine of its
//! own (`/proc`, `/sys`, `/run`, `/tmp` and `/etc`), then starts the daemon when told to and reaps. When it ends, the
//! kernel kills everything in the host, which is what a power cut looks like.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use serde::{Deserialize, Serialize};

use crate::control::{Answer, DaemonState, Request, SOCKET};

/// `init.json` in the host's folder.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InitConfig {
    pub(crate) hostname: String,
    /// Ends when its standard input does.
    pub(crate) owned: bool,
    /// An ext4 file system to mount on `state`.
    pub(crate) disk: Option<PathBuf>,
}

/// File with the id that the machine sees this process under; written when the host is ready.
pub(crate) const PID_FILE: &str = "init.pid";

type Mountpoint<'a> = (&'a str, &'a Path, &'a str, MsFlags, &'a str);

/// Is process 1 of the host in `dir` until it is killed.
pub fn run(dir: &Path) -> anyhow::Result<()> {
    let config = std::fs::read(dir.join("init.json")).context("read init.json")?;
    let config: InitConfig = serde_json::from_slice(&config).context("parse init.json")?;
    // Blocked before any thread exists: the main thread alone takes it.
    let mut child_ended = SigSet::empty();
    child_ended.add(Signal::SIGCHLD);
    child_ended.thread_block().context("block SIGCHLD")?;

    let outer = std::fs::read_link("/proc/self").context("read /proc/self")?;
    nix::unistd::sethostname(&config.hostname).context("set the host name")?;
    furnish(dir, &config)?;
    let daemon = Arc::new(Mutex::new(DaemonState::default()));
    let listener = UnixListener::bind(SOCKET).with_context(|| format!("listen on {SOCKET}"))?;
    let served = Arc::clone(&daemon);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // One caller at a time: there is one harness.
            let _ = serve(stream, &served);
        }
    });
    if config.owned {
        std::thread::spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
    }
    let file = dir.join(PID_FILE);
    std::fs::write(file.with_extension("new"), outer.as_os_str().as_encoded_bytes()).context("write init.pid")?;
    std::fs::rename(file.with_extension("new"), &file).context("rename init.pid")?;
    loop {
        match waitpid(None, None) {
            Ok(status) => note_end(&daemon, status),
            // No child now. One that ends before the wait has left its signal pending.
            Err(_) => {
                let _ = child_ended.wait();
            }
        }
    }
}

fn note_end(daemon: &Mutex<DaemonState>, status: WaitStatus) {
    let words = match status {
        WaitStatus::Exited(_, code) => format!("exit status {code}"),
        WaitStatus::Signaled(_, signal, _) => format!("killed by {signal}"),
        _ => return,
    };
    let mut state = daemon.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if status.pid().is_some_and(|pid| *state == DaemonState::Running(pid.as_raw())) {
        *state = DaemonState::Ended(words);
    }
}

/// Gives the host its own system folders.
fn furnish(dir: &Path, config: &InitConfig) -> anyhow::Result<()> {
    let none = MsFlags::empty();
    let cgroups = dir.join("cgroups");
    std::fs::create_dir_all(&cgroups)?;
    let (etc, work) = (dir.join("etc"), dir.join("etc-work"));
    for folder in [&etc, &work] {
        std::fs::create_dir_all(folder)?;
    }
    let overlay = format!("lowerdir=/etc,upperdir={},workdir={}", etc.display(), work.display());
    let mounts: [Mountpoint<'_>; 6] = [
        // Control groups live below the sysfs that is replaced here, so they are carried over.
        ("/sys/fs/cgroup", &cgroups, "", MsFlags::MS_BIND | MsFlags::MS_REC, ""),
        ("sysfs", Path::new("/sys"), "sysfs", none, ""),
        ("proc", Path::new("/proc"), "proc", none, ""),
        ("run", Path::new("/run"), "tmpfs", none, "mode=755"),
        ("etc", Path::new("/etc"), "overlay", none, &overlay),
        ("shm", Path::new("/dev/shm"), "tmpfs", none, "mode=1777"),
    ];
    for (source, target, kind, flags, data) in mounts {
        mount(Some(source), target, Some(kind), flags, Some(data))
            .with_context(|| format!("mount {source} on {}", target.display()))?;
    }
    mount(Some(&cgroups), "/sys/fs/cgroup", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .context("move control groups to /sys/fs/cgroup")?;
    if let Some(disk) = &config.disk {
        // mount(8) finds a free loop device and lets go of it with the mount.
        let target = dir.join("state");
        let status = Command::new("mount").args(["-o", "loop"]).arg(disk).arg(&target).status().context("run mount")?;
        anyhow::ensure!(status.success(), "mount {} on {}: {status}", disk.display(), target.display());
    }
    Ok(())
}

fn serve(mut stream: UnixStream, daemon: &Mutex<DaemonState>) -> anyhow::Result<()> {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let answer = match serde_json::from_str(&line).context("parse the request").and_then(|ask| handle(ask, daemon)) {
        Ok(state) => Answer::Daemon(state),
        Err(err) => Answer::Failed(format!("{err:#}")),
    };
    let mut answer = serde_json::to_vec(&answer)?;
    answer.push(b'\n');
    Ok(stream.write_all(&answer)?)
}

fn handle(request: Request, daemon: &Mutex<DaemonState>) -> anyhow::Result<DaemonState> {
    // Held while the daemon is started, so that its end cannot be noted before its start.
    let mut state = daemon.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Request::Start { command, env, log } = request
        && !matches!(*state, DaemonState::Running(_))
    {
        *state = DaemonState::Running(start(&command, &env, &log)?);
    }
    Ok(state.clone())
}

fn start(command: &[String], env: &BTreeMap<String, String>, log: &Path) -> anyhow::Result<i32> {
    let (program, arguments) = command.split_first().context("the daemon's command is empty")?;
    // Process 1 reaps everything, also what failed to start, so a missing program must be noticed before.
    anyhow::ensure!(!program.contains('/') || Path::new(program).is_file(), "there is no program {program}");
    let log = std::fs::File::options().create(true).append(true).open(log).context("open the daemon's output")?;
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(env)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {program}"))?;
    Ok(i32::try_from(child.id())?)
}
