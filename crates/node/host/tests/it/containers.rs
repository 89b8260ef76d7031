//! Jobs in real containers. They need root, and `flynn-init` as `script/build-init` makes it.

use flynn_container::{Runtime, RuntimeConfig};
use flynn_types::host::attach::{self, Frame};
use flynn_types::host::{AttachRequest, Job, JobEventKind, JobStatus, Mountspec};

use crate::support::{Cgroups, Dir, Options, TestHost, kinds, pack, patience, spec};

/// A root file system of busybox.
fn busybox(dir: &Dir) -> Mountspec {
    let root = dir.join("busybox");
    for folder in ["bin", "etc", "dev", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::copy("/usr/bin/busybox", root.join("bin/busybox")).unwrap();
    for tool in ["sh", "cat", "sleep", "echo", "kill", "true"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(tool)).unwrap();
    }
    let file = dir.join("busybox.squashfs");
    let bytes = pack(&root, &file);
    spec(&bytes, &format!("file://{}", file.display()))
}

struct World {
    dir: Dir,
    cgroups: Cgroups,
    layer: Mountspec,
}

impl World {
    fn new() -> Self {
        let dir = Dir::new();
        let layer = busybox(&dir);
        Self { dir, cgroups: Cgroups::new(), layer }
    }

    async fn host(&self) -> TestHost {
        // This test is in `<target>/<profile>/deps`.
        let test = std::env::current_exe().unwrap();
        let (profile, target) = (test.ancestors().nth(2).unwrap(), test.ancestors().nth(3).unwrap());
        let init = target.join("x86_64-unknown-linux-gnu/tiny/flynn-init");
        assert!(init.exists(), "run script/build-init first");
        let runtime = RuntimeConfig {
            supervisor: vec![profile.join("examples/supervise_jobs").to_str().unwrap().to_owned()],
            cgroup_root: self.cgroups.0.clone(),
            ..RuntimeConfig::new(init)
        };
        let partitions = ["system", "background", "user"].map(|name| (name.to_owned(), 1024));
        Runtime::new(runtime.clone()).unwrap().ensure_partitions(&partitions).unwrap();
        TestHost::start_with(&self.dir, Options { runtime: Some(runtime), ..Options::default() }).await
    }

    fn job(&self, id: &str, script: &str) -> Job {
        let mut job = crate::support::job(id);
        job.mountspecs = vec![self.layer.clone()];
        job.config.args = ["/bin/sh", "-c", script].map(str::to_owned).into();
        job
    }

    /// All that a host may leave behind when its jobs have ended and been cleaned up.
    fn expect_nothing_left(&self) {
        let run = self.dir.join("run");
        let left: Vec<_> = self.dir.mounts().into_iter().filter(|point| point.starts_with(&run)).collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(std::fs::read_dir(run.join("container")).unwrap().count(), 0);
    }
}

async fn output(host: &TestHost, id: &str, flags: u8) -> (String, Option<Frame>) {
    let request = AttachRequest { job_id: id.into(), flags, ..AttachRequest::default() };
    let (_sender, mut receiver) = host.client.attach(&request).await.unwrap();
    let (mut text, mut last) = (String::new(), None);
    while let Some(frame) = receiver.next().await.unwrap() {
        match frame {
            Frame::Data { payload, .. } => text.push_str(&String::from_utf8_lossy(&payload)),
            frame => last = Some(frame),
        }
    }
    (text, last)
}

#[tokio::test]
async fn a_job_runs_and_who_attached_before_misses_nothing() {
    let world = World::new();
    let host = world.host().await;
    let mut events = host.client.events(None).await.unwrap();
    let all = attach::FLAG_STDOUT | attach::FLAG_STDERR | attach::FLAG_STREAM;
    let attached = output(&host, "host1-1", all);
    let run = async {
        host.client.add_job(&world.job("host1-1", "echo first; echo $HOSTNAME >&2; exit 7")).await.unwrap();
        kinds(&mut events, 4).await
    };
    let ((mut text, last), kinds) =
        tokio::time::timeout(patience(), async { tokio::join!(attached, run) }).await.unwrap();
    use JobEventKind::{Cleanup, Create, Start, Stop};
    assert_eq!(kinds, [Create, Start, Stop, Cleanup]);
    assert_eq!(last, Some(Frame::Exit(7)));
    text = text.lines().collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(text, "1 first");
    let ended = host.ended("host1-1").await;
    assert_eq!((ended.status, ended.exit_status, ended.pid), (JobStatus::Crashed, Some(7), None));
    world.expect_nothing_left();
    host.leave().await;
}

#[tokio::test]
async fn what_cannot_be_executed_fails_with_its_reason() {
    let world = World::new();
    let host = world.host().await;
    let mut events = host.client.events(None).await.unwrap();
    let mut job = world.job("host1-1", "");
    job.config.args = vec!["nope".into()];
    host.client.add_job(&job).await.unwrap();
    assert_eq!(kinds(&mut events, 3).await, [JobEventKind::Create, JobEventKind::Error, JobEventKind::Cleanup]);
    let error = host.ended("host1-1").await.error.unwrap();
    assert!(error.contains("nope") && error.contains("not found"), "{error}");
    world.expect_nothing_left();
    host.leave().await;
}

