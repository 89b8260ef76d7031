//! Containers outlive the daemon that started them.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use flynn_container::Reconnect;
use flynn_types::init::{InitState, files};

use crate::support::{self, Job, Sandbox, eventually, gone, spec, within};

/// What a process needs to know to be the daemon of a test.
const DAEMON_VARIABLE: &str = "FLYNN_TEST_DAEMON";

/// Not a test: this program again, as the daemon that starts a container. It writes `started` and waits to be killed.
#[test]
fn daemon_process() {
    let Ok(order) = std::env::var(DAEMON_VARIABLE) else { return };
    let [cgroup_root, id, run_dir, root, script] = order.splitn(5, '\n').collect::<Vec<_>>()[..] else {
        panic!("{order}")
    };
    let runtime = support::runtime(cgroup_root);
    let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    executor.block_on(async {
        let job = runtime.start(spec(id, Path::new(run_dir), root.into(), &["sh", "-c", script])).await.unwrap();
        job.resume().await.unwrap();
        println!("started {}", job.pid());
        std::future::pending::<()>().await;
    });
}

struct Daemon {
    process: Child,
    run_dir: PathBuf,
    init: i32,
}

impl Daemon {
    /// Starts a daemon which starts a container.
    fn start(sandbox: &Sandbox, id: &str, script: &str) -> Self {
        let run_dir = sandbox.path().join(id);
        let root = support::busybox_root(sandbox.path());
        let order = format!("{}\n{id}\n{}\n{}\n{script}", sandbox.cgroup_root(), run_dir.display(), root.display());
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "restart::daemon_process", "--nocapture"])
            .env(DAEMON_VARIABLE, order)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut daemon = Self { process, run_dir, init: 0 };
        let output = BufReader::new(daemon.process.stdout.take().unwrap());
        let mut seen = Vec::new();
        for line in output.lines().map_while(Result::ok) {
            // The test harness may write before it on the same line.
            if let Some((_, pid)) = line.split_once("started ") {
                daemon.init = pid.trim().parse().unwrap();
                return daemon;
            }
            seen.push(line);
        }
        panic!("the daemon did not start: {seen:#?}");
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_job_goes_on_without_its_daemon_and_with_the_next_one() {
    let sandbox = Sandbox::new();
    let script = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 1 & wait $!; done";
    let mut daemon = Daemon::start(&sandbox, "test-survivor", script);
    daemon.kill();
    let Reconnect::Running(container) = sandbox.reconnect(&daemon.run_dir).await else { panic!("it should run") };
    assert_eq!((container.pid(), container.state().borrow().clone()), (daemon.init, InitState::Running));
    let job = Job { container };
    job.wrote("ready").await;
    job.container.stop().await.unwrap();
    let ended = job.ended().await;
    assert_eq!((ended.status(), ended.stdout.as_str()), (3, "ready\nbye\n"));
}

#[tokio::test]
async fn the_end_of_a_job_is_recorded_also_when_no_daemon_is_there() {
    let sandbox = Sandbox::new();
    // Long enough to be cut by the kill at any place, and still to run when it comes.
    let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done; exit 7";
    let mut daemon = Daemon::start(&sandbox, "test-alone", script);
    daemon.kill();
    let record = daemon.run_dir.join(files::EXIT);
    eventually("the exit record", || if record.exists() { Ok(()) } else { Err(()) }).await;
    let Reconnect::Ended(record, Some(container)) = sandbox.reconnect(&daemon.run_dir).await else {
        panic!("it should have ended, with its monitor waiting")
    };
    let ended = support::ended(&daemon.run_dir, record);
    assert_eq!(ended.status(), 7);
    let expected: Vec<String> = (1..=20000).map(|i| format!("line {i}")).collect();
    assert!(ended.stdout.lines().eq(expected.iter().map(String::as_str)), "every line once");
    container.release().await;
    let Reconnect::Ended(again, None) = sandbox.reconnect(&daemon.run_dir).await else { panic!("released") };
    assert_eq!(again, ended.record);
}

#[tokio::test]
async fn a_newer_daemon_replaces_the_older() {
    let sandbox = Sandbox::new();
    let job = sandbox.run(sandbox.shell("echo ready; exec sleep 1000")).await;
    let Reconnect::Running(newer) = sandbox.reconnect(job.run_dir()).await else { panic!("it runs") };
    // Calls over the older connection fail from now on.
    while within("an answer", job.container.signal(0)).await.is_ok() {}
    let newer = Job { container: newer };
    newer.container.kill().await.unwrap();
    assert_eq!(newer.ended().await.status(), 0);
}

#[tokio::test]
async fn a_container_whose_monitor_was_killed_ends_and_counts_as_lost() {
    let sandbox = Sandbox::new();
    let job = sandbox.run(sandbox.shell("echo ready; exec sleep 1000")).await;
    job.wrote("ready").await;
    let monitor = std::fs::read_to_string(job.run_dir().join(files::MONITOR_PID)).unwrap();
    let monitor: i32 = monitor.lines().next().unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(monitor).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    gone(job.container.pid()).await;
    assert!(matches!(sandbox.reconnect(job.run_dir()).await, Reconnect::Lost));
}
