//! When a part that does not run is started again. Pure: time comes in as an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::plan::{Missing, Part, Start};

/// How long a part is away before it is started: whoever else restarts it has its chance before.
const ALONE: Duration = Duration::from_secs(3);
/// The same while a scheduler leads, who restarts what it knows of.
const SCHEDULED: Duration = Duration::from_secs(30);
/// The same while hosts are away: they may bring what is missing.
const INCOMPLETE: Duration = Duration::from_secs(15);
/// From one start to the next, doubled each time.
const PAUSE: Duration = Duration::from_secs(5);
const PAUSE_MOST: Duration = Duration::from_secs(60);
/// A part that was there for so long starts from the shortest pause again.
const SETTLED: Duration = Duration::from_secs(60);

/// Remembers how long parts are missing, and how often they were started.
#[derive(Debug, Default)]
pub struct Patience {
    faults: BTreeMap<Part, Fault>,
}

#[derive(Debug)]
struct Fault {
    /// Since when it is missing, if it is.
    since: Option<Instant>,
    /// When it was missing last.
    seen: Instant,
    tries: u32,
    not_before: Instant,
}

/// What is so while parts are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    pub scheduler: bool,
    /// Fewer hosts than the cluster has.
    pub incomplete: bool,
    /// An operator asks for it: nobody is waited for.
    pub now: bool,
}

impl Patience {
    /// Of the parts that are missing now, those to start, each with the candidate whose turn it is.
    pub fn due(&mut self, missing: Vec<Missing>, now: Instant, seen: Circumstances) -> Vec<(Part, Option<Start>)> {
        for (part, fault) in &mut self.faults {
            if !missing.iter().any(|missing| missing.part == *part) {
                fault.since = None;
            }
        }
        self.faults.retain(|_, fault| fault.since.is_some() || now.duration_since(fault.seen) < SETTLED);
        let patience = if seen.now {
            Duration::ZERO
        } else if seen.scheduler {
            SCHEDULED
        } else if seen.incomplete {
            INCOMPLETE
        } else {
            ALONE
        };
        let mut due = Vec::new();
        for Missing { part, mut candidates } in missing {
            let new = Fault { since: None, seen: now, tries: 0, not_before: now };
            let fault = self.faults.entry(part.clone()).or_insert(new);
            fault.seen = now;
            let since = *fault.since.get_or_insert(now);
            if now.duration_since(since) < patience || now < fault.not_before {
                continue;
            }
            fault.not_before = now + PAUSE.saturating_mul(1 << fault.tries.min(8)).min(PAUSE_MOST);
            let turn = fault.tries as usize % candidates.len().max(1);
            let candidate = (!candidates.is_empty()).then(|| candidates.swap_remove(turn));
            fault.tries = fault.tries.saturating_add(1);
            due.push((part, candidate));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use flynn_types::host::{ActiveJob, Job};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn start(id: &str) -> Start {
        let job = Job { id: id.to_owned(), ..Job::default() };
        Start { host: "a".parse().unwrap(), job: ActiveJob { job, ..ActiveJob::default() } }
    }

    fn scheduler() -> Vec<Missing> {
        vec![Missing { part: Part::Scheduler, candidates: vec![start("new"), start("old")] }]
    }

    /// Looks once a second, and tells at which seconds what was started.
    fn run(
        patience: &mut Patience,
        from: Instant,
        seconds: std::ops::Range<u32>,
        seen: Circumstances,
    ) -> Vec<(u32, String)> {
        let looks = seconds.flat_map(|second| {
            let due = patience.due(scheduler(), from + SECOND * second, seen);
            due.into_iter().map(move |(_, start)| (second, start.unwrap().job.job.id)).collect::<Vec<_>>()
        });
        looks.collect()
    }

    #[test]
    fn a_part_is_started_after_a_while_and_then_less_and_less_often_with_each_release_in_turn() {
        let started = run(&mut Patience::default(), Instant::now(), 0..100, Circumstances::default());
        let expected = [(3, "new"), (8, "old"), (18, "new"), (38, "old"), (78, "new")];
        assert_eq!(started, expected.map(|(second, id)| (second, id.to_owned())));
    }

    #[test]
    fn others_have_their_chance_first() {
        let at_once = Circumstances { now: true, ..Circumstances::default() };
        let first = |seen| run(&mut Patience::default(), Instant::now(), 0..60, seen).first().unwrap().0;
        assert_eq!(first(Circumstances { scheduler: true, ..Circumstances::default() }), 30);
        assert_eq!(first(at_once), 0);
        assert_eq!(first(Circumstances { incomplete: true, ..Circumstances::default() }), 15);
    }

    #[test]
    fn a_part_that_comes_and_goes_is_not_started_all_the_time() {
        let (mut patience, from, alone) = (Patience::default(), Instant::now(), Circumstances::default());
        assert_eq!(run(&mut patience, from, 0..5, alone).len(), 1);
        assert!(patience.due(Vec::new(), from + SECOND * 5, alone).is_empty());
        // Again missing: 5 s after the first start at the earliest, and not before it was missing for 3 s again.
        assert_eq!(run(&mut patience, from, 6..12, alone), [(9, "old".to_owned())]);
        // Long there: as if nothing had been.
        assert!(patience.due(Vec::new(), from + SECOND * 200, alone).is_empty());
        assert_eq!(run(&mut patience, from, 201..206, alone), [(204, "new".to_owned())]);
    }

    #[test]
    fn a_part_that_nobody_remembers_is_told_as_rarely_as_it_would_be_started() {
        let (mut patience, from) = (Patience::default(), Instant::now());
        let missing = || vec![Missing { part: Part::Controller, candidates: Vec::new() }];
        let told: Vec<_> = (0..10)
            .filter(|second| !patience.due(missing(), from + SECOND * *second, Circumstances::default()).is_empty())
            .collect();
        assert_eq!(told, [3, 8]);
    }
}
