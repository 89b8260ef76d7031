//! The one clock.

use std::time::Instant;

use crate::Time;

/// The wall clock at the start, and a steady one from then on.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    wall: Time,
    begun: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { wall: Time(chrono::Utc::now().timestamp_millis()), begun: Instant::now() }
    }

    pub(super) fn now(self) -> Time {
        self.wall + self.begun.elapsed()
    }
}
