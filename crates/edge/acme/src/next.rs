//! What is to be done for a domain, and when. Pure: equal records give equal answers, jitter included.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest as _, Sha256};

use crate::challenge::ChallengeKind;
use crate::domain::Domain;
use crate::managed::{Failure, Issued, Managed, OpenOrder};
use crate::settings::{Pace, Settings};

/// What is to be done for a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A new order, proven in this way.
    Order(ChallengeKind),
    /// Go on with the open order.
    Resume(OpenOrder),
    /// Forget the domain.
    Remove,
    /// Nothing before this time.
    Wait(DateTime<Utc>),
}

/// Decides for one domain. `managed` is what is kept of it, `wanted` whether a route names it.
pub fn next(managed: Option<&Managed>, wanted: bool, settings: &Settings, now: DateTime<Utc>) -> Action {
    let Some(managed) = managed else { return Action::Order(challenge(None, settings)) };
    let due = managed.issued.as_ref().map(|issued| due_at(&managed.domain, issued, settings));
    if !wanted {
        // One that is still good is kept for a route that comes back.
        return due.filter(|due| now < *due).map_or(Action::Remove, Action::Wait);
    }
    let allowed = managed.failure.as_ref().map(|failure| failure.retry_at);
    let open = managed.order.as_ref().filter(|order| order.directory == settings.directory);
    // An order that is open goes on, whether the certificate is due or not.
    let begin = match (open, due, allowed) {
        (Some(_), _, allowed) => allowed,
        (None, due, allowed) => due.max(allowed),
    };
    match (begin.filter(|begin| now < *begin), open) {
        (Some(begin), _) => Action::Wait(begin),
        (None, Some(open)) => Action::Resume(open.clone()),
        (None, None) => Action::Order(challenge(Some(managed), settings)),
    }
}

/// The way to prove a domain: not one that has just failed; else the one that worked the last time; else the preferred.
fn challenge(managed: Option<&Managed>, settings: &Settings) -> ChallengeKind {
    let refused = managed.and_then(|managed| managed.failure.as_ref()).map(|failure| &failure.refused);
    let worked = managed.and_then(|managed| managed.issued.as_ref()).map(|issued| issued.challenge);
    let offered = || settings.challenges.iter().copied();
    let worked = worked.filter(|worked| offered().any(|kind| kind == *worked));
    let open = |kind: &ChallengeKind| refused.is_none_or(|refused| !refused.contains(kind));
    worked.into_iter().chain(offered()).find(open).or_else(|| offered().next()).unwrap_or(ChallengeKind::Http01)
}

/// When a certificate is to be renewed: at once where another authority issued it, else when a third of its life is left,
/// at most [`Pace::renew_before`]. The last tenth of that time is jitter, by which many that came together part.
pub fn due_at(domain: &Domain, issued: &Issued, settings: &Settings) -> DateTime<Utc> {
    if issued.directory != settings.directory {
        return issued.not_before;
    }
    let life = (issued.not_after - issued.not_before).to_std().unwrap_or_default();
    let before = (life / 3).min(settings.pace.renew_before);
    let jitter = before.mul_f64(0.1 * share(domain, 0));
    issued.not_after - delta(before - jitter)
}

/// What an error means for the next try.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// For an operator.
    pub message: String,
    /// URN of the server's problem.
    pub problem: Option<String>,
    /// The server asked for a pause.
    pub retry_after: Option<Duration>,
    /// The authority could not verify this challenge.
    pub refused: Option<ChallengeKind>,
}

/// Notes a failure. Where another challenge is left to try that is done at once; else the pause doubles.
pub fn failed(managed: &Managed, cause: Cause, settings: &Settings, now: DateTime<Utc>) -> Failure {
    let before = managed.failure.as_ref();
    let mut refused = before.map(|failure| failure.refused.clone()).unwrap_or_default();
    refused.extend(cause.refused);
    let other_left = cause.refused.is_some() && settings.challenges.iter().any(|kind| !refused.contains(kind));
    let mut count = before.map_or(0, |failure| failure.count);
    let mut last_error = cause.message;
    if let Some(before) = before.filter(|before| cause.refused.is_some() && !before.refused.is_empty()) {
        last_error = format!("{last_error}; before that: {}", first_part(&before.last_error));
    }
    let mut pause = Duration::ZERO;
    if !other_left {
        count = count.saturating_add(1);
        refused = BTreeSet::new();
        pause = back_off(&managed.domain, count, &settings.pace);
    }
    let asked = cause.retry_after.unwrap_or_default().min(settings.pace.longest_retry_after);
    let retry_at = now + delta(pause.max(asked));
    Failure { count, last_error, problem: cause.problem, last_error_at: now, retry_at, refused }
}

/// What is said of the failure itself, without those before it.
fn first_part(message: &str) -> &str {
    message.split("; before that: ").next().unwrap_or_default()
}

/// The pause after so many failures: doubling up to a bound, and up to a tenth shorter by jitter.
fn back_off(domain: &Domain, count: u32, pace: &Pace) -> Duration {
    let doubled = pace.first_retry.saturating_mul(1 << count.saturating_sub(1).min(20));
    let pause = doubled.min(pace.longest_retry);
    pause - pause.mul_f64(0.1 * share(domain, count))
}

/// A number from 0 to 1 that differs between domains and rounds.
fn share(domain: &Domain, round: u32) -> f64 {
    let hash = Sha256::new().chain_update(domain.as_str()).chain_update(round.to_le_bytes()).finalize();
    f64::from(u16::from_le_bytes([hash[0], hash[1]])) / f64::from(u16::MAX)
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
mod tests;
