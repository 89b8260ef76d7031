//! Starting a container.

use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use flynn_types::id::JobId;
use flynn_types::init::{InitState, MonitorConfig, files};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tracing::debug;

use crate::bundle::{self, Outcome, SupervisorConfig};
use crate::cgroup::CgroupError;
use crate::client::Container;
use crate::destroy::remove_files;
use crate::oci::{self, InvalidSpec};
use crate::profile::{self, ProfileError};
use crate::runtime::Runtime;
use crate::spec::ContainerSpec;

/// Longest time that a supervisor may take. An idle machine needs some milliseconds; a node that starts all its jobs
/// after a power cut is not idle.
const SUPERVISOR_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for the init process to say that it is there.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of a supervisor's last words.
const MAX_OUTCOME_LEN: u64 = 64 * 1024;

/// Why a container was not started. The text is shown to the job's owner. Nothing of the container is left.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    InvalidSpec(#[from] InvalidSpec),
    #[error("the job's root file system {path} cannot be used")]
    Root {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("mount {target}: the host has no {source_path}", target = target.display(), source_path = source_path.display())]
    MountSource {
        source_path: PathBuf,
        target: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error("prepare run directory {path}")]
    RunDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("prepare the container's cgroup")]
    Cgroup(#[from] CgroupError),
    #[error("start supervisor {command:?}")]
    Spawn {
        command: String,
        #[source]
        source: io::Error,
    },
    /// In the words of the supervisor.
    #[error("create the container: {0}")]
    Create(String),
    #[error("creating the container took longer than {} s, given up", SUPERVISOR_TIMEOUT.as_secs())]
    Timeout,
    /// The text that clients know for an init process that cannot be reached.
    #[error("failed to connect to container")]
    Connect(#[source] io::Error),
    /// In the words of init.
    #[error("{0}")]
    Init(String),
}

/// A supervisor process that is ready to build a container. Dropped instead of used, the process ends.
#[derive(Debug)]
pub struct Supervisor {
    runtime: Runtime,
    run_dir: PathBuf,
    process: Child,
    /// A byte lets it begin, the end makes it end.
    begin: ChildStdin,
}

impl Runtime {
    /// Builds the container and returns when its init process waits to be resumed. On error nothing of it is left but
    /// the run directory itself.
    pub async fn start(&self, spec: ContainerSpec) -> Result<Container, StartError> {
        self.supervisor(&spec.job_id, &spec.run_dir, &spec.partition).await?.start(spec).await
    }

    /// Starts the process that is to build the job's container, in a run directory that is made or emptied for it. It
    /// gets ready while its caller makes root file system and network; moving to its cgroup alone may take the kernel
    /// ten milliseconds.
    pub async fn supervisor(&self, job_id: &JobId, run_dir: &Path, partition: &str) -> Result<Supervisor, StartError> {
        if let Some(cgroup) = self.cgroup_of(run_dir)
            && self.inner.cgroups.exists(&cgroup)
        {
            debug!(%job_id, "removing an earlier container of the job");
            self.destroy(run_dir).await;
        }
        let config = SupervisorConfig {
            container_id: job_id.to_string(),
            init_binary: self.inner.config.init_binary.clone(),
            cgroup: self.inner.cgroups.container(partition, job_id.as_str()),
            monitor_cgroups: self.inner.cgroups.monitor_directories()?,
            ..SupervisorConfig::default()
        };
        let directory = run_dir.to_owned();
        let made = blocking(move || {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            remove_files(&directory);
            std::fs::create_dir(directory.join(bundle::SHARED))?;
            bundle::save(&directory, &config)?;
            bundle::open_log(&directory)
        });
        let in_run_dir = |source| StartError::RunDir { path: run_dir.to_owned(), source };
        self.spawn(run_dir, made.await?.map_err(in_run_dir)?)
    }

    fn spawn(&self, run_dir: &Path, log: File) -> Result<Supervisor, StartError> {
        let command = &self.inner.config.supervisor;
        let failed = |source| StartError::Spawn { command: command.join(" "), source };
        let [program, arguments @ ..] = command.as_slice() else { return Err(failed(io::ErrorKind::NotFound.into())) };
        // An empty environment: LISTEN_FDS of a socket-activated daemon would change which descriptors the container
        // inherits, and the rest is nobody's business.
        let mut process = Command::new(program)
            .args(arguments)
            .arg(run_dir)
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let begin = process.stdin.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Supervisor { runtime: self.clone(), run_dir: run_dir.to_owned(), process, begin })
    }

    /// Writes everything that supervisor, monitor and init read.
    fn describe(&self, spec: &ContainerSpec) -> Result<(), StartError> {
        let run_dir = spec.run_dir.as_path();
        let cgroups = &self.inner.cgroups;
        check_sources(spec)?;
        let in_run_dir = |source| StartError::RunDir { path: run_dir.to_owned(), source };
        let granted = profile::grant(&spec.profiles)?;
        // Recorded before anything else can fail: the loop device must be found again.
        let mut supervisor = bundle::load(run_dir).map_err(in_run_dir)?;
        (supervisor.host_network, supervisor.loop_device) = (spec.netns.is_none(), granted.loop_device);
        bundle::save(run_dir, &supervisor).map_err(in_run_dir)?;
        let rules = oci::device_rules(spec, &granted);
        supervisor.cgroup_writes = cgroups.limits(&supervisor.cgroup, &spec.limits, &rules);
        supervisor.device_program = cgroups.device_program(&supervisor.cgroup, rules);
        supervisor.oom_control = cgroups.oom_control(&supervisor.cgroup);
        supervisor.hard_limits = spec.init.rlimits.iter().map(|(name, _, hard)| (name.clone(), *hard)).collect();
        let host = oci::HostFacts {
            upper_dir: oci::upper_dir(&spec.rootfs),
            cgroup_mounts: cgroups.container_mounts(&supervisor.cgroup),
            capabilities: crate::sys::bounding_set(),
            mqueue: oci::has_file_system("mqueue"),
            apparmor: oci::apparmor_profile_loaded(),
            init_binary: self.inner.config.init_binary.clone(),
        };
        let config = oci::config(spec, &granted, &supervisor.cgroup, &host)?;
        supervisor.filter = oci::filter(spec, &granted, &host)?.map(|policy| policy.program());
        bundle::save(run_dir, &supervisor).map_err(in_run_dir)?;
        let monitor = MonitorConfig {
            job_id: spec.job_id.to_string(),
            tty: spec.init.tty,
            disable_log: spec.disable_log,
            oom_file: cgroups.oom_file(&supervisor.cgroup).map_or_else(String::new, |path| path.display().to_string()),
            cgroup_procs: cgroups
                .procs_files(&supervisor.cgroup)
                .iter()
                .map(|path| path.display().to_string())
                .collect(),
            spool_limit_bytes: spec.spool_limit_bytes,
        };
        write_json(&run_dir.join(bundle::OCI_CONFIG), &config).map_err(in_run_dir)?;
        write_json(&run_dir.join(bundle::INIT_CONFIG), &spec.init).map_err(in_run_dir)?;
        write_json(&run_dir.join(files::MONITOR_CONFIG), &monitor).map_err(in_run_dir)
    }
}

