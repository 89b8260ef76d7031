use super::*;
use crate::deploy::next::{Change, Formation, Next, Seen, next};
use crate::deploy::step::{Down, Effect, Event, Outcome, State, begin, step};

/// What a deployment does to formations when every request is fulfilled: `+` and `-` with type and number.
fn course(plan: &Plan) -> Vec<String> {
    let mut seen = Seen::default();
    (seen.old.exists, seen.old.counts) = (true, plan.counts.clone());
    let mut steps = Vec::new();
    loop {
        match next(plan, &seen) {
            Next::Done => return steps,
            Next::Await { .. } => panic!("nothing is pending"),
            Next::Scale { change, rising, wait } => {
                let formation = if change.release == Release::Old { &mut seen.old } else { &mut seen.new };
                formation.exists = true;
                let mut parts = Vec::new();
                for (kind, count) in change.counts {
                    let before = formation.counts.insert(kind.clone(), count).unwrap_or_default();
                    assert_ne!(count, before, "a step that changes nothing: {steps:?}");
                    assert_eq!(rising, change.release == Release::New && count > before);
                    parts.push(format!("{:+}{kind}", count - before));
                }
                let which = if change.release == Release::Old { "old" } else { "new" };
                steps.push(format!("{which} {}{}", parts.join(" "), if wait { "" } else { " at once" }));
                assert!(steps.len() < 100, "no end: {steps:?}");
            }
        }
    }
}

#[test]
fn t30_one_by_one_up_down_up_down() {
    assert_eq!(course(&plan(ONE_BY_ONE, &[("p", 2)])), ["new +1p", "old -1p", "new +1p", "old -1p"]);
}

#[test]
fn t31_in_batches_of_the_number_of_hosts_three_rounds() {
    let expected = ["new +2p", "old -2p", "new +2p", "old -2p", "new +2p", "old -2p"];
    assert_eq!(course(&plan(batches(2), &[("p", 6)])), expected);
}

#[test]
fn t32_in_batches_of_four_two_rounds_and_a_short_last_one() {
    assert_eq!(course(&plan(batches(4), &[("p", 8)])), ["new +4p", "old -4p", "new +4p", "old -4p"]);
    assert_eq!(course(&plan(batches(4), &[("p", 5)])), ["new +4p", "old -4p", "new +1p", "old -1p"]);
    assert_eq!(course(&plan(batches(9), &[("p", 5)])), ["new +5p", "old -5p"]);
}

#[test]
fn t33_one_down_one_up() {
    assert_eq!(course(&plan(DOWN_FIRST, &[("p", 2)])), ["old -1p", "new +1p", "old -1p", "new +1p"]);
}

#[test]
fn t34_all_at_once_up_up_then_down_down_without_waiting() {
    assert_eq!(course(&plan(Rollout::AllAtOnce, &[("p", 2)])), ["new +2p", "old -2p at once"]);
    assert_eq!(course(&plan(Rollout::AllAtOnce, &[("a", 1), ("b", 2)])), ["new +1a +2b", "old -1a -2b at once"]);
}

#[test]
fn types_go_in_the_order_of_their_names() {
    let expected = ["new +1a", "old -1a", "new +1b", "old -1b"];
    assert_eq!(course(&plan(ONE_BY_ONE, &[("b", 1), ("a", 1)])), expected);
}

#[test]
fn d17_a_type_that_is_gone_is_only_stopped_and_a_new_one_is_not_started() {
    for rollout in [ONE_BY_ONE, DOWN_FIRST, batches(1)] {
        let mut plan = plan(rollout, &[("gone", 2), ("web", 1)]);
        plan.types = ["web".to_owned(), "new".to_owned()].into();
        let course = course(&plan);
        assert_eq!(course[..2], ["old -1gone", "old -1gone"]);
        assert_eq!(course.len(), 4, "{course:?}");
    }
    let mut plan = plan(Rollout::AllAtOnce, &[("gone", 2), ("web", 1)]);
    plan.types = ["web".to_owned(), "new".to_owned()].into();
    assert_eq!(course(&plan), ["new +1web", "old -2gone -1web at once"]);
    plan.types.clear();
    assert_eq!(course(&plan), ["old -2gone -1web at once"]);
}

