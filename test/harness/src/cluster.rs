//! A cluster as a whole.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;

use crate::host::{Handle, Host};
use crate::leaks;
use crate::network;
use crate::options::ClusterOptions;
use crate::pool;
use crate::process::ProcessId;
use crate::programs;
use crate::proxy::Proxy;
use crate::record::{HostRecord, Record};
use crate::wait::wait_until;

/// Lines of each daemon's log that a failing test shows.
const LOG_LINES_SHOWN: usize = 60;

/// Hosts on a common network. Dropping it removes everything, unless it is detached.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) record: Mutex<Record>,
    pub(crate) proxy: Proxy,
    pub(crate) handles: Vec<Handle>,
    /// The hub while this process owns it: its input is what tells it that we are alive.
    hub: Mutex<Option<Child>>,
    detached: bool,
    pub(crate) hub_id: ProcessId,
}

impl Cluster {
    /// Makes the hosts and, unless told otherwise, starts their daemons all at once and waits until they are ready.
    pub fn up(options: ClusterOptions) -> anyhow::Result<Self> {
        anyhow::ensure!(nix::unistd::geteuid().is_root(), "a cluster needs namespaces: run as root");
        let name = match options.name {
            Some(name) => name,
            None => format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..10]),
        };
        let plain = !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric());
        anyhow::ensure!(plain, "the cluster's name {name:?} may hold only letters and digits");
        let dir = options.dir.unwrap_or_else(|| std::env::temp_dir().join(format!("flynn-cluster-{name}")));
        if let Ok(old) = Record::load(&dir)
            && (old.hub.is_some_and(ProcessId::is_alive)
                || old.hosts.iter().filter_map(|host| host.init).any(ProcessId::is_alive))
        {
            bail!("cluster {} in {} is up already: take it down first", old.name, dir.display());
        }
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let hosts = (0..options.hosts).map(|index| {
            Ok(HostRecord { id: format!("host{}", index + 1), ip: network::default_address(index)?, init: None })
        });
        let mut record = Record {
            name,
            dir,
            detached: options.detached,
            movable_clock: options.movable_clock,
            disk_bytes: options.disk_bytes,
            daemon: options.daemon,
            hub: None,
            hosts: hosts.collect::<anyhow::Result<_>>()?,
            namespaces: Vec::new(),
        };
        record.save()?;
        let hub = start_hub(&record)?;
        let hub_id = ProcessId::of(i32::try_from(hub.id())?)?;
        record.hub = Some(hub_id);
        record.save()?;
        let cluster = Self::of(record, hub_id, Some(hub))?;
        cluster.wait_for_hub()?;
        network::set_up_hub(hub_id)?;
        for host in cluster.hosts() {
            host.boot()?;
        }
        if options.start_daemons {
            cluster.start_daemons()?;
        }
        Ok(cluster)
    }

    /// Finds a detached cluster again.
    pub fn load(dir: &Path) -> anyhow::Result<Self> {
        let record = Record::load(dir)?;
        let hub = record.hub.filter(|hub| hub.is_alive());
        let Some(hub) = hub else {
            bail!("cluster {} is not up (the machine was restarted?): `down` removes its rest", record.name)
        };
        Self::of(record, hub, None)
    }

    fn of(record: Record, hub_id: ProcessId, hub: Option<Child>) -> anyhow::Result<Self> {
        let handles = record.hosts.iter().map(Handle::of).collect();
        let (proxy, detached) = (Proxy::start()?, record.detached);
        Ok(Self { record: Mutex::new(record), proxy, handles, hub: Mutex::new(hub), detached, hub_id })
    }

    /// `unshare` becomes the hub; until then it is still in the machine's network.
    fn wait_for_hub(&self) -> anyhow::Result<()> {
        let own = crate::process::namespace(i32::try_from(std::process::id())?, "net");
        wait_until(Duration::from_secs(10), "the hub has a network namespace", || {
            match crate::process::namespace(self.hub_id.pid, "net") {
                Some(inode) if Some(inode) != own => Ok(()),
                other => Err(other),
            }
        })
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder of everything the cluster writes.
    pub fn dir(&self) -> std::path::PathBuf {
        self.record().dir.clone()
    }

    /// Counts from 0: `host(0)` is `host1`.
    pub fn host(&self, index: usize) -> Host<'_> {
        assert!(index < self.handles.len(), "the cluster has {} hosts", self.handles.len());
        Host { cluster: self, index }
    }

    /// The host of that id.
    pub fn host_named(&self, id: &str) -> anyhow::Result<Host<'_>> {
        let ids: Vec<_> = self.record().hosts.iter().map(|host| host.id.clone()).collect();
        match ids.iter().position(|known| known == id) {
            Some(index) => Ok(self.host(index)),
            None => bail!("there is no host {id}: the cluster has {}", ids.join(", ")),
        }
    }

    pub fn hosts(&self) -> impl Iterator<Item = Host<'_>> {
        (0..self.handles.len()).map(|index| self.host(index))
    }

    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// Whether the hosts run `flynn-host` and not some other daemon.
    pub fn runs_flynn(&self) -> bool {
        self.record().daemon.command.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.handles.is_empty()
    }

    /// Starts the daemons of all hosts that are up, at once, and waits until all are ready.
    pub fn start_daemons(&self) -> anyhow::Result<()> {
        for host in self.hosts().filter(Host::is_up) {
            host.launch_daemon()?;
        }
        self.hosts().filter(Host::is_up).try_for_each(|host| host.wait_ready())
    }

    /// Waits until every host that is up sees all hosts that are up in discovery. For clusters of `flynn-host`.
    pub fn wait_united(&self, limit: Duration) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let up: Vec<_> = self.hosts().filter(Host::is_up).collect();
        for host in &up {
            let discoverd = flynn_discoverd_client::Client::from_list(&host.url(1111)?)?.with_patience(Duration::ZERO);
            wait_until(limit, &format!("{} sees {} hosts", host.id(), up.len()), || {
                let seen = runtime.block_on(discoverd.instances("flynn-host")).map_err(|err| err.to_string())?;
                let missing = up.iter().map(Host::id).find(|id| !seen.iter().any(|one| one.meta.get("id") == Some(id)));
                missing.map_or(Ok(()), |id| Err(format!("{id} is missing")))
            })?;
        }
        Ok(())
    }

    /// Power cut of all hosts at once.
    pub fn kill_all(&self) -> anyhow::Result<()> {
        for init in self.hosts().filter_map(|host| host.init()) {
            init.signal(Signal::SIGKILL)?;
        }
        self.hosts().try_for_each(|host| host.kill())
    }

    /// Powers up hosts in this order; waits for all at the end, since the first may need the others to be ready.
    pub fn start_in_order(&self, order: &[usize]) -> anyhow::Result<()> {
        for index in order {
            self.host(*index).boot()?;
            self.host(*index).launch_daemon()?;
        }
        order.iter().try_for_each(|index| self.host(*index).wait_ready())
    }

    /// Separates groups of hosts: nothing passes between hosts of different groups. Hosts in no group keep hearing all.
    pub fn partition(&self, groups: &[&[usize]]) -> anyhow::Result<()> {
        let mut pairs = Vec::new();
        for (number, group) in groups.iter().enumerate() {
            let others = groups.iter().enumerate().filter(|(other, _)| *other != number);
            for to in others.flat_map(|(_, other)| other.iter()) {
                pairs.extend(group.iter().map(|from| (*from, *to)));
            }
        }
        network::cut(self.hub_id, &pairs)
    }

    /// Drops what goes `from` one host `to` another, but not the other way.
    pub fn cut_one_way(&self, from: usize, to: usize) -> anyhow::Result<()> {
        network::cut(self.hub_id, &[(from, to)])
    }

    /// Ends all partitions.
    pub fn heal(&self) -> anyhow::Result<()> {
        network::heal_all(self.hub_id)
    }

    /// Gives each host another address; only for hosts that are down.
    pub fn change_addresses(&self, new: &[Ipv4Addr]) -> anyhow::Result<()> {
        self.hosts().zip(new).try_for_each(|(host, address)| host.change_ip(*address))
    }

    /// Ends and removes everything, and fails naming what is left on the machine.
    pub fn down(self) -> anyhow::Result<()> {
        self.remove()
    }

    fn remove(&self) -> anyhow::Result<()> {
        let hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut record = self.record().clone();
        let result = tear_down(&mut record);
        if let Some(mut hub) = hub {
            // It was killed just now; this collects it.
            let _ = hub.wait();
        }
        self.hosts().for_each(|host| host.collect());
        result
    }

    /// The last lines of each daemon's output, for the message of a failure; without the requests of a test that polls.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for host in self.hosts() {
            let _ = writeln!(text, "── {} ({:?})", host.id(), host.state());
            for file in host.log_files() {
                let log = std::fs::read(&file).unwrap_or_default();
                let log = String::from_utf8_lossy(&log);
                let lines: Vec<_> = log.lines().filter(|line| !line.contains("msg=\"request ")).collect();
                let _ = writeln!(text, "   {}", file.display());
                for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
                    let _ = writeln!(text, "   {line}");
                }
            }
        }
        text
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stderr, reason = "a failing test has nobody else to tell")]
    fn drop(&mut self) {
        if self.detached || self.hub.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return;
        }
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        if let Err(err) = self.remove() {
            if std::thread::panicking() {
                eprintln!("remove the cluster: {err:#}");
            } else {
                panic!("remove the cluster: {err:#}");
            }
        }
    }
}

