//! What a decision costs in a large cluster: `cargo run --release -p flynn-scheduler --example bench_scheduler`.
//!
//! 1,000 hosts and 100,000 jobs, in 1,000 formations of 100 jobs; and the same with a formation of 10,000. Figures are
//! medians with the least and the most.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant};

use flynn_scheduler::event::{Answer, HostListing, HostNews, Report, Start, Write};
use flynn_scheduler::world::{Found, Needs, Phase};
use flynn_scheduler::{Action, Event, Time, World, plan};
use flynn_types::controller::{App, ExpandedFormation, ProcessType, Release};
use flynn_types::host::JobStatus;
use flynn_types::time::GoTime;
use uuid::Uuid;

const HOSTS: usize = 1000;
const JOBS: usize = 100_000;
const NOW: Time = Time(1_700_000_000_000);

fn formation(number: usize, count: usize) -> ExpandedFormation {
    let id = Uuid::from_u128(number as u128 + 1).to_string();
    let processes = BTreeMap::from([("web".to_owned(), ProcessType::default())]);
    ExpandedFormation {
        app: Some(App { id: id.clone(), name: format!("app{number}"), ..App::default() }),
        release: Some(Release { id: id.clone(), app_id: id, processes, ..Release::default() }),
        processes: BTreeMap::from([("web".to_owned(), count as i64)]),
        updated_at: GoTime(chrono::DateTime::from_timestamp_millis(NOW.0)),
        ..ExpandedFormation::default()
    }
}

/// All hosts are known and nothing runs.
fn empty(formations: &[usize]) -> World {
    let mut world = World::new(7);
    for number in 0..HOSTS {
        let id: flynn_types::id::HostId = format!("host{number}").parse().expect("it is valid");
        let news = HostNews {
            id: id.clone(),
            addr: format!("10.0.0.1:{number}"),
            tags: BTreeMap::from([("zone".into(), format!("zone{}", number % 3))]),
            draining: false,
            shutting_down: false,
        };
        world.apply(Event::HostUp(news), NOW);
    }
    world.apply(Event::Leader { ours: true, term: 1 }, NOW);
    let capacity = Some(Needs { memory: 256 << 30, cpu: 64_000 });
    for number in 0..HOSTS {
        let host = format!("host{number}").parse().expect("it is valid");
        let listing = Some(Box::new(HostListing { capacity, ..HostListing::default() }));
        world.apply(Event::Answer(Answer::Listed { host, asked: NOW, term: Some(1), listing }), NOW);
    }
    for (number, count) in formations.iter().enumerate() {
        world.apply(Event::Formation(Box::new(formation(number, *count))), NOW);
    }
    world.apply(Event::FormationsCurrent, NOW);
    world.apply(Event::VolumesCurrent, NOW);
    world
}

fn report(world: &World, job: Uuid, status: JobStatus) -> Event {
    let job = world.job(job).expect("it exists");
    let host = world.host_at(job.phase.host().expect("it is placed")).expect("it exists").id.clone();
    let report = Report {
        uuid: job.uuid,
        app: job.app.to_string(),
        release: job.release.to_string(),
        kind: job.kind.to_string(),
        scheduled: true,
        status,
        created: NOW,
        started: NOW,
        exit_status: None,
        error: None,
        needs: Needs::default(),
        volumes: Vec::new(),
        found: Found::default(),
    };
    Event::HostJob { host, report: Box::new(report) }
}

/// Carries plans out until nothing is left to do.
fn settle(world: &mut World) {
    loop {
        let actions = plan(world, NOW);
        world.order(&actions, NOW);
        if actions.is_empty() {
            return;
        }
        for action in actions {
            let events = match action {
                Action::Start { job, host, .. } => {
                    let host = world.host_at(host).expect("it exists").id.clone();
                    let started = Answer::Started { job, host, outcome: Start::Accepted };
                    vec![Event::Answer(started), report(world, job, JobStatus::Running)]
                }
                Action::Save { job } => {
                    let (record, version) = world.job_record(job).expect("it exists");
                    let job = record.uuid.parse().expect("it is valid");
                    vec![Event::Answer(Answer::Saved { job, version, outcome: Write::Done })]
                }
                Action::End { job } => {
                    let uuid = world.job_at(job).expect("it exists").uuid;
                    vec![report(world, uuid, JobStatus::Done)]
                }
                _ => Vec::new(),
            };
            for event in events {
                world.apply(event, NOW);
            }
        }
    }
}

fn figure(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    let (median, least, most) = (times[times.len() / 2], times[0], times[times.len() - 1]);
    let (median, least, most) = (millis(median), millis(least), millis(most));
    let _ = writeln!(std::io::stdout(), "{name:<60} {median:>9.3} ms  ({least:.3} … {most:.3})");
}

fn measure(name: &str, formations: &[usize], rounds: usize) {
    let world = empty(formations);
    let cold = (0..rounds).map(|_| {
        let begin = Instant::now();
        let actions = plan(&world, NOW);
        let time = begin.elapsed();
        assert_eq!(actions.iter().filter(|action| matches!(action, Action::Start { .. })).count(), JOBS);
        time
    });
    figure(&format!("{name}: full plan, all jobs to be started"), cold.collect());
    let mut world = world;
    settle(&mut world);
    let steady = (0..rounds).map(|_| {
        world.mark_all();
        let begin = Instant::now();
        let actions = plan(&world, NOW);
        let time = begin.elapsed();
        assert!(actions.is_empty(), "nothing is to be done");
        time
    });
    figure(&format!("{name}: full plan, all jobs run"), steady.collect());
    let actions = plan(&world, NOW);
    world.order(&actions, NOW);
    let mut events = Vec::new();
    for round in 0..rounds * 10 {
        let running = world.jobs().filter(|job| matches!(job.phase, Phase::Running { .. }));
        let victim = running.skip(round * 997 % JOBS).map(|job| job.uuid).next().expect("jobs run");
        let event = report(&world, victim, JobStatus::Crashed);
        let begin = Instant::now();
        world.apply(event, NOW);
        let actions = plan(&world, NOW);
        world.order(&actions, NOW);
        events.push(begin.elapsed());
        assert!(actions.iter().any(|action| matches!(action, Action::Start { .. })), "it is replaced");
        // The rest of it, not measured.
        for action in actions {
            if let Action::Start { job, .. } = action {
                world.apply(report(&world, job, JobStatus::Running), NOW);
            }
        }
        settle(&mut world);
    }
    figure(&format!("{name}: one event (a job ends), plan and order"), events);
}

fn main() {
    measure("1,000 formations of 100", &[JOBS / 1000; 1000], 15);
    let mut uneven = vec![10_000];
    uneven.extend([90; 1000]);
    measure("one formation of 10,000 among others", &uneven, 15);
}