#[test]
fn d19_what_is_there_already_is_not_done_again() {
    let target = Formation { exists: true, counts: counts(&[("p", 2)]), pending: None };
    let stopped = Formation { exists: true, counts: counts(&[("p", 0)]), pending: None };
    for rollout in [ONE_BY_ONE, DOWN_FIRST, Rollout::AllAtOnce] {
        let mut plan = plan(rollout, &[("p", 2)]);
        let seen = Seen { old: stopped.clone(), new: target.clone(), ..Seen::default() };
        assert_eq!(next(&plan, &seen), Next::Done);
        // W4: the new release alone does not tell that all is done.
        let seen = Seen { old: target.clone(), ..seen };
        assert_ne!(next(&plan, &seen), Next::Done);
        plan.same_release = true;
        assert_eq!(next(&plan, &seen), Next::Done);
    }
}

#[test]
fn d16_the_new_formation_gets_the_tags_when_it_is_made() {
    let mut plan = plan(ONE_BY_ONE, &[("p", 1)]);
    plan.tags =
        [("p".to_owned(), [("disk".to_owned(), "ssd".to_owned())].into()), ("gone".to_owned(), Default::default())]
            .into();
    let mut seen = Seen::default();
    (seen.old.exists, seen.old.counts) = (true, counts(&[("p", 1)]));
    let tags = |seen: &Seen| match next(&plan, seen) {
        Next::Scale { change: Change { tags, .. }, .. } => tags,
        next => panic!("{next:?}"),
    };
    assert_eq!(tags(&seen).expect("tags").keys().collect::<Vec<_>>(), ["p"]);
    seen.new.exists = true;
    assert_eq!(tags(&seen), None);
}

#[test]
fn a_request_under_way_is_waited_for_and_not_repeated() {
    let mut seen = Seen::default();
    (seen.old.exists, seen.old.counts) = (true, counts(&[("p", 2)]));
    seen.new = Formation { exists: true, counts: counts(&[("p", 1)]), pending: Some("r".into()) };
    for rollout in [ONE_BY_ONE, DOWN_FIRST, Rollout::AllAtOnce] {
        let expected = Next::Await { release: Release::New, request: "r".into() };
        assert_eq!(next(&plan(rollout, &[("p", 2)]), &seen), expected);
    }
    // All at once never waits for old jobs to end, not even after a new start of the worker.
    seen.new = Formation { exists: true, counts: counts(&[("p", 2)]), pending: None };
    seen.old = Formation { exists: true, counts: counts(&[("p", 0)]), pending: Some("r".into()) };
    assert_eq!(next(&plan(Rollout::AllAtOnce, &[("p", 2)]), &seen), Next::Done);
    let expected = Next::Await { release: Release::Old, request: "r".into() };
    assert_eq!(next(&plan(ONE_BY_ONE, &[("p", 2)]), &seen), expected);
}

/// The machine in the middle of the first step up.
fn waiting(plan: &Plan) -> State {
    let (state, effect) = begin(plan, None);
    assert_eq!(effect, Some(Effect::Look));
    let mut seen = Seen::default();
    (seen.old.exists, seen.old.counts) = (true, plan.counts.clone());
    let (state, effect) = step(plan, state, Event::Seen(seen));
    assert!(matches!(effect, Some(Effect::Scale(_))));
    let (state, effect) = step(plan, state, Event::Requested("r".into()));
    assert_eq!((state.awaited().map(|(request, _)| request), effect), (Some("r"), None));
    state
}

