//! Settings that operators change while a cluster runs (spec appliances section 4.2). Pure.

use std::collections::BTreeMap;

use flynn_types::sirenia::Tunables;

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A whole number between both.
    Number(u64, u64),
    /// A number with one of these units.
    Quantity(&'static [&'static str]),
    Switch,
}

const MEMORY: Kind = Kind::Quantity(&["kB", "MB", "GB"]);
const TIME: Kind = Kind::Quantity(&["ms", "s", "min", "h"]);

/// What may be changed: name, default, and what is a value for it.
///
/// The defaults are for a server that shares a small machine with everything else (spec section 5.3).
const KNOWN: &[(&str, &str, Kind)] = &[
    ("max_connections", "400", Kind::Number(20, 10_000)),
    ("shared_buffers", "32MB", MEMORY),
    ("work_mem", "4MB", MEMORY),
    ("maintenance_work_mem", "64MB", MEMORY),
    ("effective_cache_size", "512MB", MEMORY),
    ("temp_buffers", "8MB", MEMORY),
    ("max_wal_size", "1GB", MEMORY),
    ("min_wal_size", "80MB", MEMORY),
    // How far a standby may be behind, or away, before it has to copy everything again.
    ("wal_keep_size", "1024MB", MEMORY),
    ("max_slot_wal_keep_size", "4096MB", MEMORY),
    ("checkpoint_timeout", "5min", TIME),
    ("statement_timeout", "0s", TIME),
    ("idle_in_transaction_session_timeout", "0s", TIME),
    // Every connection in the log is too much for clusters in which apps connect all the time.
    ("log_connections", "off", Kind::Switch),
    ("log_disconnections", "off", Kind::Switch),
    ("log_min_duration_statement", "1h", TIME),
];

/// What is in force when nobody changed anything.
pub(crate) fn defaults() -> Tunables {
    let data = KNOWN.iter().map(|(name, default, _)| ((*name).to_owned(), (*default).to_owned())).collect();
    Tunables { data, version: 0 }
}

/// Names and values for the server. A value that it would refuse, and with it all its settings, is passed over.
pub(crate) fn effective(wanted: &BTreeMap<String, String>) -> impl Iterator<Item = (&'static str, &str)> {
    KNOWN.iter().map(|(name, default, kind)| {
        let wanted = wanted.get(*name).map(String::as_str).filter(|value| kind.accepts(value));
        (*name, wanted.unwrap_or(default))
    })
}

/// The wanted settings that [`effective`] passes over.
pub(crate) fn refused(wanted: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    wanted.iter().filter_map(|(name, value)| {
        let known = KNOWN.iter().find(|(known, ..)| known == name);
        let accepted = known.is_some_and(|(_, _, kind)| kind.accepts(value));
        (!accepted).then_some((name.as_str(), value.as_str()))
    })
}

impl Kind {
    fn accepts(self, value: &str) -> bool {
        match self {
            Self::Number(least, most) => value.parse().is_ok_and(|number: u64| (least..=most).contains(&number)),
            Self::Quantity(units) => {
                let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
                // Ten digits of the largest unit overflow the server's numbers.
                (1..=6).contains(&digits) && units.contains(&&value[digits..])
            }
            Self::Switch => ["on", "off"].contains(&value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_values_and_others_are_checked() {
        let defaults = defaults().data;
        assert_eq!(refused(&defaults).count(), 0);
        assert_eq!(effective(&BTreeMap::new()).count(), defaults.len());
        let wrong = [
            ("max_connections", "5"),
            ("max_connections", "-5"),
            ("shared_buffers", "MB"),
            ("shared_buffers", "1000000000GB"),
            ("shared_buffers", "32"),
            ("checkpoint_timeout", "5 min"),
            ("log_connections", "yes"),
            ("fsync", "off"),
        ];
        for (name, value) in wrong {
            let wanted = [(name.to_owned(), value.to_owned())].into();
            assert_eq!(refused(&wanted).collect::<Vec<_>>(), [(name, value)]);
            assert!(effective(&wanted).all(|(known, text)| known != name || text == defaults[name]), "{name}={value}");
        }
    }
}
