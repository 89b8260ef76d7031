//! A host on a socket and in a folder of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use flynn_container::{Runtime, RuntimeConfig};
use flynn_host::{Database, Host, HostConfig, Layers, Parts};
use flynn_http::ServerOptions;
use flynn_logmux::{LogMux, MuxConfig};
use flynn_types::host::{ActiveJob, Job, JobEvent, JobEventKind, Mountspec};
use flynn_volume::{LayerSource, ProviderChoice, VolumeConfig, VolumeManager};
use futures_util::{Stream, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Longest that anything may take.
pub(crate) fn patience() -> Duration {
    flynn_patience::seconds(30)
}

/// A folder that takes all its mounts with it, also when the test fails.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("flynn-host-").tempdir().unwrap();
        Self(dir.keep().canonicalize().unwrap())
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file system of its own, of this size.
    pub(crate) fn tmpfs(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir_all(&path).unwrap();
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &path, "tmpfs", flags, options.as_c_str()).unwrap();
        path
    }

    /// Mount points below this folder.
    pub(crate) fn mounts(&self) -> Vec<PathBuf> {
        let info = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = info.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        points.filter(|point| point.starts_with(&self.0)).collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        for point in self.mounts().iter().rev() {
            let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) struct Options {
    pub(crate) id: &'static str,
    pub(crate) auth_key: Option<String>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) max_job_concurrency: usize,
    pub(crate) restrict_privileges: bool,
    pub(crate) layers: Option<Arc<dyn LayerSource>>,
    pub(crate) resurrect: bool,
    pub(crate) state: Option<PathBuf>,
    pub(crate) runtime: Option<RuntimeConfig>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            id: "host1",
            auth_key: None,
            tags: BTreeMap::new(),
            max_job_concurrency: 4,
            restrict_privileges: false,
            layers: None,
            resurrect: true,
            state: None,
            runtime: None,
        }
    }
}

pub(crate) struct TestHost {
    pub(crate) host: Arc<Host>,
    pub(crate) address: SocketAddr,
    pub(crate) client: flynn_host_client::Client,
    pub(crate) volumes: VolumeManager,
    /// Kept open: neither network nor discovery ever comes.
    _never: (watch::Sender<Option<Arc<flynn_network::Network>>>, watch::Sender<Option<String>>),
    database: Database,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
    /// What it made for jobs that it never had.
    _cgroups: Cgroups,
}

/// Cgroups that are removed with it, and with them what a failed test left running.
pub(crate) struct Cgroups(pub(crate) String);

impl Cgroups {
    /// Of a name that no other test has.
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        Self(format!("flynn-host-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for root in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
            remove_cgroup(&root.join(&self.0));
        }
    }
}

fn remove_cgroup(path: &Path) {
    for child in std::fs::read_dir(path).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroup(&child.path());
    }
    let processes = || std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    while !processes().is_empty() {
        let ids = processes();
        for pid in ids.lines().filter_map(|id| rustix::process::Pid::from_raw(id.parse().ok()?)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        std::thread::yield_now();
    }
    let _ = std::fs::remove_dir(path);
}

impl TestHost {
    pub(crate) async fn start(dir: &Dir) -> Self {
        Self::start_with(dir, Options::default()).await
    }

    pub(crate) async fn start_with(dir: &Dir, options: Options) -> Self {
        let id: flynn_types::id::HostId = options.id.parse().unwrap();
        let state = options.state.unwrap_or_else(|| dir.join("state.redb"));
        let database = Database::open(&state).unwrap();
        let mut volumes = VolumeConfig::new(dir.join("volumes"), id.clone());
        (volumes.provider, volumes.min_free_bytes) = (ProviderChoice::Dir, 0);
        let volumes = VolumeManager::open(volumes, Arc::new(database.clone())).await.unwrap();
        let logs = LogMux::open(MuxConfig::new(dir.join("log"), dir.join("log-state"), id.clone())).await.unwrap();
        // Without containers nothing runs: whoever starts one is told so.
        let cgroups = Cgroups::new();
        let runtime = options.runtime.unwrap_or_else(|| RuntimeConfig {
            supervisor: vec!["/nonexistent/supervisor".into()],
            cgroup_root: cgroups.0.clone(),
            ..RuntimeConfig::new("/bin/true")
        });
        let (network, discoverd) = (watch::Sender::new(None), watch::Sender::new(None));
        let discovery = flynn_discoverd_client::Client::from_list("http://127.0.0.1:9").unwrap();
        let parts = Parts {
            database: database.clone(),
            runtime: Runtime::new(runtime).unwrap(),
            volumes: volumes.clone(),
            layers: options.layers.unwrap_or_else(|| Arc::new(Layers::new(discovery))),
            logs,
            network: network.subscribe(),
            discoverd: discoverd.subscribe(),
        };
        let config = HostConfig {
            id,
            external_ip: [127, 0, 0, 1].into(),
            listen_ip: String::new(),
            http_port: 1113,
            version: "dev".into(),
            flags: vec!["--test".into()],
            tags: options.tags,
            run_root: dir.join("run"),
            resolv_conf: dir.join("resolv.conf"),
            bin_overrides: dir.join("bin-overrides"),
            partitions: ["system", "background", "user"].map(str::to_owned).into(),
            max_job_concurrency: options.max_job_concurrency,
            init_log_level: "info".into(),
            auth_key: options.auth_key.clone(),
            restrict_privileges: options.restrict_privileges,
            cgroup_version: 2,
        };
        std::fs::write(dir.join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
        let host = Host::open(config, parts).unwrap();
        host.restore(options.resurrect).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(flynn_http::serve(listener, host.router(), stop.clone(), ServerOptions::default()));
        let client = flynn_host_client::Client::new(&format!("http://{address}"), options.auth_key.as_deref()).unwrap();
        Self {
            host,
            address,
            client,
            volumes,
            _never: (network, discoverd),
            database,
            stop,
            serving,
            _cgroups: cgroups,
        }
    }

    /// Ends this daemon; its jobs go on.
    pub(crate) async fn leave(self) {
        self.stop.cancel();
        self.serving.await.unwrap().unwrap();
        self.host.leave().await;
        self.volumes.close().await;
        self.database.close();
    }

    pub(crate) async fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let (mut read, mut write) = stream.split();
        let send = async {
            let _ = write.write_all(request.as_bytes()).await; // the server may answer and close before it has all
            let _ = write.write_all(body).await;
        };
        let mut answer = Vec::new();
        let receive = async {
            let _ = read.read_to_end(&mut answer).await; // reset, when it did not want the rest
        };
        tokio::time::timeout(patience(), async { tokio::join!(send, receive) }).await.unwrap();
        Reply::parse(&answer)
    }

