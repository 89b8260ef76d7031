//! Whether a standby's log is a part of its upstream's. Pure.

use crate::lsn::Lsn;
use crate::sql::History;

/// What a standby does about its upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its log is a beginning of the upstream's: streams what follows.
    Follow,
    /// It replaces its data by the upstream's.
    Copy(&'static str),
    /// Neither: what it has could be lost.
    Wait(String),
}

/// Compares a standby's log, if it has any, with its upstream's, which has everything from `oldest` on.
///
/// Each generation has one writer and begins, with all that was acknowledged before, at a position that its writer
/// writes down. So a log that ends in a generation which the upstream has too is a beginning of it, unless it goes on
/// where in the upstream's a later generation had begun. (Raft's logs are compared in the same way.)
pub(crate) fn judge(own: Option<&History>, theirs: &History, oldest: Lsn) -> Verdict {
    let Some(own) = own else { return Verdict::Copy("there is no data") };
    let replace = |reason| {
        if theirs.position() > own.position() {
            return Verdict::Copy(reason);
        }
        let (own, theirs) = (own.position(), theirs.position());
        Verdict::Wait(format!("{reason}, and it ends at {theirs}, which is not further than the own end {own}"))
    };
    if own.system != theirs.system {
        return replace("the upstream's database is not a copy of the own one");
    }
    let generation = own.position().generation;
    if generation > 0 && !theirs.generations.contains_key(&generation) {
        return replace("the upstream does not know the own generation");
    }
    let next = theirs.generations.range(generation + 1..).next();
    if next.is_some_and(|(_, begin)| own.end > *begin) {
        return replace("the own log has what the next generation did not begin with");
    }
    if own.end < oldest {
        return replace("the upstream has no longer what follows the own log");
    }
    Verdict::Follow
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(generations: &[(u64, u64)], end: u64) -> History {
        let generations = generations.iter().map(|(number, begin)| (*number, Lsn(*begin))).collect();
        History { system: 1, generations, end: Lsn(end) }
    }

    #[test]
    fn a_standby_follows_what_continues_its_log_and_replaces_its_data_only_by_more() {
        let theirs = history(&[(1, 0), (2, 100), (4, 200)], 300);
        let stranger = |generation, end| History { system: 2, ..history(&[(generation, 0)], end) };
        for (name, own, verdict) in [
            ("no data", None, "copy"),
            ("behind in the same generation", Some(history(&[(1, 0), (2, 100), (4, 200)], 250)), "follow"),
            ("ahead in the same generation: a chain", Some(history(&[(1, 0), (2, 100), (4, 200)], 350)), "follow"),
            ("ended before the next generation", Some(history(&[(1, 0), (2, 100)], 190)), "follow"),
            ("ended where the next generation began", Some(history(&[(1, 0), (2, 100)], 200)), "follow"),
            ("went on where the next one began", Some(history(&[(1, 0), (2, 100)], 201)), "copy"),
            ("an old primary, far ahead", Some(history(&[(1, 0)], 900)), "copy"),
            ("of a generation that was never theirs", Some(history(&[(1, 0), (3, 150)], 160)), "copy"),
            ("of a generation after theirs", Some(history(&[(1, 0), (5, 250)], 260)), "wait"),
            ("of the Go implementation", Some(history(&[], 60)), "follow"),
            ("of the Go implementation, with more", Some(history(&[], 61 + 40)), "copy"),
            ("too far behind", Some(history(&[(1, 0)], 40)), "copy"),
            ("of another cluster", Some(stranger(3, 900)), "copy"),
            ("of another cluster, further", Some(stranger(5, 10)), "wait"),
        ] {
            let theirs = match name {
                "of the Go implementation, with more" => history(&[(2, 100), (4, 200)], 300),
                "of the Go implementation" => history(&[(2, 100)], 300),
                _ => theirs.clone(),
            };
            let got = match judge(own.as_ref(), &theirs, Lsn(50)) {
                Verdict::Follow => "follow",
                Verdict::Copy(_) => "copy",
                Verdict::Wait(_) => "wait",
            };
            assert_eq!(got, verdict, "{name}");
        }
    }
}
