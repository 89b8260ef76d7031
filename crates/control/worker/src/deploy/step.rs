//! The course of a deployment, as a state machine: [`step`] takes a state and what happened, and gives the next state and
//! what to do. Every effect is answered by an event; without an effect the machine waits for what others do.

use flynn_types::controller::Processes;

use super::next::{Change, Next, Plan, Release, Seen, next};

/// Jobs of the new release that may go down within a step (D15).
const DOWNS_IGNORED: u32 = 5;

/// A job that went down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    pub release: Release,
    pub kind: String,
    /// As its host knows it.
    pub job: String,
    /// What its host said.
    pub error: Option<String>,
    pub exit_status: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Seen(Seen),
    /// A change of a formation was accepted.
    Requested(String),
    /// A request ended: fulfilled, or replaced by another.
    Ended {
        request: String,
        fulfilled: bool,
    },
    Down(Down),
    /// What was waited for did not come; with the wait's length in seconds.
    TimedOut(u64),
    /// Somebody wants the deployment to end.
    Cancelled,
    /// The app has the new release.
    Switched,
    /// The reason of the failure is recorded, in full.
    Saved(String),
    /// The new release's formation is gone.
    Removed,
    /// What was to be done cannot be done, and trying again is of no use.
    Refused(String),
    Finished,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// See what runs.
    Look,
    Scale(Change),
    /// Give the app its new release.
    Switch,
    /// Record why the deployment failed, with what is known of a job that went down.
    Save {
        reason: String,
        culprit: Option<Down>,
    },
    /// Delete the new release's formation.
    Remove,
    Finish(Outcome),
}

/// How a deployment ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Complete,
    Failed(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Looking,
    Scaling {
        release: Release,
        rising: bool,
        wait: bool,
    },
    Waiting {
        request: String,
        rising: bool,
        downs: u32,
    },
    Switching,
    /// From here on it only goes back.
    Saving,
    Restoring {
        reason: String,
        request: Option<String>,
    },
    Removing {
        reason: String,
    },
    Finishing,
    Over,
}

/// How long a state may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The app's own for a step (D14).
    Step,
    /// That for jobs which come back (B1).
    Restoring,
}

impl State {
    /// What the state waits for: a request of somebody else to be fulfilled.
    pub fn awaited(&self) -> Option<(&str, Limit)> {
        match self {
            Self::Waiting { request, .. } => Some((request, Limit::Step)),
            Self::Restoring { request: Some(request), .. } => Some((request, Limit::Restoring)),
            _ => None,
        }
    }
}

type Stepped = (State, Option<Effect>);

/// How a deployment begins, or goes on: back, if it has failed before.
pub fn begin(plan: &Plan, failure: Option<String>) -> Stepped {
    match failure {
        Some(reason) => restore(plan, reason),
        None => (State::Looking, Some(Effect::Look)),
    }
}

/// What follows. An event that means nothing in a state changes nothing.
pub fn step(plan: &Plan, state: State, event: Event) -> Stepped {
    match (state, event) {
        // Too late for an app that has its new release already.
        (State::Looking, Event::Seen(seen)) if seen.cancelled && !seen.switched => cancelled(),
        (State::Looking, Event::Seen(seen)) => decide(plan, &seen),
        (State::Scaling { release, wait: false, .. }, Event::Requested(_)) => {
            debug_assert_eq!(release, Release::Old, "new jobs are waited for");
            switch()
        }
        (State::Scaling { rising, .. }, Event::Requested(request)) => {
            (State::Waiting { request, rising, downs: 0 }, None)
        }
        // D22: the new jobs are up, and stay.
        (State::Scaling { wait: false, .. }, Event::Refused(reason)) => finish(Outcome::Failed(reason)),
        (State::Waiting { .. }, Event::Cancelled) => cancelled(),
        (State::Waiting { request, rising, downs }, event) => waiting(request, rising, downs, event),
        (State::Switching, Event::Switched) => finish(Outcome::Complete),
        (State::Switching, Event::Cancelled) => cancelled(),
        (State::Saving, Event::Saved(reason)) => restore(plan, reason),
        (State::Restoring { reason, .. }, Event::Requested(request)) => {
            (State::Restoring { reason, request: Some(request) }, None)
        }
        (State::Restoring { reason, request }, event) => restoring(reason, request, &event),
        (State::Removing { reason }, Event::Removed) => finish(Outcome::Failed(reason)),
        (State::Removing { reason }, Event::Refused(also)) => {
            finish(Outcome::Failed(format!("{reason}\nthe new release's formation stays: {also}")))
        }
        (State::Finishing, Event::Finished) => (State::Over, None),
        (State::Looking | State::Scaling { .. } | State::Switching, Event::Refused(reason)) => fail(reason, None),
        (state, _) => (state, None),
    }
}

fn decide(plan: &Plan, seen: &Seen) -> Stepped {
    match next(plan, seen) {
        Next::Await { release, request } => {
            (State::Waiting { request, rising: release == Release::New, downs: 0 }, None)
        }
        Next::Scale { change, rising, wait } => {
            (State::Scaling { release: change.release, rising, wait }, Some(Effect::Scale(change)))
        }
        Next::Done => switch(),
    }
}

fn waiting(request: String, rising: bool, downs: u32, event: Event) -> Stepped {
    match event {
        Event::Ended { request: ended, fulfilled } if ended == request => {
            if fulfilled {
                (State::Looking, Some(Effect::Look))
            } else {
                fail("scale request cancelled".into(), None)
            }
        }
        Event::Down(down) if rising && down.release == Release::New => {
            if downs < DOWNS_IGNORED {
                return (State::Waiting { request, rising, downs: downs + 1 }, None);
            }
            let error = down.error.as_deref().unwrap_or("got down job event");
            fail(format!("{} job failed to start: {error}", down.kind), Some(down))
        }
        Event::TimedOut(seconds) => {
            fail(format!("timed out waiting for scale to complete (waited {seconds} seconds)"), None)
        }
        _ => (State::Waiting { request, rising, downs }, None),
    }
}

fn restoring(reason: String, request: Option<String>, event: &Event) -> Stepped {
    let goes_on = match event {
        // Whether old jobs are back or not: the new ones are of no use.
        Event::Ended { request: ended, .. } => request.as_ref() == Some(ended),
        Event::TimedOut(_) | Event::Refused(_) => true,
        _ => false,
    };
    if goes_on {
        return (State::Removing { reason }, Some(Effect::Remove));
    }
    (State::Restoring { reason, request }, None)
}

fn switch() -> Stepped {
    (State::Switching, Some(Effect::Switch))
}

fn cancelled() -> Stepped {
    fail("deployment cancelled".into(), None)
}

fn fail(reason: String, culprit: Option<Down>) -> Stepped {
    (State::Saving, Some(Effect::Save { reason, culprit }))
}

/// The old release gets its jobs back, as they were when the deployment was ordered (B2).
fn restore(plan: &Plan, reason: String) -> Stepped {
    if plan.same_release {
        return finish(Outcome::Failed(reason));
    }
    let counts: Processes = plan.counts.clone();
    if counts.is_empty() {
        return (State::Removing { reason }, Some(Effect::Remove));
    }
    let change = Change { release: Release::Old, counts, tags: None };
    (State::Restoring { reason, request: None }, Some(Effect::Scale(change)))
}

fn finish(outcome: Outcome) -> Stepped {
    (State::Finishing, Some(Effect::Finish(outcome)))
}
