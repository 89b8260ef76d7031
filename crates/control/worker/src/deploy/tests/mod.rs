//! Tests of the decisions, without a database or a clock.

mod simulation;
mod table;

use super::next::{Plan, Release, Rollout};
use flynn_types::controller::Processes;

pub(super) const ONE_BY_ONE: Rollout = batches(1);
pub(super) const DOWN_FIRST: Rollout = Rollout::Stepwise { first: Release::Old, batch: 1 };

pub(super) const fn batches(batch: i64) -> Rollout {
    Rollout::Stepwise { first: Release::New, batch }
}

pub(super) fn counts(counts: &[(&str, i64)]) -> Processes {
    counts.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect()
}

/// A plan for a release with exactly the types that run.
pub(super) fn plan(rollout: Rollout, running: &[(&str, i64)]) -> Plan {
    let counts = counts(running);
    let types = counts.keys().cloned().collect();
    Plan { rollout, counts, types, tags: Default::default(), same_release: false }
}
