//! One host of a cluster.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;

use crate::cluster::{Cluster, unshare};
use crate::control::{DaemonState, Request, ask};
use crate::host_init::{InitConfig, PID_FILE};
use crate::leaks::{self, Inventory};
use crate::network;
use crate::options::Ready;
use crate::pool;
use crate::process::{Process, ProcessId, in_namespaces, namespace};
use crate::program::Program;
use crate::programs;
use crate::proxy::Target;
use crate::record::{HostRecord, Record};
use crate::wait::wait_until;

/// Longest that a probe of a daemon waits for an answer.
const PROBE: Duration = Duration::from_secs(2);

/// What of a host lives in this process.
#[derive(Debug)]
pub(crate) struct Handle {
    target: Target,
    /// `unshare`, the parent of process 1, if this process started it.
    child: Mutex<Option<Child>>,
}

impl Handle {
    pub(crate) fn of(record: &HostRecord) -> Self {
        let target = record.init.filter(|init| init.is_alive()).map(|init| (init, record.ip));
        Self { target: Arc::new(Mutex::new(target)), child: Mutex::default() }
    }
}

/// What a host is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostState {
    Down,
    /// Up, and its daemon was never started since.
    Bare,
    /// With the daemon's processes.
    Running(Vec<i32>),
    /// The daemon has ended: how.
    DaemonEnded(String),
}

/// One host. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) index: usize,
}

