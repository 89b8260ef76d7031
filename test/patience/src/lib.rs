//! How long tests wait for what must come: longer on a machine that is slow.
//!
//! Tests of every layer take their limits from here, so that one variable, [`VARIABLE`], stretches them all: an emulated
//! machine is ten times slower than a real one, and nothing that a test waits for is about speed. Times in which something
//! must *not* happen, and times that the product promises, are no patience: they stay as they are.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// Environment variable: how many times longer than on a usual machine tests wait, a whole number from 1. `script/test-vm`
/// sets it where the guest is emulated.
pub const VARIABLE: &str = "FLYNN_TEST_PATIENCE";

/// How many times longer than usual tests wait here.
///
/// # Panics
///
/// When the variable is set and is no number from 1: a typing mistake must not look like a slow test.
pub fn factor() -> u32 {
    parse(std::env::var(VARIABLE).ok().as_deref())
}

/// So many seconds on a usual machine.
pub fn seconds(usual: u64) -> Duration {
    Duration::from_secs(usual) * factor()
}

/// Looks every `pause` until there is something, for `limit` at most.
///
/// # Panics
///
/// When the limit is over.
pub fn until<T>(what: &str, limit: Duration, pause: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begin.elapsed() < limit, "waited in vain until {what}");
        std::thread::sleep(pause);
    }
}

fn parse(variable: Option<&str>) -> u32 {
    let Some(text) = variable else { return 1 };
    match text.parse() {
        Ok(factor) if factor > 0 => factor,
        _ => panic!("{VARIABLE} is {text:?}, not a whole number from 1"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, parse, until};

    #[test]
    fn patience_is_a_whole_number_from_one() {
        assert_eq!((parse(None), parse(Some("1")), parse(Some("15"))), (1, 1, 15));
        for wrong in ["", "0", "-1", "1.5", "much"] {
            assert!(std::panic::catch_unwind(|| parse(Some(wrong))).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn waiting_ends_with_what_is_seen_or_with_the_limit() {
        let mut looks = 0;
        let third = || {
            looks += 1;
            (looks == 3).then_some(looks)
        };
        assert_eq!(until("the third look", Duration::from_secs(60), Duration::ZERO, third), 3);
        let never = || until("never", Duration::ZERO, Duration::ZERO, || None::<()>);
        assert!(std::panic::catch_unwind(never).is_err());
    }
}
