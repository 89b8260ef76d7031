//! What is to be done next, given what runs. Nothing of it is remembered: whoever takes up a deployment finds the same.

use std::collections::BTreeSet;

use flynn_types::controller::{Processes, Tags};

/// Which of two releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    Old,
    New,
}

/// How jobs are replaced (spec section 11.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rollout {
    /// All new ones, then all old ones away.
    AllAtOnce,
    /// Up to `batch` at a time, type by type in the order of names.
    Stepwise { first: Release, batch: i64 },
}

/// What a deployment is to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub rollout: Rollout,
    /// Number of jobs by type, as they ran when the deployment was ordered.
    pub counts: Processes,
    /// Types of the new release: what it does not have is only stopped, what only it has is not started (D17).
    pub types: BTreeSet<String>,
    /// For the new release's formation (D16).
    pub tags: Tags,
    /// Both releases are the same one: nothing is to be replaced (D19).
    pub same_release: bool,
}

/// A release's formation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Formation {
    pub exists: bool,
    pub counts: Processes,
    /// A change of it that the deployment has to wait for.
    pub pending: Option<String>,
}

impl Formation {
    fn count(&self, kind: &str) -> i64 {
        self.counts.get(kind).copied().unwrap_or_default()
    }
}

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub old: Formation,
    pub new: Formation,
    /// The app has the new release.
    pub switched: bool,
    /// Somebody wants the deployment to end.
    pub cancelled: bool,
}

/// A change of a formation. Types that are not named stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub release: Release,
    pub counts: Processes,
    pub tags: Option<Tags>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A change that was asked for is under way.
    Await {
        release: Release,
        request: String,
    },
    Scale {
        change: Change,
        rising: bool,
        wait: bool,
    },
    Done,
}

/// The next step.
pub fn next(plan: &Plan, seen: &Seen) -> Next {
    if plan.same_release {
        return Next::Done;
    }
    let pending = |release, formation: &Formation| {
        formation.pending.as_ref().map(|request| Next::Await { release, request: request.clone() })
    };
    if let Some(wait) = pending(Release::New, &seen.new) {
        return wait;
    }
    // All at once does not wait for the end of old jobs, whoever goes on with it.
    let waits = plan.rollout != Rollout::AllAtOnce;
    if let Some(wait) = pending(Release::Old, &seen.old).filter(|_| waits) {
        return wait;
    }
    match plan.rollout {
        Rollout::AllAtOnce => all_at_once(plan, seen),
        Rollout::Stepwise { first, batch } => stepwise(plan, seen, first, batch.max(1)),
    }
}

/// How many jobs of a type the new release shall have.
fn goal(plan: &Plan, kind: &str) -> i64 {
    if plan.types.contains(kind) { plan.counts.get(kind).copied().unwrap_or_default() } else { 0 }
}

fn all_at_once(plan: &Plan, seen: &Seen) -> Next {
    let goals = plan.types.iter().map(|kind| (kind.clone(), goal(plan, kind)));
    let missing = goals.filter(|(kind, goal)| seen.new.count(kind) != *goal);
    let counts: Processes = missing.collect();
    if counts.is_empty() {
        return stop_old(seen, false);
    }
    let rising = counts.iter().any(|(kind, count)| *count > seen.new.count(kind));
    scale(plan, seen, Release::New, counts, rising)
}

/// What is left of the old release: also types that were scaled up meanwhile.
fn stop_old(seen: &Seen, wait: bool) -> Next {
    let running = seen.old.counts.iter().filter(|(_, count)| **count > 0);
    let counts: Processes = running.map(|(kind, _)| (kind.clone(), 0)).collect();
    if counts.is_empty() {
        return Next::Done;
    }
    Next::Scale { change: Change { release: Release::Old, counts, tags: None }, rising: false, wait }
}

fn stepwise(plan: &Plan, seen: &Seen, first: Release, batch: i64) -> Next {
    for (kind, total) in &plan.counts {
        let (old, new) = (seen.old.count(kind), seen.new.count(kind));
        if let Some((release, count)) = of_type(first, batch, (*total, goal(plan, kind)), (old, new)) {
            let rising = release == Release::New && count > new;
            return scale(plan, seen, release, [(kind.clone(), count)].into(), rising);
        }
    }
    stop_old(seen, true)
}

/// The next count of a type, of which `total` ran and `goal` shall run of the new release.
fn of_type(first: Release, batch: i64, (total, goal): (i64, i64), (old, new): (i64, i64)) -> Option<(Release, i64)> {
    let fewer = || (old > 0).then(|| (Release::Old, (old - batch).max(0)));
    if new > goal {
        return Some((Release::New, goal));
    }
    if goal == 0 || new == goal {
        return fewer();
    }
    let more = Some((Release::New, (new + batch).min(goal)));
    match first {
        Release::New if old > total - new => Some((Release::Old, total - new)),
        Release::Old if old > 0 && old + new >= total => fewer(),
        _ => more,
    }
}

fn scale(plan: &Plan, seen: &Seen, release: Release, counts: Processes, rising: bool) -> Next {
    let is_made = release == Release::New && !seen.new.exists;
    let tags = is_made.then(|| {
        let known = plan.tags.iter().filter(|(kind, _)| plan.types.contains(*kind));
        known.map(|(kind, tags)| (kind.clone(), tags.clone())).collect::<Tags>()
    });
    let tags = tags.filter(|tags| !tags.is_empty());
    Next::Scale { change: Change { release, counts, tags }, rising, wait: true }
}
