//! Deployments in a world that goes wrong at random: jobs crash, workers end in the middle, answers get lost. The seed of a
//! failure is in its message.

use std::collections::BTreeMap;

use super::*;
use crate::deploy::next::{Change, Formation, Seen};
use crate::deploy::step::{Down, Effect, Event, Outcome, State, begin, step};

const HISTORIES: u64 = 3000;

/// A small generator (splitmix64), so that a seed means the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.below(sides) == 0
    }
}

/// What the controller and the scheduler know.
#[derive(Default)]
struct World {
    old: Formation,
    new: Formation,
    app_is_new: bool,
    failure: Option<String>,
    over: Option<Outcome>,
    requests: u64,
    cancelled: bool,
    /// Changes of formations, in order, without those of the way back.
    steps: Vec<(Release, Processes)>,
}

impl World {
    fn scale(&mut self, change: &Change) -> String {
        self.requests += 1;
        let request = self.requests.to_string();
        if self.failure.is_none() {
            self.steps.push((change.release, change.counts.clone()));
        }
        let formation = if change.release == Release::Old { &mut self.old } else { &mut self.new };
        formation.exists = true;
        formation.counts.extend(change.counts.clone());
        formation.pending = Some(request.clone());
        request
    }

    fn fulfil(&mut self, request: &str) {
        for formation in [&mut self.old, &mut self.new] {
            if formation.pending.as_deref() == Some(request) {
                formation.pending = None;
            }
        }
    }

    fn perform(&mut self, effect: &Effect) -> Event {
        match effect {
            Effect::Look => Event::Seen(Seen {
                old: self.old.clone(),
                new: self.new.clone(),
                switched: self.app_is_new,
                cancelled: self.cancelled,
            }),
            Effect::Scale(change) => Event::Requested(self.scale(change)),
            Effect::Switch => {
                self.app_is_new = true;
                Event::Switched
            }
            Effect::Save { reason, .. } => Event::Saved(self.failure.get_or_insert_with(|| reason.clone()).clone()),
            Effect::Remove => {
                self.new = Formation::default();
                Event::Removed
            }
            Effect::Finish(outcome) => {
                assert_eq!(self.over.replace(outcome.clone()), None, "a deployment ends once");
                Event::Finished
            }
        }
    }
}

/// What may go wrong, each once in so many events; `None` never.
#[derive(Clone, Copy)]
struct Weather {
    worker_ends: Option<u64>,
    new_jobs_crash: bool,
    cancelled: Option<u64>,
}

fn run(plan: &Plan, weather: Weather, dice: &mut Dice) -> World {
    let old = Formation { exists: true, counts: plan.counts.clone(), pending: None };
    let mut world = World { old, ..World::default() };
    let chance = |dice: &mut Dice, sides: Option<u64>| sides.is_some_and(|sides| dice.one_in(sides));
    let (mut state, mut effect) = begin(plan, None);
    for _ in 0..10_000 {
        if chance(dice, weather.cancelled) {
            world.cancelled = true;
        }
        if chance(dice, weather.worker_ends) {
            // Sometimes just after something was done, and before its answer was read.
            if let Some(effect) = effect.take().filter(|_| dice.one_in(2)) {
                world.perform(&effect);
            }
            if world.over.is_some() {
                return world; // its job is gone with it
            }
            (state, effect) = begin(plan, world.failure.clone());
            continue;
        }
        let event = match (effect.take(), state.awaited()) {
            (Some(effect), _) => world.perform(&effect),
            (None, Some((request, _))) => awaited(&mut world, request, weather, dice),
            (None, None) => panic!("it waits for nobody: {state:?}"),
        };
        check_capacity(plan, &world);
        (state, effect) = step(plan, state, event);
        if state == State::Over {
            return world;
        }
    }
    panic!("no end");
}

fn awaited(world: &mut World, request: &str, weather: Weather, dice: &mut Dice) -> Event {
    let rising = world.new.pending.as_deref() == Some(request);
    if world.cancelled && dice.one_in(3) {
        return Event::Cancelled;
    }
    if weather.new_jobs_crash && rising && !dice.one_in(20) {
        let (kind, job) = ("web".to_owned(), String::new());
        return Event::Down(Down { release: Release::New, kind, job, error: None, exit_status: None });
    }
    world.fulfil(request);
    Event::Ended { request: request.to_owned(), fulfilled: true }
}