impl Host<'_> {
    fn handle(&self) -> &Handle {
        &self.cluster.handles[self.index]
    }

    fn record(&self) -> HostRecord {
        self.cluster.record().hosts[self.index].clone()
    }

    fn update(&self, change: impl FnOnce(&mut HostRecord)) -> anyhow::Result<()> {
        let mut record = self.cluster.record();
        change(&mut record.hosts[self.index]);
        record.save()
    }

    pub fn id(&self) -> String {
        self.record().id
    }

    pub fn ip(&self) -> Ipv4Addr {
        self.record().ip
    }

    /// Its folder: `state` (its disk), `log`, `etc` (what differs from the machine's `/etc`).
    pub fn dir(&self) -> PathBuf {
        let record = self.cluster.record();
        record.host_dir(&record.hosts[self.index].id)
    }

    pub(crate) fn init(&self) -> Option<ProcessId> {
        self.record().init.filter(|init| init.is_alive())
    }

    pub fn is_up(&self) -> bool {
        self.init().is_some()
    }

    fn up(&self) -> anyhow::Result<ProcessId> {
        self.init().with_context(|| format!("{} is down: start it first", self.id()))
    }

    /// Control group of everything the daemon runs, relative to each hierarchy's root.
    pub fn cgroup(&self) -> String {
        let record = self.cluster.record();
        format!("{}/{}", record.cgroup(), record.hosts[self.index].id)
    }

    /// The ZFS pool of its volumes, where the machine has ZFS.
    pub(crate) fn pool(&self) -> String {
        let id = self.id();
        self.cluster.record().pool(&id)
    }

    // ── power ──

    /// Powers the host up, without its daemon.
    pub fn boot(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.is_up(), "{} is up already", self.id());
        let record = self.cluster.record().clone();
        let own = &record.hosts[self.index];
        let dir = record.host_dir(&own.id);
        for folder in ["state", "log", "tmp", "etc/flynn"] {
            std::fs::create_dir_all(dir.join(folder))
                .with_context(|| format!("make {}", dir.join(folder).display()))?;
        }
        std::fs::write(dir.join("etc/hostname"), format!("{}\n", own.id))?;
        std::fs::write(dir.join("etc/hosts"), format!("127.0.0.1 localhost\n{} {}\n", own.ip, own.id))?;
        // Nothing outside the cluster is reached, names included.
        std::fs::write(dir.join("etc/resolv.conf"), "")?;
        if record.movable_clock && !dir.join("etc/clock").exists() {
            std::fs::write(dir.join("etc/clock"), "+0\n")?;
        }
        let disk = record.disk_bytes.map(|bytes| make_disk(&dir, bytes)).transpose()?;
        let config = InitConfig { hostname: own.id.clone(), owned: !record.detached, disk };
        std::fs::write(dir.join("init.json"), serde_json::to_vec_pretty(&config)?)?;
        let pid_file = dir.join(PID_FILE);
        let _ = std::fs::remove_file(&pid_file);

        let mut command = unshare();
        command.args(["--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--propagation", "private"]);
        command.arg(programs::cluster()?).arg("host-init").arg(&dir);
        let errors = std::fs::File::create(dir.join("init.log"))?;
        let input = if record.detached { Stdio::null() } else { Stdio::piped() };
        let child = command.stdin(input).stdout(errors.try_clone()?).stderr(errors).spawn().context("run unshare")?;
        *self.handle().child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let pid: i32 = wait_until(Duration::from_secs(20), &format!("{} has come up", own.id), || {
            let seen = std::fs::read_to_string(&pid_file).ok().and_then(|text| text.parse().ok());
            seen.ok_or_else(|| std::fs::read_to_string(dir.join("init.log")).unwrap_or_default())
        })?;
        let init = ProcessId::of(pid)?;
        {
            let mut record = self.cluster.record();
            record.hosts[self.index].init = Some(init);
            record.namespaces.extend(namespace(pid, "pid"));
            record.save()?;
        }
        network::plug(self.cluster.hub_id, self.index, init, own.ip)?;
        *self.handle().target.lock().unwrap_or_else(PoisonError::into_inner) = Some((init, own.ip));
        Ok(())
    }

    /// Powers the host up, starts its daemon and waits until it is ready.
    pub fn start(&self) -> anyhow::Result<()> {
        self.boot()?;
        self.start_daemon()
    }

    /// Power cut: everything on the host is killed at once, and what a machine loses with power is gone (processes,
    /// mounts, control groups, `/run`). Its disk stays.
    pub fn kill(&self) -> anyhow::Result<()> {
        *self.handle().target.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(init) = self.record().init {
            init.signal(Signal::SIGKILL)?;
            init.wait_gone()?;
        }
        self.collect();
        network::unplug(self.cluster.hub_id, self.index);
        pool::let_go(&self.pool());
        leaks::remove_cgroups(&self.cgroup());
        self.update(|record| record.init = None)
    }

    /// Power cut of a host with a disk of its own ([`crate::ClusterOptions::disk_bytes`]) in which that keeps only what
    /// it was told to: what was written but not synced is lost.
    pub fn lose_power(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.cluster.record().disk_bytes.is_some(), "{} has no disk of its own", self.id());
        // FS_IOC_SHUTDOWN without writing the journal: from now on nothing reaches the disk, not even at the unmount.
        // Every Debian has this interpreter; xfs_io does the same.
        let shutdown =
            r#"open(F, "<", $ARGV[0]) or die $!; my $how = pack("L", 2); ioctl(F, 0x8004587d, $how) or die $!"#;
        let mut command = self.command_in("perl")?;
        let command = command.args(["-e", shutdown]).arg(self.dir().join("state")).stdin(Stdio::null());
        let output = command.output().context("run nsenter")?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "shut the file system of {} down: {}", self.id(), said.trim());
        self.kill()
    }

    /// Waits for the process that waits for process 1.
    pub(crate) fn collect(&self) {
        let child = self.handle().child.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            let _ = child.wait();
        }
    }

    // ── daemon ──

    /// Starts the daemon if it does not run, and waits until it is ready.
    pub fn start_daemon(&self) -> anyhow::Result<()> {
        self.launch_daemon()?;
        self.wait_ready()
    }

    /// Starts the daemon without waiting for anything.
    pub fn launch_daemon(&self) -> anyhow::Result<()> {
        self.launch(&[]).map(drop)
    }

    /// The daemon's command, with `wrapper` before it.
    fn launch(&self, wrapper: &[&str]) -> anyhow::Result<DaemonState> {
        let init = self.up()?;
        if self.daemon_processes().is_empty() {
            self.wait_end_noted()?;
        }
        let record = self.cluster.record().clone();
        let wrapper = wrapper.iter().map(|word| (*word).to_owned());
        let request = Request::Start {
            command: wrapper.chain(self.command(&record)?).collect(),
            env: self.daemon_env(&record)?,
            log: self.dir().join("log/daemon.out"),
        };
        ask(init, &request).with_context(|| format!("start the daemon of {}", self.id()))
    }

    /// Starts what will be the daemon when it gets SIGCONT.
    pub(crate) fn launch_stopped(&self) -> anyhow::Result<ProcessId> {
        anyhow::ensure!(self.daemon_processes().is_empty(), "the daemon of {} runs already", self.id());
        let started = match self.launch(&["/bin/sh", "-c", "kill -STOP $$; exec \"$@\"", "sh"])? {
            DaemonState::Running(pid) => Some(pid),
            other => bail!("the daemon of {} was not started: {other:?}", self.id()),
        };
        let inode = namespace(self.up()?.pid, "pid").context("the host has gone")?;
        wait_until(PROBE, "the process that becomes the daemon has stopped", || {
            let found = in_namespaces("pid", &[inode]).into_iter().find(|process| inner_pid(process.id) == started);
            match found {
                Some(process) if process.id.is_stopped() => Ok(process.id),
                other => Err(format!("{other:?}")),
            }
        })
    }

    fn command(&self, record: &Record) -> anyhow::Result<Vec<String>> {
        let daemon = &record.daemon;
        let mut command = daemon.command.clone();
        if command.is_empty() {
            let text = |path: PathBuf| path.to_string_lossy().into_owned();
            command = vec![text(programs::host()?), "daemon".to_owned()];
            let state = "{dir}/state";
            let flags = [
                ("--id", "{id}".to_owned()),
                ("--external-ip", "{ip}".to_owned()),
                ("--listen-ip", "{ip}".to_owned()),
                ("--peer-ips", "{peers}".to_owned()),
                ("--state", format!("{state}/host-state.redb")),
                ("--volpath", format!("{state}/volumes")),
                // Pools are the machine's, not a namespace's: each host has its own.
                ("--zpool-name", self.pool()),
                ("--log-dir", "{dir}/log".to_owned()),
                ("--cgroup-root", "{cgroup}".to_owned()),
                ("--flynn-init", text(programs::init()?)),
            ];
            command.extend(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        }
        command.extend(daemon.args.iter().cloned());
        let own = &record.hosts[self.index];
        let peers: Vec<_> = record.hosts.iter().map(|host| host.ip.to_string()).collect();
        let (peers, ip, dir) = (peers.join(","), own.ip.to_string(), self.dir().to_string_lossy().into_owned());
        let cgroup = self.cgroup();
        let names = [("{id}", &own.id), ("{ip}", &ip), ("{peers}", &peers), ("{dir}", &dir), ("{cgroup}", &cgroup)];
        for argument in &mut command {
            for (name, value) in names {
                *argument = argument.replace(name, value);
            }
        }
        Ok(command)
    }

    /// Of commands in the host; the daemon has more.
    fn env(&self) -> BTreeMap<String, String> {
        let programs = programs::host().or_else(|_| programs::cluster()).ok();
        let folder = programs.and_then(|path| Some(format!("{}:", path.parent()?.display()))).unwrap_or_default();
        let mut env: BTreeMap<_, _> = [
            ("PATH", format!("{folder}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")),
            ("HOME", "/root".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
            ("TMPDIR", self.dir().join("tmp").display().to_string()),
            ("DISCOVERD", format!("http://{}:1111", self.ip())),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let kept = ["TERM", "COLUMNS", "LINES", "RUST_LOG", "RUST_BACKTRACE"];
        env.extend(kept.into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))));
        env
    }

    fn daemon_env(&self, record: &Record) -> anyhow::Result<BTreeMap<String, String>> {
        let mut env = self.env();
        env.remove("DISCOVERD");
        if record.movable_clock {
            let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
            anyhow::ensure!(Path::new(library).is_file(), "there is no {library}: run script/setup");
            let clock = self.dir().join("etc/clock").display().to_string();
            let faketime = [
                ("LD_PRELOAD", library),
                ("FAKETIME_TIMESTAMP_FILE", &clock),
                // Read the file at every call; leave alone the clock that timers use.
                ("FAKETIME_NO_CACHE", "1"),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ];
            env.extend(faketime.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        env.extend(record.daemon.env.clone());
        Ok(env)
    }

    /// Moves the daemon's wall clock by so many seconds from the true time, at once and until moved again. Needs
    /// [`crate::ClusterOptions::movable_clock`]; containers are not touched.
    pub fn shift_clock(&self, seconds: i64) -> anyhow::Result<()> {
        anyhow::ensure!(self.cluster.record().movable_clock, "the cluster was made without a movable clock");
        let (file, new) = (self.dir().join("etc/clock"), self.dir().join("etc/clock.new"));
        std::fs::write(&new, format!("{seconds:+}\n"))?;
        std::fs::rename(new, file).context("move the clock")
    }

    /// Waits until the daemon is ready, and fails early when it ends.
    pub fn wait_ready(&self) -> anyhow::Result<()> {
        let daemon = self.cluster.record().daemon.clone();
        let (id, init) = (self.id(), self.up()?);
        let ended = wait_until(daemon.patience, &format!("the daemon of {id} is ready"), || {
            match ask(init, &Request::Status) {
                Ok(DaemonState::Ended(how)) if self.daemon_processes().is_empty() => return Ok(Some(how)),
                Ok(_) => {}
                Err(err) => return Err(format!("{err:#}")),
            }
            match &daemon.ready {
                Ready::Started => Ok(None),
                Ready::Http { port, path } => match self.probe(*port, path) {
                    Ok(200) => Ok(None),
                    Ok(status) => Err(format!("{path} answers {status}")),
                    Err(err) => Err(format!("{path}: {err:#}")),
                },
            }
        });
        match ended {
            Ok(None) => Ok(()),
            Ok(Some(how)) => bail!("the daemon of {id} ended before it was ready: {how}\n{}", self.cluster.logs()),
            Err(err) => Err(err.context(self.cluster.logs())),
        }
    }

    /// Status of a GET.
    pub fn probe(&self, port: u16, path: &str) -> anyhow::Result<u16> {
        let mut stream = TcpStream::connect(self.address(port)?)?;
        stream.set_read_timeout(Some(PROBE * flynn_patience::factor()))?;
        let ip = self.ip();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {ip}:{port}\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).context("no answer")?;
        let head = String::from_utf8_lossy(&head);
        head.get(9..12).and_then(|code| code.parse().ok()).with_context(|| format!("{head:?} is no HTTP answer"))
    }

    /// The daemon's processes: the one that was started, and others of the same program that replaced it.
    pub(crate) fn daemon_processes(&self) -> Vec<ProcessId> {
        let Some(init) = self.init() else { return Vec::new() };
        let Some(inode) = namespace(init.pid, "pid") else { return Vec::new() };
        let record = self.cluster.record().clone();
        let Ok(command) = self.command(&record) else { return Vec::new() };
        let program = command.first().cloned().unwrap_or_default();
        let started = match ask(init, &Request::Status) {
            Ok(DaemonState::Running(pid)) if !record.daemon.command.is_empty() => Some(pid),
            _ => None,
        };
        let is_daemon = |process: &Process| match command.get(1) {
            // A job's supervisor is the same program with another command.
            Some(verb) if record.daemon.command.is_empty() => {
                process.program.starts_with(&program) && process.arguments.get(1) == Some(verb)
            }
            // It may have become another program since.
            _ => started.is_some() && inner_pid(process.id) == started,
        };
        in_namespaces("pid", &[inode]).into_iter().filter(is_daemon).map(|process| process.id).collect()
    }

    fn signal_daemon(&self, signal: Signal) -> anyhow::Result<Vec<ProcessId>> {
        self.up()?;
        let daemons = self.daemon_processes();
        anyhow::ensure!(!daemons.is_empty(), "the daemon of {} does not run", self.id());
        daemons.iter().try_for_each(|daemon| daemon.signal(signal))?;
        Ok(daemons)
    }

    /// `kill -9` of the daemon alone: jobs go on.
    pub fn kill_daemon(&self) -> anyhow::Result<()> {
        self.end_daemon(Signal::SIGKILL)
    }

    /// Asks the daemon to end, and waits.
    pub fn stop_daemon(&self) -> anyhow::Result<()> {
        self.end_daemon(Signal::SIGTERM)
    }

    fn end_daemon(&self, signal: Signal) -> anyhow::Result<()> {
        self.signal_daemon(signal)?.into_iter().try_for_each(ProcessId::wait_gone)?;
        self.wait_end_noted()
    }

    /// Waits until process 1 knows that the daemon has ended: before that it starts no other.
    fn wait_end_noted(&self) -> anyhow::Result<()> {
        let init = self.up()?;
        wait_until(PROBE, "the daemon's end is noted", || match ask(init, &Request::Status) {
            Ok(DaemonState::Running(pid)) => Err(format!("process {pid} runs")),
            Ok(_) => Ok(()),
            Err(err) => Err(format!("{err:#}")),
        })
    }

    /// [`Self::kill_daemon`], then [`Self::start_daemon`].
    pub fn restart_daemon(&self) -> anyhow::Result<()> {
        self.kill_daemon()?;
        self.start_daemon()
    }

    /// Stops the daemon where it is (SIGSTOP), without its knowing.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal_daemon(Signal::SIGSTOP).map(drop)
    }

    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal_daemon(Signal::SIGCONT).map(drop)
    }

    // ── network ──

    /// Cuts the host off from all others, in both directions.
    pub fn cut(&self) -> anyhow::Result<()> {
        network::cut(self.cluster.hub_id, &self.pairs())
    }

    pub fn heal(&self) -> anyhow::Result<()> {
        network::heal(self.cluster.hub_id, &self.pairs())
    }

    fn pairs(&self) -> Vec<(usize, usize)> {
        let others = (0..self.cluster.len()).filter(|other| *other != self.index);
        others.flat_map(|other| [(self.index, other), (other, self.index)]).collect()
    }

    /// Gives the host another address (of 10.99.0.0/24), at once and for its next starts. The daemon is told at its next
    /// start.
    pub fn change_ip(&self, to: Ipv4Addr) -> anyhow::Result<()> {
        let from = self.ip();
        if let Some(init) = self.init() {
            network::readdress(init, from, to)?;
            *self.handle().target.lock().unwrap_or_else(PoisonError::into_inner) = Some((init, to));
        }
        self.update(|record| record.ip = to)
    }

    /// Where on this machine's loopback a TCP port of the host answers. Stays the same over restarts of the host, and
    /// works while the host is cut off.
    pub fn address(&self, port: u16) -> anyhow::Result<SocketAddr> {
        self.cluster.proxy.address(self.index, port, &self.handle().target)
    }

    /// [`Self::address`] as the base of URLs.
    pub fn url(&self, port: u16) -> anyhow::Result<String> {
        Ok(format!("http://{}", self.address(port)?))
    }

    // ── commands ──

    /// A command that will run in the host, with its output wherever the caller wants.
    pub fn command_in(&self, program: impl AsRef<OsStr>) -> anyhow::Result<Command> {
        let init = self.up()?;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", init.pid))
            .args(["--mount", "--net", "--uts", "--ipc", "--pid", "--wd=/", "--"]);
        // Found in the host's PATH, not in ours.
        command.args(["/usr/bin/env", "--"]).arg(program).env_clear().envs(self.env());
        Ok(command)
    }

    /// Starts one of our programs in the host's network, beside its daemon, with the machine's own files and only these
    /// variables: a component of the platform without its container. Its output goes to `NAME.out` among the host's logs.
    pub fn start_program(
        &self,
        name: &str,
        program: &Path,
        arguments: &[&str],
        vars: &BTreeMap<&str, String>,
    ) -> anyhow::Result<Program> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.up()?.pid)).args(["--net", "--pid", "--"]);
        command.arg(program).args(arguments).env_clear().envs(vars);
        Program::start(command, &self.dir().join("log").join(format!("{name}.out")))
    }

    /// Runs a command in the host and collects its output.
    pub fn exec<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> anyhow::Result<Output> {
        let mut arguments = command.into_iter();
        let program = arguments.next().context("no command was given")?;
        let mut command = self.command_in(program)?;
        command.args(arguments).stdin(Stdio::null()).output().context("run nsenter")
    }

    /// Runs a command that must succeed, and gives its standard output.
    pub fn output<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> anyhow::Result<String> {
        let command: Vec<_> = command.into_iter().collect();
        let output = self.exec(&command)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let words: Vec<_> = command.iter().map(|word| word.as_ref().to_string_lossy()).collect();
        let (id, status) = (self.id(), output.status);
        anyhow::ensure!(status.success(), "{id}: `{}`: {status}: {}", words.join(" "), errors.trim());
        String::from_utf8(output.stdout).context("the output is no UTF-8")
    }

    /// Runs `work` on a thread of its own inside the host's network: sockets that it makes are the host's.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let namespace = std::fs::File::open(self.up()?.proc("ns/net")).context("open the host's network namespace")?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the host's network namespace")?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    // ── looking ──

    pub fn state(&self) -> HostState {
        let Some(init) = self.init() else { return HostState::Down };
        let daemons = self.daemon_processes();
        if !daemons.is_empty() {
            return HostState::Running(daemons.iter().map(|daemon| daemon.pid).collect());
        }
        match ask(init, &Request::Status) {
            Ok(DaemonState::NeverStarted) => HostState::Bare,
            Ok(DaemonState::Ended(how)) => HostState::DaemonEnded(how),
            Ok(DaemonState::Running(_)) => HostState::DaemonEnded("just now".to_owned()),
            Err(err) => HostState::DaemonEnded(format!("unknown: {err:#}")),
        }
    }

    /// Everything the kernel holds for this host, to compare before and after.
    pub fn inventory(&self) -> anyhow::Result<Inventory> {
        let init = self.up()?;
        Inventory::take(init, &self.cgroup(), &self.dir(), &self.daemon_processes())
    }

    pub(crate) fn log_files(&self) -> Vec<PathBuf> {
        let log = self.dir().join("log");
        let mut files = vec![self.dir().join("init.log")];
        let mut logs: Vec<_> =
            std::fs::read_dir(log).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        logs.sort();
        files.extend(logs.into_iter().filter(|file| file.extension().is_some_and(|end| end == "out" || end == "log")));
        files.retain(|file| file.is_file());
        files
    }
}

/// The host's disk, made the first time.
fn make_disk(dir: &Path, bytes: u64) -> anyhow::Result<PathBuf> {
    let disk = dir.join("disk.img");
    if !disk.exists() {
        std::fs::File::create(&disk)?.set_len(bytes)?;
        let mut mkfs = Command::new("mkfs.ext4");
        // No space kept for root: full means full.
        let status = mkfs.args(["-q", "-m", "0", "-E", "nodiscard"]).arg(&disk).status().context("run mkfs.ext4")?;
        anyhow::ensure!(status.success(), "mkfs.ext4 {}: {status}", disk.display());
    }
    Ok(disk)
}

/// A process's id as its own namespace sees it.
fn inner_pid(process: ProcessId) -> Option<i32> {
    let status = std::fs::read_to_string(process.proc("status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    ids.split_whitespace().last()?.parse().ok()
}
