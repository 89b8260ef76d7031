//! Lines for the init log, or for whatever standard error is.

use std::fmt::Display;
use std::io::Write as _;
use std::sync::atomic::{AtomicU8, Ordering};

/// How important a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "eror",
        }
    }

    /// The level of that name; names that are not known, and none, mean `Info`.
    fn named(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "debug" | "trace" => Self::Debug,
            "warn" | "warning" => Self::Warn,
            "error" | "eror" | "crit" => Self::Error,
            _ => Self::Info,
        }
    }
}

static LEAST: AtomicU8 = AtomicU8::new(Level::Info as u8);

/// Lines below this level are left out from now on.
pub(crate) fn set_level(name: &str) {
    LEAST.store(Level::named(name) as u8, Ordering::Relaxed);
}

/// Writes one line in the format of the daemon's own lines in the init log.
pub(crate) fn write(level: Level, message: impl Display) {
    if level as u8 >= LEAST.load(Ordering::Relaxed) {
        say(line(level, &message.to_string()));
    }
}

fn line(level: Level, message: &str) -> String {
    format!("lvl={} msg={message:?} component=flynn-init", level.name())
}

/// Writes one line as it is. Nobody is told when that fails: there is no other place.
pub(crate) fn say(line: impl Display) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stays_on_its_line() {
        assert_eq!(line(Level::Warn, "a \"b\"\nc"), r#"lvl=warn msg="a \"b\"\nc" component=flynn-init"#);
    }

    #[test]
    fn levels_are_known_by_the_names_of_the_daemon() {
        for (name, level) in [("debug", Level::Debug), ("", Level::Info), ("WARN", Level::Warn), ("crit", Level::Error)]
        {
            assert_eq!(Level::named(name), level, "{name}");
        }
    }
}