/// How many jobs run, while it goes forward.
fn check_capacity(plan: &Plan, world: &World) {
    if world.failure.is_some() {
        return;
    }
    for (kind, total) in &plan.counts {
        let count = |formation: &Formation| formation.counts.get(kind).copied().unwrap_or_default();
        let running = count(&world.old) + count(&world.new);
        let (least, most) = match plan.rollout {
            Rollout::AllAtOnce => (*total, total * 2),
            Rollout::Stepwise { first: Release::New, batch } => (*total, total + batch),
            Rollout::Stepwise { first: Release::Old, batch } => (total - batch, *total),
        };
        assert!((least..=most).contains(&running), "{running} {kind} jobs run, {least} to {most} should");
    }
}

fn random_plan(dice: &mut Dice) -> Plan {
    let rollout = match dice.below(4) {
        0 => Rollout::AllAtOnce,
        1 => ONE_BY_ONE,
        2 => DOWN_FIRST,
        _ => batches(i64::try_from(dice.below(5)).expect("small") + 1),
    };
    let kinds = ["web", "worker", "clock"].into_iter().take(usize::try_from(dice.below(3)).expect("small") + 1);
    let counts: Vec<_> = kinds.map(|kind| (kind, i64::try_from(dice.below(5)).expect("small") + 1)).collect();
    plan(rollout, &counts)
}

fn histories(weather: Weather, check: impl Fn(&Plan, &World)) {
    for seed in 0..HISTORIES {
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut dice = Dice(seed);
            let plan = random_plan(&mut dice);
            let world = run(&plan, weather, &mut dice);
            check(&plan, &world);
        }));
        assert!(failed.is_ok(), "the history of seed {seed} went wrong");
    }
}

fn complete(plan: &Plan, world: &World) {
    assert_eq!(world.over, Some(Outcome::Complete));
    assert!(world.app_is_new && world.old.counts.values().all(|count| *count == 0));
    assert_eq!(world.new.counts, plan.counts);
}

fn rolled_back(plan: &Plan, world: &World) {
    assert!(matches!(world.over, Some(Outcome::Failed(_))), "{:?}", world.over);
    assert!(!world.app_is_new && world.new == Formation::default());
    assert_eq!(world.old.counts, plan.counts);
}

const FAIR: Weather = Weather { worker_ends: None, new_jobs_crash: false, cancelled: None };

#[test]
fn a_worker_that_ends_anywhere_costs_no_step_and_repeats_none() {
    let mut expected = BTreeMap::new();
    for seed in 0..HISTORIES {
        let mut dice = Dice(seed);
        let plan = random_plan(&mut dice);
        expected.insert(seed, run(&plan, FAIR, &mut dice).steps);
    }
    for (seed, expected) in expected {
        let mut dice = Dice(seed);
        let plan = random_plan(&mut dice);
        let world = run(&plan, Weather { worker_ends: Some(3), ..FAIR }, &mut dice);
        complete(&plan, &world);
        assert_eq!(world.steps, expected, "seed {seed}");
    }
}

#[test]
fn d12_new_jobs_that_crash_bring_the_old_release_back() {
    let crashing = Weather { new_jobs_crash: true, ..FAIR };
    for weather in [crashing, Weather { worker_ends: Some(20), ..crashing }] {
        let check = |plan: &Plan, world: &World| match &world.over {
            // A few get up all the same.
            Some(Outcome::Complete) => complete(plan, world),
            _ => rolled_back(plan, world),
        };
        histories(weather, check);
    }
}

#[test]
fn w2_w5_a_cancelled_deployment_ends_complete_or_rolled_back_and_says_which() {
    let weather = Weather { worker_ends: Some(10), cancelled: Some(5), ..FAIR };
    histories(weather, |plan, world| match &world.over {
        Some(Outcome::Complete) => complete(plan, world),
        Some(Outcome::Failed(reason)) => {
            assert_eq!(reason, "deployment cancelled");
            rolled_back(plan, world);
        }
        None => panic!("it is not over"),
    });
}