#[tokio::test]
async fn input_reaches_the_job_and_its_end_too() {
    let world = World::new();
    let host = world.host().await;
    let mut job = world.job("host1-1", "cat");
    job.config.stdin = true;
    job.config.disable_log = true;
    let flags = attach::FLAG_STDIN | attach::FLAG_STDOUT | attach::FLAG_STREAM;
    let request = AttachRequest { job_id: job.id.clone(), flags, ..AttachRequest::default() };
    let attach = host.client.attach(&request);
    let (attached, added) = tokio::join!(attach, host.client.add_job(&job));
    added.unwrap();
    let (mut sender, mut receiver) = attached.unwrap();
    let big = vec![0xfe; 200_000];
    let write = async {
        for payload in [big.clone(), Vec::new()] {
            sender.send(Frame::Data { stream: attach::STREAM_STDIN, payload }).await.unwrap();
        }
    };
    let read = async {
        let mut received = Vec::new();
        loop {
            match receiver.next().await.unwrap().unwrap() {
                Frame::Waiting | Frame::Success => {}
                Frame::Data { payload, .. } => received.extend(payload),
                frame => return (received, frame),
            }
        }
    };
    let (_, (received, last)) = tokio::time::timeout(patience(), async { tokio::join!(write, read) }).await.unwrap();
    assert!(received == big, "{} bytes", received.len());
    assert_eq!(last, Frame::Exit(0));
    host.job_when("host1-1", |_| !world.dir.join("run/container/host1-1").exists()).await;
    world.expect_nothing_left();
    host.leave().await;
}

#[tokio::test]
async fn signals_reach_the_job_and_a_stop_ends_it_without_a_crash() {
    let world = World::new();
    let host = world.host().await;
    host.client.add_job(&world.job("host1-1", "trap 'exit 5' USR1; while true; do sleep 0.05; done")).await.unwrap();
    host.client.add_job(&world.job("host1-2", "exec sleep 1000")).await.unwrap();
    let mut stubborn = world.job("host1-3", "trap '' TERM; while true; do sleep 0.05; done");
    stubborn.config.stop_timeout = Some(std::time::Duration::from_secs(1));
    host.client.add_job(&stubborn).await.unwrap();
    for id in ["host1-1", "host1-2", "host1-3"] {
        host.job_when(id, |job| job.status == JobStatus::Running).await;
    }
    // Until the shell has set its trap the signal would kill it with another status.
    host.job_when("host1-1", |job| has_trap(job.pid.unwrap(), 10)).await;
    host.job_when("host1-3", |job| ignores(job.pid.unwrap(), 15)).await;
    host.client.signal_job("host1-1", 10).await.unwrap();
    assert_eq!(host.ended("host1-1").await.exit_status, Some(5));
    host.client.stop_job("host1-2").await.unwrap();
    let stopped = host.ended("host1-2").await;
    assert_eq!((stopped.status, stopped.exit_status), (JobStatus::Done, Some(0)));
    host.client.stop_job("host1-3").await.unwrap();
    assert_eq!(host.ended("host1-3").await.status, JobStatus::Done);
    for id in ["host1-1", "host1-2", "host1-3"] {
        host.job_when(id, |_| !world.dir.join("run/container").join(id).exists()).await;
    }
    world.expect_nothing_left();
    host.leave().await;
}

/// Children of a container's init.
fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn mask(pid: i32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap_or(0)
}

fn has_trap(init: i32, signal: u32) -> bool {
    children(init).iter().any(|pid| mask(*pid, "SigCgt") & (1 << (signal - 1)) != 0)
}

fn ignores(init: i32, signal: u32) -> bool {
    children(init).iter().any(|pid| mask(*pid, "SigIgn") & (1 << (signal - 1)) != 0)
}

#[tokio::test]
async fn a_job_outlives_its_daemon_with_process_output_and_exit() {
    let world = World::new();
    let host = world.host().await;
    let script = "trap 'echo last; exit 3' USR1; echo first; while true; do sleep 0.05; done";
    host.client.add_job(&world.job("host1-1", script)).await.unwrap();
    let before = host.job_when("host1-1", |job| job.status == JobStatus::Running).await;
    host.job_when("host1-1", |job| has_trap(job.pid.unwrap(), 10)).await;
    host.client.add_job(&world.job("host1-2", "trap 'exit 9' USR1; while true; do sleep 0.05; done")).await.unwrap();
    let second = host.job_when("host1-2", |job| job.pid.is_some_and(|pid| has_trap(pid, 10))).await;
    host.leave().await;
    // This one ends while no daemon is there.
    let shell = rustix::process::Pid::from_raw(children(second.pid.unwrap())[0]).unwrap();
    rustix::process::kill_process(shell, rustix::process::Signal::USR1).unwrap();

    let host = world.host().await;
    let after = host.client.job("host1-1").await.unwrap();
    assert_eq!((after.status, after.pid), (JobStatus::Running, before.pid));
    assert_eq!(host.ended("host1-2").await.exit_status, Some(9));
    host.client.signal_job("host1-1", 10).await.unwrap();
    assert_eq!(host.ended("host1-1").await.exit_status, Some(3));
    let (text, _) = output(&host, "host1-1", attach::FLAG_STDOUT | attach::FLAG_LOGS).await;
    assert_eq!(text, "first\nlast\n", "once, in order");
    for id in ["host1-1", "host1-2"] {
        host.job_when(id, |_| !world.dir.join("run/container").join(id).exists()).await;
    }
    world.expect_nothing_left();
    host.leave().await;
}