fn down(release: Release, error: Option<&str>) -> Event {
    Event::Down(Down {
        release,
        kind: "printer".into(),
        job: "host-1".into(),
        error: error.map(Into::into),
        exit_status: None,
    })
}

/// The reason of a failure that begins with this event.
fn reason(plan: &Plan, state: State, event: Event) -> String {
    match step(plan, state, event) {
        (State::Saving, Some(Effect::Save { reason, .. })) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn d15_t35_t36_the_sixth_job_that_goes_down_fails_the_deployment() {
    let plan = plan(ONE_BY_ONE, &[("printer", 2)]);
    let mut state = waiting(&plan);
    for _ in 0..5 {
        let (next, effect) = step(&plan, state, down(Release::New, None));
        assert_eq!(effect, None);
        (state, _) = step(&plan, next, down(Release::Old, None)); // not the new release's fault
    }
    let text = r#"printer job failed to start: exec: "x": executable file not found in $PATH"#;
    let not_found = Some(r#"exec: "x": executable file not found in $PATH"#);
    assert_eq!(reason(&plan, state.clone(), down(Release::New, not_found)), text);
    assert_eq!(reason(&plan, state, down(Release::New, None)), "printer job failed to start: got down job event");
}

#[test]
fn d14_cancellations_and_timeouts_have_the_words_that_clients_know() {
    let plan = plan(ONE_BY_ONE, &[("printer", 2)]);
    let text = "timed out waiting for scale to complete (waited 120 seconds)";
    assert_eq!(reason(&plan, waiting(&plan), Event::TimedOut(120)), text);
    let replaced = Event::Ended { request: "r".into(), fulfilled: false };
    assert_eq!(reason(&plan, waiting(&plan), replaced), "scale request cancelled");
    assert_eq!(reason(&plan, waiting(&plan), Event::Cancelled), "deployment cancelled");
    let other = Event::Ended { request: "another".into(), fulfilled: true };
    assert_eq!(step(&plan, waiting(&plan), other), (waiting(&plan), None));
}

#[test]
fn b1_b2_a_failure_gives_the_old_release_its_jobs_back_and_removes_the_new_formation() {
    let plan = plan(ONE_BY_ONE, &[("printer", 2)]);
    let (state, effect) = begin(&plan, Some("why".into()));
    let back = Change { release: Release::Old, counts: counts(&[("printer", 2)]), tags: None };
    assert_eq!(effect, Some(Effect::Scale(back)));
    let requested = |state| step(&plan, state, Event::Requested("r".into())).0;
    let ends = [
        Event::Ended { request: "r".into(), fulfilled: true },
        Event::Ended { request: "r".into(), fulfilled: false },
        Event::TimedOut(10),
    ];
    for end in ends {
        let (state, effect) = step(&plan, requested(state.clone()), end);
        assert_eq!(effect, Some(Effect::Remove));
        let (state, effect) = step(&plan, state, Event::Removed);
        assert_eq!(effect, Some(Effect::Finish(Outcome::Failed("why".into()))));
        assert_eq!(step(&plan, state, Event::Finished), (State::Over, None));
    }
    // What cannot be given back does not keep the deployment from its end.
    let (_, effect) = step(&plan, state, Event::Refused("no".into()));
    assert_eq!(effect, Some(Effect::Remove));
}

#[test]
fn d22_what_all_at_once_cannot_stop_leaves_the_new_jobs_up() {
    let plan = plan(Rollout::AllAtOnce, &[("p", 1)]);
    let mut seen = Seen::default();
    (seen.old.exists, seen.old.counts) = (true, plan.counts.clone());
    (seen.new.exists, seen.new.counts) = (true, plan.counts.clone());
    let (state, effect) = step(&plan, State::Looking, Event::Seen(seen));
    assert!(matches!(effect, Some(Effect::Scale(_))));
    let (_, effect) = step(&plan, state, Event::Refused("no".into()));
    assert_eq!(effect, Some(Effect::Finish(Outcome::Failed("no".into()))));
}
