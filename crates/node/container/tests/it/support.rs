//! A place for the containers of one test, which checks at its end that nothing is left of them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use flynn_container::{Container, ContainerSpec, Limits, Reconnect, Runtime, RuntimeConfig};
use flynn_types::init::{ExitRecord, InitConfig, InitState, files, spool};

/// Longest wait for anything: much longer than it should take on a busy machine.
pub(crate) fn patience() -> Duration {
    flynn_patience::seconds(30)
}

/// Directory, cgroup and runtime of one test.
pub(crate) struct Sandbox {
    dir: Option<tempfile::TempDir>,
    cgroup_root: String,
    pub(crate) runtime: Runtime,
}

/// Where the programs are that cargo built, and `script/build-init`: this test is in `<target>/<profile>/deps`.
fn target() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).expect("a target folder").to_owned()
}

fn program(candidates: &[PathBuf], advice: &str) -> PathBuf {
    candidates.iter().find(|path| path.is_file()).unwrap_or_else(|| panic!("none of {candidates:?}: {advice}")).clone()
}

pub(crate) fn runtime(cgroup_root: &str) -> Runtime {
    let profile = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
    let supervisor = program(&[profile.join("examples/supervise")], "cargo build -p flynn-container --examples");
    let init = match std::env::var_os("FLYNN_INIT") {
        Some(init) => init.into(),
        None => {
            let static_builds = target().join("x86_64-unknown-linux-gnu");
            let builds = ["tiny", "release", "debug"].map(|profile| static_builds.join(profile).join("flynn-init"));
            program(&builds, "run script/build-init")
        }
    };
    let config = RuntimeConfig {
        supervisor: vec![supervisor.display().to_string()],
        cgroup_root: cgroup_root.into(),
        ..RuntimeConfig::new(init)
    };
    let runtime = Runtime::new(config).unwrap();
    runtime.ensure_partitions(&[("user".into(), 1024)]).unwrap();
    runtime
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(rustix::process::geteuid().is_root(), "containers need root");
        let cgroup_root = format!("flynn-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix("flynn-container-").tempdir().unwrap();
        Self { dir: Some(dir), runtime: runtime(&cgroup_root), cgroup_root }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    pub(crate) fn cgroup_root(&self) -> &str {
        &self.cgroup_root
    }

    /// A job that runs a shell script in a root with nothing but busybox.
    pub(crate) fn shell(&self, script: &str) -> ContainerSpec {
        self.spec(busybox_root(self.path()), &["sh", "-c", script])
    }

    pub(crate) fn spec(&self, rootfs: PathBuf, args: &[&str]) -> ContainerSpec {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        spec(&id, &self.path().join(&id), rootfs, args)
    }

    /// Starts a container and lets its job run.
    pub(crate) async fn run(&self, spec: ContainerSpec) -> Job {
        let job = self.create(spec).await;
        job.container.resume().await.unwrap();
        job
    }

    /// Starts a container whose job waits.
    pub(crate) async fn create(&self, spec: ContainerSpec) -> Job {
        Job { container: self.runtime.start(spec).await.unwrap() }
    }

    /// Finds a container again.
    pub(crate) async fn reconnect(&self, run_dir: &Path) -> Reconnect {
        self.runtime.reconnect(run_dir).await
    }

    fn run_dirs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path()).unwrap().flatten();
        entries.map(|entry| entry.path()).filter(|path| !path.ends_with("root")).collect()
    }

    /// What is left on the machine of the containers of this test.
    fn left_behind(&self, path: &Path) -> Vec<String> {
        let name = path.display().to_string();
        let mut left = Vec::new();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(&name)).map(|line| format!("mount {line}")));
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let cgroup = hierarchy.path().join(&self.cgroup_root);
            if cgroup.exists() {
                left.push(format!("cgroup {}", cgroup.display()));
            }
        }
        left.extend(processes_of(&name).into_iter().map(|(pid, command)| format!("process {pid}: {command}")));
        left
    }
}

/// Processes with `name` in their command line.
fn processes_of(name: &str) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|pid| pid.parse().ok()) else { continue };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(name) {
            found.push((pid, command));
        }
    }
    found
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let (runtime, run_dirs) = (self.runtime.clone(), self.run_dirs());
        let cleaning = std::thread::spawn(move || {
            let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            executor.block_on(async {
                for run_dir in run_dirs {
                    runtime.destroy(&run_dir).await;
                }
            });
            runtime.remove_partitions()
        });
        let cleaned = cleaning.join().unwrap();
        let path = self.path().to_owned();
        let left = self.left_behind(&path);
        drop(self.dir.take());
        if !std::thread::panicking() {
            cleaned.unwrap();
            assert!(left.is_empty(), "left behind: {left:#?}");
            assert!(!path.exists(), "the test's folder is still there");
        }
    }
}

