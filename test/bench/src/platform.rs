//! A whole cluster of one node: how soon it is made, what it costs when it is idle, how soon apps run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use flynn_harness::{ClusterOptions, HostState};
use flynn_scenarios::{CHANGE, Platform, server};
use flynn_types::controller::{App, Release};
use http::{Method, StatusCode};
use serde_json::json;

use crate::memory::rollup;
use crate::table::{Series, Table};

/// Clusters that are made. Each takes a while.
const CLUSTERS: usize = 3;
/// How long the idle platform is watched.
const IDLE: Duration = Duration::from_secs(30);
/// Between two looks at what is timed.
const POLL: Duration = Duration::from_millis(5);

/// Bootstrap, then the idle platform, then scaling and deploying.
pub(crate) fn measure(rounds: usize, table: &mut Table) -> anyhow::Result<()> {
    Platform::build_images()?;
    let mut bootstraps = Series::default();
    let mut last = None;
    for _ in 0..CLUSTERS.min(rounds) {
        drop(last.take());
        let platform = Platform::hosts(ClusterOptions::default())?;
        let begin = Instant::now();
        platform.bootstrap()?;
        platform.wait_healthy(CHANGE)?;
        bootstraps.push(begin.elapsed().as_secs_f64());
        last = Some(platform);
    }
    let platform = last.context("at least one round")?;
    table.bound("bootstrap of one node to healthy, s", bootstraps.median(), 15.0);
    idle(&platform, table)?;
    scale(&platform, rounds, table)?;
    deploy(&platform, rounds, table)?;
    platform.cluster.down()
}

/// What a process of the platform costs.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// KiB of memory, its share of what it shares.
    pss: f64,
    /// Clock ticks of CPU so far.
    ticks: f64,
    processes: usize,
}

fn idle(platform: &Platform, table: &mut Table) -> anyhow::Result<()> {
    let before = costs(platform)?;
    std::thread::sleep(IDLE); // the time that is measured over
    let after = costs(platform)?;
    let per_second = f64::from(u32::try_from(rustix::param::clock_ticks_per_second())?);
    let share = |ticks: f64| ticks / per_second / IDLE.as_secs_f64() * 100.0;
    let (mut memory, mut cpu) = (0.0, 0.0);
    for (name, cost) in &after {
        let used = cost.ticks - before.get(name).map_or(0.0, |before| before.ticks);
        memory += cost.pss / 1024.0;
        cpu += share(used);
        let text = format!("{:.1} MB, {:.2} % of a core", cost.pss / 1024.0, share(used));
        table.note(&format!("idle: {name} ({})", cost.processes), &text, "-");
    }
    table.bound("idle platform, MB PSS", memory, 200.0);
    table.bound("idle platform, % of a core", cpu, 2.0);
    Ok(())
}

/// Of the daemon and everything in its jobs, by what they are.
fn costs(platform: &Platform) -> anyhow::Result<BTreeMap<String, Cost>> {
    let host = platform.cluster.host(0);
    let HostState::Running(daemons) = host.state() else { anyhow::bail!("the host has no daemon") };
    let mut costs = BTreeMap::<String, Cost>::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if !daemons.contains(&pid) && !read("cgroup").contains(&host.cgroup()) {
            continue;
        }
        // It may be gone since.
        let (Ok(pss), stat) = (rollup(pid, "Pss:"), read("stat")) else { continue };
        let fields: Vec<f64> = stat
            .rsplit_once(')')
            .map(|(_, fields)| fields.split_whitespace().map(|field| field.parse().unwrap_or_default()).collect())
            .unwrap_or_default();
        // utime and stime are the 14th and 15th of proc(5), the 12th and 13th behind the name.
        let ticks = fields.get(11).zip(fields.get(12)).map_or(0.0, |(user, system)| user + system);
        let cost = costs.entry(name(&read("cmdline"))).or_default();
        *cost = Cost { pss: cost.pss + pss, ticks: cost.ticks + ticks, processes: cost.processes + 1 };
    }
    Ok(costs)
}

/// What a process is, by its command line.
fn name(command: &str) -> String {
    let mut words = command.split(['\0', ' ']).filter(|word| !word.is_empty());
    let program = words.next().unwrap_or_default().rsplit('/').next().unwrap_or_default().trim_end_matches(':');
    match (program, words.next()) {
        ("flynn-system", Some(component)) => component.to_owned(),
        ("postgres", _) => "PostgreSQL's own processes".to_owned(),
        (program, _) => program.to_owned(),
    }
}

fn app(platform: &Platform, name: &str) -> anyhow::Result<(App, Release)> {
    let app = platform.create_app(name)?;
    let release = platform.release(&app, &server("0"))?;
    platform.set_release(&app, &release)?;
    Ok((app, release))
}

fn scale(platform: &Platform, rounds: usize, table: &mut Table) -> anyhow::Result<()> {
    let (app, release) = app(platform, "scaled")?;
    let formation = format!("/apps/{}/formations/{}", app.id, release.id);
    let mut times = Series::default();
    for round in 0..=rounds.min(10) {
        let begin = Instant::now();
        platform.call(Method::PUT, &formation, json!({"processes": {"web": 1}}))?;
        while platform.get("scaled", "/")?.status != StatusCode::OK {
            anyhow::ensure!(begin.elapsed() < CHANGE, "the app does not answer");
            std::thread::sleep(POLL);
        }
        // The first one mounts the image's layers.
        if round > 0 {
            times.push(begin.elapsed().as_secs_f64());
        }
        platform.scale(&app, &release, "web", 0)?;
    }
    table.bound("scale web=1 to the first answer, s", times.median(), 1.0);
    Ok(())
}

fn deploy(platform: &Platform, rounds: usize, table: &mut Table) -> anyhow::Result<()> {
    let (app, release) = app(platform, "deployed")?;
    platform.scale(&app, &release, "web", 1)?;
    let mut times = Series::default();
    for round in 1..=rounds.min(10) {
        let next = platform.release(&app, &server(&round.to_string()))?;
        let begin = Instant::now();
        let deployment = platform.begin_deploy(&app, &next)?;
        let status = platform.wait_deployed(&deployment, CHANGE)?;
        anyhow::ensure!(status == "complete", "the deployment ended as {status}");
        times.push(begin.elapsed().as_secs_f64());
    }
    table.bound("deploy of a new release, one instance, s", times.median(), 3.0);
    Ok(())
}
