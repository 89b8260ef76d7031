//! The simulator sees a plan that breaks a rule: each of these is noticed within a few histories.

use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use uuid::Uuid;

use super::super::cluster::Break;
use super::*;
use crate::world::{Phase, World};
use crate::{Action, Claim};

/// Most histories that it may take.
const ENOUGH: usize = 40;

/// What the first history that shows it shows.
#[track_caller]
fn noticed(breaks: Break) -> String {
    let mut runner = TestRunner::new(config());
    for seed in 0..ENOUGH {
        let faults = faults().new_tree(&mut runner).expect("faults").current();
        let cluster = Cluster::live_with(Some(breaks), &faults, seed as u64);
        if !cluster.broken.is_empty() {
            return cluster.broken.join("\n");
        }
    }
    panic!("{ENOUGH} histories do not show it");
}

#[track_caller]
fn noticed_as(words: &str, breaks: Break) {
    let seen = noticed(breaks);
    assert!(seen.contains(words), "{seen}");
}

#[test]
fn two_jobs_for_one_place() {
    noticed_as("and wants", |_, actions| {
        let twin = |id: Uuid| Uuid::from_u128(!id.as_u128());
        let created = actions.iter().find_map(|action| match action {
            Action::Create { job, .. } => Some(*job),
            _ => None,
        });
        let of_it: Vec<_> = actions
            .iter()
            .filter_map(|action| match action.clone() {
                Action::Create { job, formation, kind, restarts, not_before, waiting } if Some(job) == created => {
                    Some(Action::Create { job: twin(job), formation, kind, restarts, not_before, waiting })
                }
                Action::Start { job, host, volumes } if Some(job) == created && volumes.is_empty() => {
                    Some(Action::Start { job: twin(job), host, volumes })
                }
                _ => None,
            })
            .collect();
        if of_it.len() == 2 {
            actions.extend(of_it);
        }
    });
}

#[test]
fn a_stop_that_no_host_hears_of() {
    noticed_as("run,", |_, actions| actions.retain(|action| !matches!(action, Action::End { .. })));
}

#[test]
fn a_job_that_its_host_lost_is_taken_for_running() {
    noticed_as("run,", |_, actions| actions.retain(|action| !matches!(action, Action::LookUp { .. })));
}

#[test]
fn the_controller_is_not_told() {
    noticed_as("the controller has", |_, actions| actions.retain(|action| !matches!(action, Action::Save { .. })));
}

#[test]
fn a_scale_that_is_never_complete() {
    noticed_as("scale request", |_, actions| actions.retain(|action| !matches!(action, Action::TellScale { .. })));
}

#[test]
fn a_host_without_the_tags_is_good_enough() {
    noticed_as("of ssd", |world, actions| {
        let stays = |action: &Action| match action {
            Action::Stop { job } => world.job_at(*job).is_some_and(|job| *job.app == *"ssd"),
            _ => false,
        };
        actions.retain(|action| !stays(action));
    });
}

#[test]
fn a_volume_of_two_jobs() {
    /// A volume on the host that a running job has.
    fn in_use(world: &World, host: crate::world::HostIndex) -> Option<String> {
        let has = |job: &crate::world::Job| matches!(job.phase, Phase::Running { host: its, .. } if its == host);
        world.jobs().filter(|job| has(job)).find_map(|job| Some(job.volumes.first()?.id.clone()))
    }
    noticed_as("while in use", |world, actions| {
        for action in actions {
            let Action::Start { host, volumes, .. } = action else { continue };
            let (Some(id), Some(claim)) = (in_use(world, *host), volumes.first_mut()) else { continue };
            *claim = Claim { id, new: false, ..claim.clone() };
        }
    });
}