impl Supervisor {
    /// Builds the container and returns when its init process waits to be resumed. The specification names the run
    /// directory, job and partition of this supervisor. On error nothing of it is left but the run directory itself.
    pub async fn start(self, spec: ContainerSpec) -> Result<Container, StartError> {
        let (runtime, run_dir) = (self.runtime.clone(), self.run_dir.clone());
        let started = self.try_start(spec).await;
        if started.is_err() {
            runtime.destroy(&run_dir).await;
        }
        started
    }

    async fn try_start(self, spec: ContainerSpec) -> Result<Container, StartError> {
        let (runtime, run_dir) = (self.runtime.clone(), self.run_dir.clone());
        blocking(move || runtime.describe(&spec)).await??;
        match self.build().await? {
            Outcome::Started(_) => {}
            Outcome::Failed(reason) => return Err(StartError::Create(reason)),
        }
        let container = Container::connect(&run_dir).await.map_err(StartError::Connect)?;
        wait_for_init(&container).await?;
        Ok(container)
    }

    /// Lets the process build the container and become the monitor, or fail.
    async fn build(self) -> Result<Outcome, StartError> {
        let Self { runtime: _, run_dir, mut process, mut begin } = self;
        let _ = begin.write_all(b"\n").await; // one that ended meanwhile says why
        let mut said = Vec::new();
        let listening = async {
            match process.stdout.take() {
                Some(stdout) => stdout.take(MAX_OUTCOME_LEN).read_to_end(&mut said).await,
                None => Ok(0),
            }
        };
        match tokio::time::timeout(SUPERVISOR_TIMEOUT, listening).await {
            Ok(Ok(_)) => {}
            Ok(Err(err)) => return Err(StartError::Create(format!("listening to the supervisor: {err}"))),
            Err(_) => {
                let _ = process.start_kill();
                return Err(StartError::Timeout);
            }
        }
        // Dropped without waiting: tokio reaps the monitor when it ends, as long as this daemon is its parent.
        drop(process);
        serde_json::from_slice(&said).or_else(|_| Ok(Outcome::Failed(last_log_line(&run_dir))))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StartError> {
    tokio::task::spawn_blocking(work).await.map_err(|err| StartError::Create(err.to_string()))
}

/// What a supervisor that ended without an outcome wrote last.
fn last_log_line(run_dir: &Path) -> String {
    let log = std::fs::read_to_string(run_dir.join(bundle::SUPERVISOR_LOG)).unwrap_or_default();
    match log.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("the supervisor failed: {}", line.trim()),
        None => "the supervisor was killed, perhaps because the host has too little memory".into(),
    }
}

async fn wait_for_init(container: &Container) -> Result<(), StartError> {
    let mut states = container.state();
    let mut exit = container.exit();
    // A fresh connection's state is already the one that init reported, or `Initial` before it did: both are good, as
    // requests wait in the socket. Only a failure must be seen here.
    let failed = async {
        match exit.wait_for(Option::is_some).await {
            Ok(record) => match record.as_ref().map(|record| record.state.clone()) {
                Some(InitState::Failed { error }) => StartError::Init(error),
                other => StartError::Create(format!("the container ended at once: {other:?}")),
            },
            Err(_) => StartError::Connect(io::ErrorKind::ConnectionReset.into()),
        }
    };
    tokio::select! {
        biased;
        state = states.wait_for(|state| *state == InitState::Initial || *state == InitState::Running) => {
            state.map(drop).map_err(|_| StartError::Connect(io::ErrorKind::ConnectionReset.into()))
        }
        err = failed => Err(err),
        () = tokio::time::sleep(INIT_TIMEOUT) => Err(StartError::Connect(io::ErrorKind::TimedOut.into())),
    }
}

fn check_sources(spec: &ContainerSpec) -> Result<(), StartError> {
    let root = std::fs::metadata(&spec.rootfs)
        .and_then(|found| if found.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) });
    root.map_err(|source| StartError::Root { path: spec.rootfs.clone(), source })?;
    let binds = spec.mounts.iter().filter(|mount| mount.device.is_empty());
    let binds = binds.map(|mount| (Path::new(&mount.target), Path::new(&mount.location)));
    let volumes = spec.volumes.iter().map(|volume| (volume.source.as_path(), volume.target.as_path()));
    for (source_path, target) in binds.chain(volumes) {
        std::fs::metadata(source_path).map_err(|source| StartError::MountSource {
            source_path: source_path.to_owned(),
            target: target.to_owned(),
            source,
        })?;
    }
    Ok(())
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> io::Result<()> {
    bundle::write_private(path, &serde_json::to_vec(value)?)
}