/// A specification without anything that a job can do without.
pub(crate) fn spec(id: &str, run_dir: &Path, rootfs: PathBuf, args: &[&str]) -> ContainerSpec {
    let env = [("PATH", "/bin"), ("HOME", "/"), ("TERM", "xterm"), ("HOSTNAME", "box")];
    let env: BTreeMap<String, String> = env.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let init = InitConfig {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env,
        hostname: "box".into(),
        host_network: true,
        ..InitConfig::default()
    };
    ContainerSpec {
        job_id: id.parse().unwrap(),
        run_dir: run_dir.to_owned(),
        rootfs,
        hostname: "box".into(),
        netns: None,
        host_pid: false,
        partition: "user".into(),
        limits: Limits { memory_bytes: 256 << 20, cpu_shares: None },
        mounts: Vec::new(),
        volumes: Vec::new(),
        resolv_conf: None,
        capabilities: None,
        allowed_devices: None,
        created_devices: None,
        writeable_cgroups: false,
        system: false,
        builder: false,
        profiles: Vec::new(),
        init,
        disable_log: false,
        spool_limit_bytes: 64 << 20,
    }
}

/// A root with `/bin/busybox` and its applets, made once per sandbox.
pub(crate) fn busybox_root(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    let bin = root.join("bin");
    if !bin.exists() {
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(root.join("tmp")).unwrap();
        std::fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
        let list = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap();
        for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|applet| *applet != "busybox") {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
    }
    root
}

/// A started container.
pub(crate) struct Job {
    pub(crate) container: Container,
}

/// How a job ended, with what it wrote.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) record: ExitRecord,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) init_log: String,
}

impl Ended {
    pub(crate) fn status(&self) -> i32 {
        match &self.record.state {
            InitState::Exited { status } => *status,
            state => panic!("the job did not exit: {state:?}; {self:?}"),
        }
    }
}

impl Job {
    pub(crate) fn run_dir(&self) -> &Path {
        self.container.run_dir()
    }

    /// Waits for the end, and lets the monitor go.
    pub(crate) async fn ended(&self) -> Ended {
        let mut exit = self.container.exit();
        let record = within("the exit", exit.wait_for(Option::is_some)).await.expect("a record").clone().unwrap();
        let ended = ended(self.run_dir(), record);
        let on_disk: ExitRecord =
            serde_json::from_slice(&std::fs::read(self.run_dir().join(files::EXIT)).unwrap()).unwrap();
        assert_eq!(on_disk, ended.record);
        self.container.release().await;
        ended
    }

    /// Waits until the job has written `text` to its stdout.
    pub(crate) async fn wrote(&self, text: &str) {
        let run_dir = self.run_dir();
        eventually(&format!("output {text:?}"), || {
            let output = output(run_dir, spool::STDOUT);
            if output.contains(text) { Ok(()) } else { Err(output) }
        })
        .await;
    }
}

pub(crate) fn ended(run_dir: &Path, record: ExitRecord) -> Ended {
    assert!(record.spool.closed, "{record:?}");
    Ended {
        record,
        stdout: output(run_dir, spool::STDOUT),
        stderr: output(run_dir, spool::STDERR),
        init_log: output(run_dir, spool::INIT),
    }
}

/// All payloads of one stream that are in the spool, in order.
pub(crate) fn output(run_dir: &Path, stream: u8) -> String {
    let mut segments: Vec<(u64, PathBuf)> = std::fs::read_dir(run_dir.join(files::SPOOL))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((spool::segment_offset(entry.file_name().to_str()?)?, entry.path())))
        .collect();
    segments.sort();
    let mut text = Vec::new();
    for (_, path) in segments {
        let bytes = std::fs::read(path).unwrap_or_default();
        let mut rest = bytes.as_slice();
        while let Some((header, after)) = rest.split_first_chunk::<{ spool::HEADER_LEN }>() {
            let (kind, len, _) = spool::parse_header(header).expect("a header");
            // The last record may still be in the writing.
            let Some((payload, after)) = after.split_at_checked(len) else { break };
            if kind == stream {
                text.extend_from_slice(payload);
            }
            rest = after;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Waits for a future for as long as anything may take.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(patience(), future).await.unwrap_or_else(|_| panic!("{what} did not come"))
}

/// Waits until `check` succeeds; its last complaint is in the message otherwise.
pub(crate) async fn eventually<T, E: Debug>(what: &str, mut check: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + patience();
    loop {
        match check() {
            Ok(value) => return value,
            Err(last) if Instant::now() > deadline => panic!("{what} did not come: {last:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Waits until the process is gone.
pub(crate) async fn gone(pid: i32) {
    eventually(&format!("the end of process {pid}"), || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let alive = stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"));
        if alive { Err(stat) } else { Ok(()) }
    })
    .await;
}

/// A network namespace of its own, pinned at a path as the daemon does it.
pub(crate) struct Netns(PathBuf);

impl Netns {
    pub(crate) fn new(path: &Path) -> Self {
        std::fs::write(path, "").unwrap();
        let target = path.to_owned();
        let pinning = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            rustix::mount::mount_bind("/proc/thread-self/ns/net", &target).unwrap();
        });
        pinning.join().unwrap();
        Self(path.to_owned())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        let _ = std::fs::remove_file(&self.0);
    }
}
