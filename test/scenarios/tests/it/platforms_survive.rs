//! A cluster with everything on it, and what may happen to it: no power, processes that are killed.

use std::time::{Duration, Instant};

use flynn_harness::{ClusterOptions, repeats, wait_until};
use flynn_scenarios::{CHANGE, Node, Platform, block_on, seeded, server, under_load};
use flynn_types::controller::{App, JobState, Release};
use flynn_types::host::{ActiveJob, metadata};
use http::Method;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use serde_json::{Value, json};

/// Longest until everything is back after a power cut (issue: 60 s).
const RECOVERY: Duration = Duration::from_secs(60);
/// Longest that a deployment may take in whose middle something is killed.
const DEPLOYMENT: Duration = Duration::from_secs(180);
/// Longest without a router after it was killed.
const ROUTER_OUTAGE: Duration = Duration::from_secs(3);
/// Size of the host's own disk, which loses with power what was not synced.
const DISK: u64 = 6 << 30;

/// An app that answers `text` from so many jobs.
fn app(platform: &Platform, name: &str, text: &str, jobs: usize) -> (App, Release) {
    let app = platform.create_app(name).unwrap();
    let release = platform.release(&app, &server(text)).unwrap();
    platform.set_release(&app, &release).unwrap();
    platform.scale(&app, &release, "web", jobs).unwrap();
    platform.wait_answer(name, text, CHANGE).unwrap();
    (app, release)
}

/// Writes numbers to the app's metadata until that does not work any more; gives the last that was acknowledged.
fn count(platform: &Platform, app: &App, from: u64) -> u64 {
    let mut acknowledged = from;
    loop {
        let body = json!({"meta": {"count": (acknowledged + 1).to_string()}});
        match platform.api(Method::POST, &format!("/apps/{}", app.id), Some(&body)) {
            Ok(answer) if answer.status.is_success() => acknowledged += 1,
            _ => return acknowledged,
        }
    }
}

fn counted(platform: &Platform, app: &App) -> Result<u64, String> {
    let found = platform.call(Method::GET, &format!("/apps/{}", app.id), Value::Null);
    let found = found.map_err(|err| format!("{err:#}"))?;
    found["meta"]["count"].as_str().unwrap_or("0").parse().map_err(|err| format!("{err}: {found}"))
}

/// At random moments, while the API is written to; what the disk was not told to keep is lost. Nobody types a command.
#[test]
#[expect(clippy::print_stderr, reason = "the recovery times are a result")]
fn a_node_without_power_comes_back_with_its_apps_and_all_that_was_acknowledged() {
    let mut random = seeded("platforms_survive");
    let platform = Platform::up(ClusterOptions { disk_bytes: Some(DISK), ..ClusterOptions::default() }).unwrap();
    let host = platform.cluster.host(0);
    let (app, release) = app(&platform, "shop", "one", 2);
    let mut acknowledged = 0;
    for round in 1..=repeats().div_ceil(5) {
        let moment = Duration::from_millis(random.random_range(0..3000));
        acknowledged = std::thread::scope(|scope| {
            let writer = scope.spawn(|| count(&platform, &app, acknowledged));
            std::thread::sleep(moment); // the moment is random, nothing is waited for
            host.lose_power().unwrap();
            writer.join().unwrap()
        });
        let begin = Instant::now();
        host.start().unwrap();
        let left = || RECOVERY.saturating_sub(begin.elapsed());
        platform
            .wait_answer("shop", "one", left())
            .unwrap_or_else(|err| panic!("{err:#}\n{}", platform.cluster.logs()));
        let answered = begin.elapsed();
        platform.wait_healthy(left()).unwrap_or_else(|err| panic!("{err:#}\n{}", platform.cluster.logs()));
        wait_until(left(), "both jobs of the app are up", || {
            match platform.up_jobs(&app, &release).map_err(|err| format!("{err:#}"))? {
                2 => Ok(()),
                up => Err(format!("{up} are up")),
            }
        })
        .unwrap();
        eprintln!("round {round}: the app answers after {answered:?}, all is well after {:?}", begin.elapsed());
        let kept = counted(&platform, &app).unwrap();
        // The one whose answer did not arrive may have been written.
        assert!(kept == acknowledged || kept == acknowledged + 1, "{acknowledged} were acknowledged, {kept} are there");
        acknowledged = kept;
    }
}

fn is_live(state: Option<JobState>) -> bool {
    matches!(state, Some(JobState::Pending | JobState::Blocked | JobState::Starting | JobState::Up))
}

/// A process of the platform.
#[derive(Clone, Copy, Debug)]
enum Victim {
    /// Any in a job of this app and type.
    Job(&'static str, &'static str),
    Daemon,
}

const VICTIMS: [Victim; 9] = [
    Victim::Job("postgres", "postgres"),
    Victim::Job("postgres", "web"),
    Victim::Job("controller", "web"),
    Victim::Job("controller", "scheduler"),
    Victim::Job("controller", "worker"),
    Victim::Job("blobstore", "web"),
    Victim::Job("logaggregator", "app"),
    Victim::Job("router", "app"),
    Victim::Daemon,
];

