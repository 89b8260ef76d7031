use super::*;

use crate::managed::KeyPem;
use ChallengeKind::{Http01, TlsAlpn01};

fn settings() -> Settings {
    Settings {
        directory: "https://ca/dir".into(),
        email: None,
        roots: None,
        challenges: vec![Http01, TlsAlpn01],
        pace: Pace::default(),
    }
}

fn at(day: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(day)
}

fn managed() -> Managed {
    Managed::new("a.example.com".parse().unwrap(), "id".into(), at(0))
}

/// A certificate that is good from day 0 on.
fn issued(days: i64, challenge: ChallengeKind) -> Managed {
    let directory = settings().directory;
    let key = KeyPem::new("K".into());
    let issued = Issued { chain: "C".into(), key, not_before: at(0), not_after: at(days), directory, challenge };
    Managed { issued: Some(issued), ..managed() }
}

fn open(directory: &str) -> OpenOrder {
    OpenOrder { directory: directory.into(), url: "u".into(), key: KeyPem::new("K".into()), challenge: Http01 }
}

fn refused(kind: ChallengeKind) -> Cause {
    Cause { message: format!("{kind} failed"), refused: Some(kind), ..Cause::default() }
}

fn minutes(from: DateTime<Utc>, to: DateTime<Utc>) -> i64 {
    (to - from).num_minutes()
}

#[test]
fn what_is_missing_is_ordered_and_what_is_open_goes_on() {
    let ca = settings();
    assert_eq!(next(None, true, &ca, at(0)), Action::Order(Http01));
    assert_eq!(next(Some(&managed()), true, &ca, at(0)), Action::Order(Http01));
    let here = Managed { order: Some(open("https://ca/dir")), ..managed() };
    assert_eq!(next(Some(&here), true, &ca, at(0)), Action::Resume(open("https://ca/dir")));
    let elsewhere = Managed { order: Some(open("https://other/dir")), ..managed() };
    assert_eq!(next(Some(&elsewhere), true, &ca, at(0)), Action::Order(Http01));
}

#[test]
fn a_certificate_is_renewed_in_its_last_third_and_at_most_30_days_before_its_end() {
    // Life in days, the day of the renewal without jitter.
    for (life, day) in [(90, 60), (6, 4), (365, 335), (3, 2)] {
        let managed = issued(life, Http01);
        let Action::Wait(due) = next(Some(&managed), true, &settings(), at(0)) else { panic!("it is new") };
        assert!(due >= at(day) && due <= at(day) + (at(life) - at(day)) / 10, "{life}: {due}");
        assert_eq!(next(Some(&managed), true, &settings(), due), Action::Order(Http01));
    }
}

#[test]
fn renewals_of_many_are_spread() {
    let due: BTreeSet<_> = (0..100)
        .map(|n| {
            due_at(&format!("a{n}.example.com").parse().unwrap(), &issued(90, Http01).issued.unwrap(), &settings())
        })
        .collect();
    assert!(due.len() > 95 && *due.last().unwrap() - *due.first().unwrap() > TimeDelta::days(2), "{due:?}");
}

#[test]
fn another_directory_means_another_certificate() {
    let ca = Settings { directory: "https://other/dir".into(), ..settings() };
    assert_eq!(next(Some(&issued(90, TlsAlpn01)), true, &ca, at(1)), Action::Order(TlsAlpn01));
}

#[test]
fn o4_what_nobody_wants_is_kept_while_it_is_good() {
    let Action::Wait(due) = next(Some(&issued(90, Http01)), false, &settings(), at(1)) else { panic!("it is good") };
    assert_eq!(next(Some(&issued(90, Http01)), false, &settings(), due), Action::Remove);
    assert_eq!(next(Some(&managed()), false, &settings(), at(1)), Action::Remove);
}

#[test]
fn o3_pauses_double_from_five_minutes_to_a_day() {
    let mut managed = managed();
    let cause = Cause { message: "unreachable".into(), ..Cause::default() };
    for pause in [5, 10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440] {
        let failure = failed(&managed, cause.clone(), &settings(), at(0));
        let waits = minutes(at(0), failure.retry_at);
        assert!(waits >= pause * 9 / 10 - 1 && waits <= pause, "{waits} of {pause}");
        managed.failure = Some(failure.clone());
        assert_eq!(next(Some(&managed), true, &settings(), at(0)), Action::Wait(failure.retry_at));
        assert_eq!(next(Some(&managed), true, &settings(), failure.retry_at), Action::Order(Http01));
    }
}

#[test]
fn a_server_that_asks_for_a_pause_gets_it() {
    let asks = |hours: u64| Cause { retry_after: Some(Duration::from_secs(hours * 3600)), ..Cause::default() };
    let waits = |hours: u64| minutes(at(0), failed(&managed(), asks(hours), &settings(), at(0)).retry_at);
    assert_eq!((waits(3), waits(1_000_000)), (180, 7 * 24 * 60));
    assert!(waits(0) >= 4, "and never less than ours");
}

#[test]
fn the_other_challenge_is_tried_at_once_and_then_there_is_a_pause() {
    let ca = settings();
    let mut managed = managed();
    let first = failed(&managed, refused(Http01), &ca, at(0));
    assert_eq!((first.retry_at, first.count), (at(0), 0));
    managed.failure = Some(first);
    assert_eq!(next(Some(&managed), true, &ca, at(0)), Action::Order(TlsAlpn01));
    let second = failed(&managed, refused(TlsAlpn01), &ca, at(0));
    assert!(minutes(at(0), second.retry_at) >= 4 && second.count == 1, "{second:?}");
    assert_eq!(second.last_error, "tls-alpn-01 failed; before that: http-01 failed");
    let retry_at = second.retry_at;
    managed.failure = Some(second);
    assert_eq!(next(Some(&managed), true, &ca, retry_at), Action::Order(Http01), "a new round begins");
}

#[test]
fn a_challenge_that_is_not_offered_is_not_tried() {
    let ca = Settings { challenges: vec![TlsAlpn01], ..settings() };
    assert_eq!(next(None, true, &ca, at(0)), Action::Order(TlsAlpn01));
    assert!(minutes(at(0), failed(&managed(), refused(TlsAlpn01), &ca, at(0)).retry_at) >= 4);
    let due = issued(3, Http01);
    assert_eq!(next(Some(&due), true, &ca, at(3)), Action::Order(TlsAlpn01));
    assert_eq!(
        next(Some(&issued(3, TlsAlpn01)), true, &settings(), at(3)),
        Action::Order(TlsAlpn01),
        "it worked before"
    );
}

#[test]
fn a_failed_renewal_waits_too() {
    let mut managed = issued(90, Http01);
    managed.failure = Some(failed(&managed, Cause::default(), &settings(), at(80)));
    let Action::Wait(until) = next(Some(&managed), true, &settings(), at(80)) else { panic!("it has just failed") };
    assert_eq!(next(Some(&managed), true, &settings(), until), Action::Order(Http01));
}