    pub(crate) async fn json(&self, method: &str, path: &str, body: &Value) -> Reply {
        let headers = [("content-type", "application/json")];
        self.raw(method, path, &headers, body.to_string().as_bytes()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.raw("GET", path, &[], b"").await
    }

    /// Waits until a job satisfies a condition.
    pub(crate) async fn job_when(&self, id: &str, condition: impl Fn(&ActiveJob) -> bool) -> ActiveJob {
        let events = self.client.events(Some(id)).await.unwrap();
        let mut events = std::pin::pin!(events);
        let wait = async {
            loop {
                let job = self.client.job(id).await.unwrap();
                if condition(&job) {
                    return job;
                }
                // An event or, for changes that give none, a short while.
                let _ = tokio::time::timeout(Duration::from_millis(50), events.next()).await;
            }
        };
        match tokio::time::timeout(patience(), wait).await {
            Ok(job) => job,
            Err(_) => panic!("still {:?}", self.client.job(id).await),
        }
    }

    pub(crate) async fn ended(&self, id: &str) -> ActiveJob {
        self.job_when(id, |job| !job.status.is_active()).await
    }
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    fn parse(answer: &[u8]) -> Self {
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: answer[end + 4..].to_vec() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|err| panic!("{err}: {self:?}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Status, code and message of an error.
    pub(crate) fn error(&self) -> (u16, String, String) {
        let json = self.json();
        let text = |key: &str| json[key].as_str().unwrap_or_else(|| panic!("no {key} in {json}")).to_owned();
        assert!(json["retry"].is_boolean(), "{json}");
        (self.status, text("code"), text("message"))
    }
}

/// A job that needs neither network nor discovery.
pub(crate) fn job(id: &str) -> Job {
    let mut job = waiting_job(id);
    job.config.host_network = true;
    job.config.env.insert("DISCOVERD".into(), "none".into());
    job
}

/// A job that waits for the network, which these hosts do not have.
pub(crate) fn waiting_job(id: &str) -> Job {
    let mut job = Job { id: id.into(), mountspecs: vec![missing_layer("nowhere")], ..Job::default() };
    job.config.args = vec!["/bin/sh".into()];
    job
}

pub(crate) fn missing_layer(name: &str) -> Mountspec {
    Mountspec {
        kind: "squashfs".into(),
        id: name.into(),
        url: format!("file:///nonexistent/{name}"),
        size: 4096,
        hashes: [("sha256".to_owned(), "00".to_owned())].into(),
        ..Mountspec::default()
    }
}

/// Packs files into a layer; gives its bytes.
pub(crate) fn squashfs(dir: &Dir, files: &[(&str, &[u8])]) -> Vec<u8> {
    let work = tempfile::tempdir_in(dir.join("")).unwrap();
    let root = work.path().join("root");
    std::fs::create_dir(&root).unwrap();
    for (path, content) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    pack(&root, &work.path().join("out"))
}

pub(crate) fn pack(root: &Path, out: &Path) -> Vec<u8> {
    let options = ["-no-progress", "-quiet", "-noappend", "-processors", "1", "-nopad", "-noI", "-noD", "-noF", "-noX"];
    let output = std::process::Command::new("mksquashfs").args([root, out]).args(options).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(out).unwrap()
}

/// How hosts are told of these bytes.
pub(crate) fn spec(bytes: &[u8], url: &str) -> Mountspec {
    use sha2::Digest as _;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let id = hex(&sha2::Sha512_256::digest(bytes));
    Mountspec {
        kind: "squashfs".into(),
        url: url.to_owned(),
        size: i64::try_from(bytes.len()).unwrap(),
        hashes: [("sha512_256".to_owned(), id.clone())].into(),
        id,
        meta: BTreeMap::new(),
    }
}

/// The next events, by kind.
pub(crate) async fn kinds(
    events: &mut (impl Stream<Item = Result<JobEvent, flynn_http::ClientError>> + Unpin),
    count: usize,
) -> Vec<JobEventKind> {
    let mut kinds = Vec::new();
    while kinds.len() < count {
        let event = tokio::time::timeout(patience(), events.next()).await.unwrap_or_else(|_| panic!("only {kinds:?}"));
        kinds.push(event.unwrap().unwrap().event);
    }
    kinds
}
