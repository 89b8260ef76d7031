//! The scheduler's time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use flynn_types::time::GoTime;

/// Milliseconds since the Unix epoch: the wall clock when the scheduler started, and from then on what a steady clock
/// counted. It never jumps and never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

impl Time {
    /// What a host or the controller wrote down; unset is the epoch.
    pub fn from_wire(time: GoTime) -> Self {
        Self(time.0.map_or(0, |time| time.timestamp_millis()))
    }

    pub fn to_wire(self) -> GoTime {
        GoTime(DateTime::<Utc>::from_timestamp_millis(self.0))
    }

    /// How much later this is than `earlier`; nothing when it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl std::ops::Add<Duration> for Time {
    type Output = Self;

    fn add(self, after: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(after.as_millis()).unwrap_or(i64::MAX)))
    }
}
