//! A discoverd, and peers as they come, go and are killed.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flynn_discoverd::{Config, Discoverd};
use flynn_discoverd_client::Client;
use flynn_postgres::{Account, PeerConfig, RunError, Settings, run};
use flynn_types::discoverd::Instance;
use flynn_types::sirenia::Status;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection as _, PgConnection};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const SERVICE: &str = "postgres";
/// With what a careless quotation would break on.
pub(crate) const PASSWORD: &str = r"pass'word\ x";
const LOOK: Duration = Duration::from_millis(50);

pub(crate) fn limit() -> Duration {
    flynn_patience::seconds(60)
}

pub(crate) struct Cluster {
    pub(crate) client: Client,
    volumes: tempfile::TempDir,
    _discoverd: Discoverd,
    _store: tempfile::TempDir,
}

/// A mounted volume.
pub(crate) struct SmallVolume(PathBuf);

impl SmallVolume {
    /// Leaves so much space free, until the file is removed.
    pub(crate) fn fill(&self, left_mb: u64) -> PathBuf {
        let space = nix::sys::statvfs::statvfs(&self.0).unwrap();
        let free = space.blocks_available() * space.fragment_size();
        let file = self.0.join("filler");
        std::fs::write(&file, vec![1; usize::try_from(free - (left_mb << 20)).unwrap()]).unwrap();
        file
    }
}

impl Drop for SmallVolume {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// A peer that was started.
pub(crate) struct Node {
    pub(crate) instance: Instance,
    pub(crate) volume: PathBuf,
    stop: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

/// An address that no other test of this moment uses; `last` from 1.
pub(crate) fn address(last: u8) -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 16 + high % 128, low, last)
}

impl Cluster {
    pub(crate) async fn new() -> Self {
        let store = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind((address(250), 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let config = Config { register: false, ..Config::new("h1", addr, store.path().join("raft.redb"), vec![]) };
        let discoverd = Discoverd::start(config, vec![listener]).await.unwrap();
        let client = Client::from_list(&addr.to_string()).unwrap();
        let volumes = tempfile::tempdir().unwrap();
        open_to_all(volumes.path());
        Self { client, volumes, _discoverd: discoverd, _store: store }
    }

    /// A volume of limited size, until the guard is dropped.
    pub(crate) fn small_volume(&self, number: u8, size_mb: u32) -> SmallVolume {
        let folder = self.volume(number);
        std::fs::create_dir(&folder).unwrap();
        let options = format!("size={size_mb}m,mode=0755");
        nix::mount::mount(Some("tmpfs"), &folder, Some("tmpfs"), nix::mount::MsFlags::empty(), Some(options.as_str()))
            .expect("mount a file system, as root");
        SmallVolume(folder)
    }

    pub(crate) fn volume(&self, number: u8) -> PathBuf {
        self.volumes.path().join(number.to_string())
    }

    /// Starts the peer of a volume at an address.
    pub(crate) async fn start(&self, number: u8, last: u8, singleton: bool) -> Node {
        let ip = IpAddr::V4(address(last));
        let volume = self.volume(number);
        let settings = Settings {
            volume: volume.clone(),
            listen: ip,
            port: 5432,
            password: PASSWORD.to_owned(),
            account: Account::of_server().unwrap(),
        };
        let instance = Instance::new("tcp", &format!("{ip}:5432"), Default::default());
        let config = PeerConfig {
            settings,
            service: SERVICE.to_owned(),
            singleton,
            discovery: self.client.clone(),
            instance: instance.clone(),
            version: "v20261125.0".to_owned(),
        };
        let listener = TcpListener::bind((ip, 5433)).await.unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(config, listener, stop.clone()));
        Node { instance, volume, stop, task }
    }
}

/// How the platform's user connects.
pub(crate) fn user(host: &str, port: u16) -> PgConnectOptions {
    let options = PgConnectOptions::new_without_pgpass().host(host).port(port).ssl_mode(PgSslMode::Disable);
    options.username("flynn").password(PASSWORD).database("postgres")
}

/// The server's user has to get to its volume.
pub(crate) fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

impl Node {
    pub(crate) async fn status(&self) -> Option<Status> {
        flynn_sirenia_client::Client::of(&self.instance).unwrap().status().await.ok()
    }

    /// Waits until the status is as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let mut last = None;
        let waiting = async {
            loop {
                last = self.status().await;
                if let Some(status) = last.as_ref().filter(|status| wanted(status)) {
                    return status.clone();
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(limit(), waiting).await {
            Ok(status) => status,
            Err(_) => panic!("waited in vain until {what}; the last status was {last:#?}"),
        }
    }

    pub(crate) async fn until_writable(&self) -> Status {
        self.until("the peer takes writes", |status| status.database.as_ref().is_some_and(|info| info.read_write)).await
    }

    /// As the platform's user.
    pub(crate) fn options(&self) -> PgConnectOptions {
        let (host, port) = self.instance.host_port().unwrap();
        user(host, port)
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect_with(&self.options()).await.unwrap()
    }

    /// Ends it as a stopped job does.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(limit(), self.task).await.expect("it ends").unwrap().unwrap();
    }

    /// The server's process.
    pub(crate) fn pid(&self) -> Pid {
        let text = std::fs::read_to_string(self.volume.join("db/postmaster.pid")).unwrap();
        Pid::from_raw(text.lines().next().unwrap().trim().parse().unwrap())
    }

    pub(crate) fn kill_server(&self) {
        kill(self.pid(), Signal::SIGKILL).unwrap();
    }

    /// Waits for an end that nobody asked for.
    pub(crate) async fn failed(self) -> RunError {
        tokio::time::timeout(limit(), self.task).await.expect("it ends").unwrap().unwrap_err()
    }

    /// Ends peer and server as a power cut does.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let pid = self.pid();
        let _ = self.task.await;
        kill(pid, Signal::SIGKILL).unwrap();
    }
}
