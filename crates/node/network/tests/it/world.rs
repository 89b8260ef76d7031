//! Hosts and containers for the tests. Everything lives in namespaces that only this process holds: it vanishes with it.

use std::fs::File;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flynn_network::{Attachment, CasError, Config, LeaseStore, LeaseStoreError, Leases, Network};
use flynn_types::id::JobId;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Longest wait for anything.
fn limit() -> Duration {
    flynn_patience::seconds(20)
}

/// A lease document in memory, with compare-and-set.
pub(crate) struct MemoryStore {
    document: Mutex<(Leases, u64)>,
    changed: watch::Sender<u64>,
    pub(crate) away: AtomicBool,
}

impl MemoryStore {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { document: Mutex::default(), changed: watch::Sender::new(0), away: AtomicBool::new(false) })
    }

    pub(crate) fn leases(&self) -> Leases {
        self.document.lock().unwrap().0.clone()
    }

    pub(crate) fn overwrite(&self, leases: Leases) {
        let mut document = self.document.lock().unwrap();
        *document = (leases, document.1 + 1);
        self.changed.send_replace(document.1);
    }

    fn reach(&self) -> Result<(), LeaseStoreError> {
        if self.away.load(Ordering::SeqCst) { Err(LeaseStoreError("no leader".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl LeaseStore for MemoryStore {
    async fn read(&self) -> Result<(Leases, u64), LeaseStoreError> {
        self.reach()?;
        tokio::task::yield_now().await; // lets others come between
        Ok(self.document.lock().unwrap().clone())
    }

    async fn compare_and_set(&self, leases: &Leases, index: u64) -> Result<(), CasError> {
        self.reach()?;
        let mut document = self.document.lock().unwrap();
        if document.1 != index {
            return Err(CasError::Conflict);
        }
        *document = (leases.clone(), index + 1);
        self.changed.send_replace(document.1);
        Ok(())
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// A switch and hosts on it: host N has 10.99.0.N, the switch itself 10.99.0.254.
pub(crate) struct World {
    pub(crate) switch: Arc<File>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        // Mounts of this test are nobody else's, and go with it.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let switch = new_namespace();
        run(&switch, "ip link add lan type bridge");
        run(&switch, "ip addr add 10.99.0.254/24 dev lan");
        run(&switch, "ip link set lan up");
        Self { switch, store: MemoryStore::new(), dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn host(&self, number: u8) -> Host {
        let namespace = new_namespace();
        let there = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        run(&self.switch, &format!("ip link add port{number} type veth peer name wan netns {there}"));
        run(&self.switch, &format!("ip link set port{number} master lan up"));
        run(&namespace, "ip link set lo up");
        run(&namespace, &format!("ip addr add 10.99.0.{number}/24 dev wan"));
        run(&namespace, "ip link set wan up");
        run(&namespace, "ip route add default via 10.99.0.254");
        let mut config = Config::new(format!("host{number}").parse().unwrap(), Ipv4Addr::new(10, 99, 0, number));
        config.pins_dir = self.dir.path().join(format!("host{number}"));
        std::fs::create_dir(&config.pins_dir).unwrap();
        let inside = Arc::clone(&namespace);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_start(move || setns(&*inside, CloneFlags::CLONE_NEWNET).unwrap())
            .build()
            .unwrap();
        Host { namespace, runtime, config, store: Arc::clone(&self.store), network: None }
    }

    pub(crate) fn started(&self, number: u8) -> Host {
        let mut host = self.host(number);
        host.start(None);
        host
    }
}

pub(crate) struct Host {
    pub(crate) namespace: Arc<File>,
    runtime: Runtime,
    pub(crate) config: Config,
    store: Arc<MemoryStore>,
    network: Option<Arc<Network>>,
}

impl Host {
    /// Runs a future on a thread in the host's namespace.
    pub(crate) fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let limited = async { tokio::time::timeout(limit(), future).await.expect("done in time") };
        self.runtime.block_on(self.runtime.spawn(limited)).unwrap()
    }

    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(future));
    }

    pub(crate) fn start(&mut self, remembered: Option<flynn_network::Lease>) {
        let (config, store) = (self.config.clone(), Arc::clone(&self.store));
        let network = self.run(async move { Network::start(config, store, remembered).await }).unwrap();
        self.network = Some(Arc::new(network));
    }

    pub(crate) fn network(&self) -> Arc<Network> {
        Arc::clone(self.network.as_ref().unwrap())
    }

    /// The daemon ends and gives what it remembers.
    pub(crate) fn stop(&mut self) -> flynn_network::Lease {
        let network = self.network.take().unwrap();
        let lease = network.lease().borrow().clone().unwrap();
        self.run(async move { network.shutdown().await });
        lease
    }

    pub(crate) fn pin(&self, job: &JobId) -> PathBuf {
        self.config.pins_dir.join(job.as_str()).join("netns")
    }

    /// A container with an address and an interface.
    pub(crate) fn container(&self, name: &str) -> Container {
        let job = job(name);
        let (network, pin) = (self.network(), self.pin(&job));
        let (id, path) = (job.clone(), pin.clone());
        let attachment = self.run(async move {
            let ip = network.allocate(&id, None).unwrap();
            network.attach(&id, ip, &path).await.unwrap()
        });
        let namespace = Arc::new(File::open(&pin).unwrap());
        Container { job, attachment, namespace }
    }
}

pub(crate) fn job(name: &str) -> JobId {
    format!("host-{name}").parse().unwrap()
}

pub(crate) struct Container {
    pub(crate) job: JobId,
    pub(crate) attachment: Attachment,
    pub(crate) namespace: Arc<File>,
}

impl Container {
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.attachment.ip
    }

    pub(crate) fn echo(&self) -> Echo {
        Echo::start(&self.namespace, self.ip())
    }

    pub(crate) fn client(&self) -> UdpSocket {
        client(&self.namespace)
    }
}

pub(crate) fn client(namespace: &File) -> UdpSocket {
    let socket = inside(namespace, || UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(200) * flynn_patience::factor())).unwrap();
    socket
}

/// Answers each datagram with the sender's address and the datagram.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Echo {
    pub(crate) fn start(namespace: &File, ip: Ipv4Addr) -> Self {
        let socket = inside(namespace, || UdpSocket::bind((ip, 0)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (address, stop) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while !stopped.load(Ordering::SeqCst) {
                if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    let mut answer = format!("{}|", from.ip()).into_bytes();
                    answer.extend(&buffer[..len.min(64)]);
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { address, stop }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Sends once and gives who the other side saw, or `None` if no answer came. Answers to other messages, which may come
/// late, do not count.
pub(crate) fn ask(client: &UdpSocket, to: SocketAddr, message: &[u8]) -> Option<Ipv4Addr> {
    client.send_to(message, to).ok()?;
    let mut buffer = [0; 2048];
    loop {
        let len = client.recv(&mut buffer).ok()?;
        let mut parts = buffer[..len].splitn(2, |byte| *byte == b'|');
        let (seen, echoed) = (parts.next()?, parts.next()?);
        if message.starts_with(echoed) {
            return std::str::from_utf8(seen).ok()?.parse().ok();
        }
    }
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + limit();
    while !done() {
        assert!(Instant::now() < end, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until the one reaches the other, and gives the address that the other saw.
pub(crate) fn reaches(from: &UdpSocket, to: SocketAddr) -> Ipv4Addr {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let mut seen = None;
    until(&format!("{to} answers"), || {
        let message = format!("hello {}.", ASKED.fetch_add(1, Ordering::Relaxed));
        seen = ask(from, to, message.as_bytes());
        seen.is_some()
    });
    seen.unwrap()
}

fn new_namespace() -> Arc<File> {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Arc::new(File::open("/proc/thread-self/ns/net").unwrap())
    })
    .join()
    .unwrap()
}

/// Runs a closure on a thread in a namespace.
pub(crate) fn inside<T: Send>(namespace: &File, job: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            job()
        });
        thread.join().unwrap()
    })
}

/// Runs a command in a namespace and gives its output.
pub(crate) fn run(namespace: &File, command: &str) -> String {
    let output = inside(namespace, || {
        let mut words = command.split(' ');
        Command::new(words.next().unwrap()).args(words).output().unwrap()
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Names of a host's interfaces.
pub(crate) fn interfaces(host: &Host) -> Vec<String> {
    let listing = run(&host.namespace, "ip -br link");
    listing.lines().filter_map(|line| line.split(['@', ' ']).next()).map(str::to_owned).collect()
}
