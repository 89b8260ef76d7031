//! Times and durations as Go's JSON writes them.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// How Go writes a time that was never set.
const UNSET: &str = "0001-01-01T00:00:00Z";

/// A time that may be unset: RFC 3339 with as many fractional digits as needed, `0001-01-01T00:00:00Z` when unset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoTime(pub Option<DateTime<Utc>>);

impl GoTime {
    pub const UNSET: Self = Self(None);

    pub fn is_set(self) -> bool {
        self.0.is_some()
    }
}

impl From<DateTime<Utc>> for GoTime {
    fn from(time: DateTime<Utc>) -> Self {
        Self(Some(time))
    }
}

impl fmt::Display for GoTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(time) = self.0 else { return f.write_str(UNSET) };
        let nanos = time.to_rfc3339_opts(SecondsFormat::Nanos, true);
        // Go's RFC3339Nano drops trailing zeros, and the point when nothing is left behind it.
        let digits = nanos.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
        write!(f, "{digits}Z")
    }
}

impl Serialize for GoTime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoTime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(Self::UNSET) };
        if text == UNSET {
            return Ok(Self::UNSET);
        }
        let time = DateTime::parse_from_rfc3339(&text).map_err(serde::de::Error::custom)?;
        Ok(Self(Some(time.with_timezone(&Utc))))
    }
}

/// Durations as integer nanoseconds, omitted when zero by the containing field's attributes:
/// `#[serde(with = "time::nanos", default, skip_serializing_if = "Option::is_none")]`.
pub mod nanos {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        let nanos = value.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX));
        serializer.serialize_i64(nanos)
    }

    /// Negative values, which Go accepts and never means, count as unset.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let nanos = Option::<i64>::deserialize(deserializer)?.unwrap_or(0);
        Ok(u64::try_from(nanos).ok().filter(|n| *n > 0).map(Duration::from_nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone;

    #[test]
    fn times_are_written_as_go_writes_them() {
        let at = |nanos| GoTime::from(Utc.timestamp_opt(1_777_629_600, nanos).unwrap());
        for (time, text) in [
            (GoTime::UNSET, "0001-01-01T00:00:00Z"),
            (at(0), "2026-05-01T10:00:00Z"),
            (at(100_000_000), "2026-05-01T10:00:00.1Z"),
            (at(123_456_789), "2026-05-01T10:00:00.123456789Z"),
        ] {
            assert_eq!(serde_json::to_string(&time).unwrap(), format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<GoTime>(&format!("\"{text}\"")).unwrap(), time);
        }
    }
}