fn start_hub(record: &Record) -> anyhow::Result<Child> {
    let mut command = unshare();
    command.arg("--net").arg(programs::cluster()?).arg("hub").arg(&record.dir);
    if !record.detached {
        command.arg("--owned");
    }
    let input = if record.detached { Stdio::null() } else { Stdio::piped() };
    if record.detached {
        // Whoever reads our output must not wait for the hub's end.
        command.stderr(Stdio::null());
    }
    command.stdin(input).stdout(Stdio::null()).spawn().context("start the hub")
}

/// `unshare`, as a process in a session of its own: an interrupt from the keyboard, or the end of the terminal, does not reach it.
pub(crate) fn unshare() -> Command {
    let mut command = Command::new("setsid");
    command.arg("unshare");
    command
}

/// Removes a cluster, however little of it is left, and fails naming what cannot be removed.
pub(crate) fn tear_down(record: &mut Record) -> anyhow::Result<()> {
    for host in &record.hosts {
        if let Some(init) = host.init {
            init.signal(Signal::SIGKILL)?;
        }
    }
    for init in record.hosts.iter().filter_map(|host| host.init) {
        init.wait_gone()?;
    }
    if let Some(hub) = record.hub {
        hub.signal(Signal::SIGKILL)?;
        hub.wait_gone()?;
    }
    record.hosts.iter().for_each(|host| pool::let_go(&record.pool(&host.id)));
    leaks::remove_cgroups(&record.cgroup());
    let left = leaks::after_end(record);
    if !left.is_empty() {
        bail!("left on the machine by cluster {}:\n  {}", record.name, left.join("\n  "));
    }
    if std::env::var_os("FLYNN_KEEP").is_some() && !record.detached {
        return Ok(());
    }
    std::fs::remove_dir_all(&record.dir).with_context(|| format!("remove {}", record.dir.display()))
}

/// Removes the cluster of a folder, also after the machine was restarted.
impl Cluster {
    pub fn remove_at(dir: &Path) -> anyhow::Result<()> {
        tear_down(&mut Record::load(dir)?)
    }
}