/// All processes in a job's container but its process 1, whose id in the host is the first argument.
const PROCESSES: &str =
    "below() { for id in $(cat /proc/$1/task/*/children); do echo $id; below $id; done; }; below $1";

/// Kills a process of the platform: of a job, any in its container.
fn kill(platform: &Platform, victim: Victim, random: &mut StdRng) {
    let host = platform.cluster.host(0);
    let Victim::Job(app, kind) = victim else {
        host.kill_daemon().unwrap();
        host.start_daemon().unwrap();
        return;
    };
    let jobs = block_on(Node::of(host).api().jobs(true)).unwrap();
    let is = |job: &ActiveJob| job.job.meta(metadata::APP_NAME) == app && job.job.meta(metadata::TYPE) == kind;
    let init = jobs.values().filter(|job| is(job)).find_map(|job| job.pid).expect("one of them runs");
    let processes = host.output(["sh", "-c", PROCESSES, "sh", &init.to_string()]).unwrap();
    let process = processes.lines().choose(random).expect("a job runs a program");
    // It may have ended by itself.
    host.exec(["kill", "-9", process]).unwrap();
}

/// Of each process of the platform once, at a random moment of a deployment: it ends, and tells how; what runs is not
/// disturbed.
#[test]
#[expect(clippy::print_stderr, reason = "the times are a result")]
fn any_process_of_the_platform_may_be_killed_in_the_middle_of_a_deployment() {
    let mut random = seeded("platforms_survive");
    let platform = Platform::up(ClusterOptions::default()).unwrap();
    let (app, mut current) = app(&platform, "shop", "0", 2);
    for (number, victim) in VICTIMS.into_iter().enumerate() {
        let text = (number + 1).to_string();
        let next = platform.release(&app, &server(&text)).unwrap();
        let moment = Duration::from_millis(random.random_range(0..1500));
        let begin = Instant::now();
        let (status, load) = under_load(&platform, "shop", || {
            let deployment = platform.begin_deploy(&app, &next).unwrap();
            std::thread::sleep(moment); // the moment is random, nothing is waited for
            kill(&platform, victim, &mut random);
            platform.wait_deployed(&deployment, DEPLOYMENT)
        });
        let status =
            status.unwrap_or_else(|err| panic!("{victim:?} at {moment:?}: {err:#}\n{}", platform.cluster.logs()));
        eprintln!("{victim:?} at {moment:?}: {status} after {:?}, {} requests", begin.elapsed(), load.answered);
        // There is one router: until it is started again nobody listens.
        let outage = if matches!(victim, Victim::Job("router", _)) { ROUTER_OUTAGE } else { Duration::ZERO };
        let fine = load.failed.is_empty() || load.outage() < outage;
        assert!(fine, "{victim:?} at {moment:?}, for {:?}: {:?}", load.outage(), load.failed);
        if status == "complete" {
            current = next;
        }
        let up = |release: &Release| platform.up_jobs(&app, release).map_err(|err| format!("{err:#}"));
        wait_until(CHANGE, "the release that the deployment ended with runs, and no other", || {
            let jobs = platform.jobs(&app).map_err(|err| format!("{err:#}"))?;
            let others = jobs.iter().filter(|job| job.release_id != current.id && is_live(job.state)).count();
            match (up(&current)?, others) {
                (2, 0) => Ok(()),
                seen => Err(format!("{seen:?}")),
            }
        })
        .unwrap();
        platform
            .wait_healthy(RECOVERY)
            .unwrap_or_else(|err| panic!("{victim:?}: {err:#}\n{}", platform.cluster.logs()));
    }
}

/// Spec operations G1: nobody is left who starts jobs, and what is needed to know which.
#[test]
#[expect(clippy::print_stderr, reason = "the recovery time is a result")]
fn g1_without_scheduler_controller_and_database_the_monitor_starts_all_three() {
    let platform = Platform::up(ClusterOptions::default()).unwrap();
    app(&platform, "shop", "one", 2);
    let node = Node::of(platform.cluster.host(0));
    let ((), load) = under_load(&platform, "shop", || {
        // The scheduler first, which would start the others again.
        for (app, kind) in [("controller", "scheduler"), ("controller", "web"), ("postgres", "postgres")] {
            let jobs = block_on(node.api().jobs(true)).unwrap();
            let is = |job: &&ActiveJob| job.job.meta(metadata::APP_NAME) == app && job.job.meta(metadata::TYPE) == kind;
            for job in jobs.values().filter(is) {
                node.stop(&job.job.id).unwrap();
            }
        }
        let begin = Instant::now();
        let answer = platform.api(Method::GET, "/apps", None).map(|answer| answer.status);
        assert!(answer.as_ref().map_or(true, |status| !status.is_success()), "the controller is gone: {answer:?}");
        platform.wait_healthy(RECOVERY).unwrap_or_else(|err| panic!("{err:#}\n{}", platform.cluster.logs()));
        wait_until(RECOVERY, "the API answers", || {
            let answer = platform.call(Method::GET, "/apps/shop", Value::Null);
            answer.map(drop).map_err(|err| format!("{err:#}"))
        })
        .unwrap();
        eprintln!("all is well again after {:?}", begin.elapsed());
    });
    assert!(load.failed.is_empty(), "the app was not disturbed: {:?}", load.failed);
}
