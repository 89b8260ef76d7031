//! Many seeds, and for each rule the proof that breaking it is found.

use super::Break;
use super::world::World;

/// Simulated milliseconds with faults, and the longest time in which a healed cluster must take writes.
const FAULTS: u64 = 40_000;
const RECOVERY: u64 = 60_000;

/// Environment variables: how many seeds, and the first of them (to repeat one that failed).
const SEEDS: &str = "FLYNN_SIRENIA_SEEDS";
const FIRST: &str = "FLYNN_SIRENIA_SEED";

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().map_or(usual, |text| text.parse().expect("a number"))
}

/// One history. Gives commits and takeovers, or what was violated.
fn run(seed: u64, broken: Option<Break>) -> Result<(usize, u64), String> {
    let mut world = World::new(seed, broken);
    world.run_until(FAULTS);
    world.heal();
    let (begin, before) = (world.now, world.truth.acknowledged());
    while world.truth.violation.is_none() && world.truth.acknowledged() < before + 20 {
        world.run_until(world.now + 1000);
        if world.now > begin + RECOVERY {
            world.truth.violation.get_or_insert(format!("c: no writes {RECOVERY} ms after all faults ended"));
        }
    }
    match &world.truth.violation {
        None => Ok((world.truth.acknowledged(), world.truth.takeovers)),
        Some(what) => Err(format!("{what}\nseed {seed}\n{}\n{}", world.history(), world.shows())),
    }
}

#[expect(clippy::print_stderr, reason = "how much was tried, for who looks")]
#[test]
fn no_acknowledged_commit_is_lost_whatever_fails() {
    let first = number(FIRST, 1);
    let (mut commits, mut takeovers) = (0, 0);
    for seed in first..first + number(SEEDS, 100) {
        let (more, declared) = run(seed, None).unwrap_or_else(|violated| panic!("{violated}"));
        (commits, takeovers) = (commits + more, takeovers + declared);
    }
    // A world in which nothing happens would prove nothing.
    assert!(commits > 0 && takeovers > 0, "{commits} commits, {takeovers} new generations");
    eprintln!("{commits} acknowledged commits, {takeovers} new generations");
}

#[test]
fn equal_seeds_give_equal_histories() {
    assert_eq!(run(7, None), run(7, None));
}

/// Breaking a rule must be noticed, as the loss of one of these invariants. The first seed is one that is known to do it.
#[expect(clippy::print_stderr, reason = "what was found, for who looks")]
#[track_caller]
fn breaks(rule: Break, first: u64, invariants: &str) {
    let violates = |found: &String| found.starts_with(|invariant| invariants.contains(invariant));
    let found = (first..first + 2000).find_map(|seed| run(seed, Some(rule)).err().filter(violates));
    let found = found.unwrap_or_else(|| panic!("{rule:?} breaks nothing"));
    eprintln!("{rule:?}: {}", found.lines().take(2).collect::<Vec<_>>().join(", "));
}

#[test]
fn acknowledging_alone_loses_commits() {
    breaks(Break::AckAlone, 4, "a");
}

#[test]
fn acknowledging_alone_makes_two_writers() {
    breaks(Break::AckAlone, 34, "b");
}

#[test]
fn without_trying_again_a_cluster_stays_down() {
    breaks(Break::NoRetry, 226, "c");
}

#[test]
fn generations_that_do_not_grow_are_noticed() {
    breaks(Break::SameGeneration, 1, "d");
}

#[test]
fn without_compare_and_set_generations_go_back() {
    breaks(Break::LastWriterWins, 1, "d");
}

#[test]
fn a_log_that_is_too_short_must_not_be_called_long_enough() {
    breaks(Break::AnyPosition, 10, "abc");
}

#[test]
fn offsets_of_different_histories_must_not_be_compared() {
    breaks(Break::OffsetsOnly, 79, "abc");
}

#[test]
fn without_a_fence_commits_are_lost() {
    breaks(Break::NoFence, 277, "ab");
}
