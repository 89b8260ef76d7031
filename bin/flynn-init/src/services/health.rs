//! When a service counts as up. Pure.

/// What a check's result changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Up,
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Was never up: the first success makes it so.
    Created,
    Up,
    Down,
}

/// The state of a service by the results of its checks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Health {
    threshold: u32,
    state: State,
    /// Results in a row that speak against the state.
    against: u32,
}

impl Health {
    /// `threshold` is how many results in a row change a state that was once up.
    pub(super) fn new(threshold: u32) -> Self {
        Self { threshold, state: State::Created, against: 0 }
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Whether it ever was.
    pub(super) fn was_up(&self) -> bool {
        self.state != State::Created
    }

    pub(super) fn observe(&mut self, success: bool) -> Option<Change> {
        if success == self.is_up() || (!success && self.state == State::Created) {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.state != State::Created && self.against < self.threshold {
            return None;
        }
        self.against = 0;
        let (state, change) = if success { (State::Up, Change::Up) } else { (State::Down, Change::Down) };
        self.state = state;
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `results` are checks: `+` success, `-` failure. Gives what each changed: `U`p, `D`own, `.` nothing.
    fn changes(threshold: u32, results: &str) -> String {
        let mut health = Health::new(threshold);
        let change = |result| match health.observe(result == '+') {
            Some(Change::Up) => 'U',
            Some(Change::Down) => 'D',
            None => '.',
        };
        results.chars().map(change).collect()
    }

    #[test]
    fn results_in_a_row_change_the_state() {
        for (name, threshold, results, expected) in [
            ("never up", 2, "----", "...."),
            ("first success is enough", 2, "--+", "..U"),
            ("one failure is none", 2, "+-+-+", "U...."),
            ("two failures in a row", 2, "+--", "U.D"),
            ("two successes bring it back", 2, "+--+-++", "U.D...U"),
            ("threshold of one", 1, "+-+", "UDU"),
            ("threshold of three", 3, "+--+---", "U.....D"),
        ] {
            assert_eq!(changes(threshold, results), expected, "{name}");
        }
    }
}
