//! Names of hosts, jobs and volumes, valid by construction.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest id that becomes a path name.
pub const MAX_ID_LEN: usize = 128;

/// Names one node in the cluster, for example `host1`. It never contains `-`, so that the first dash of a [`JobId`]
/// separates host and UUID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostId(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHostId {
    #[error("host id must not contain dashes")]
    Dash,
    #[error("host id must not be empty")]
    Empty,
    #[error("host id {0:?} may hold only letters, digits, `_` and `.`, at most 64 of them")]
    Characters(String),
}

impl HostId {
    /// The id of a machine that was given none: its host name without dashes.
    pub fn from_hostname(hostname: &str) -> Result<Self, InvalidHostId> {
        hostname.replace('-', "").parse()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostId {
    type Err = InvalidHostId;

    fn from_str(text: &str) -> Result<Self, InvalidHostId> {
        if text.is_empty() {
            return Err(InvalidHostId::Empty);
        }
        if text.contains('-') {
            return Err(InvalidHostId::Dash);
        }
        let valid = text.len() <= 64
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
        if valid { Ok(Self(text.to_owned())) } else { Err(InvalidHostId::Characters(text.to_owned())) }
    }
}

/// Names one job in the cluster, for example `host1-5f2c6f0e-8f2b-4a3e-9d0a-3f6f3c1f7b11`.
///
/// The part after the first dash is usually a UUID, but existing clients may send any path-safe text, as tests of the
/// Go implementation did.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid job id {0:?}: it must match [A-Za-z0-9][A-Za-z0-9_.-]{{0,127}}")]
pub struct InvalidJobId(pub String);

impl JobId {
    /// The id of the job `unique` on `host`.
    pub fn new(host: &HostId, unique: uuid::Uuid) -> Self {
        Self(format!("{host}-{unique}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What makes it unique, where that is a UUID.
    pub fn uuid(&self) -> Option<uuid::Uuid> {
        self.0.split_once('-')?.1.parse().ok()
    }

    /// The host's part: everything before the first dash, if there is one with something on both sides.
    pub fn host(&self) -> Option<&str> {
        match self.0.split_once('-') {
            Some((host, rest)) if !host.is_empty() && !rest.is_empty() => Some(host),
            _ => None,
        }
    }

    /// What the job's container is called: the part after the first dash (the whole id if there is none), at most 64
    /// characters, the limit of the kernel's host names.
    pub fn hostname(&self) -> &str {
        let name = match self.0.split_once('-') {
            Some((_, rest)) if !rest.is_empty() => rest,
            _ => &self.0,
        };
        &name[..name.len().min(64)] // ids are ASCII
    }
}

impl FromStr for JobId {
    type Err = InvalidJobId;

    fn from_str(text: &str) -> Result<Self, InvalidJobId> {
        if is_path_safe(text) { Ok(Self(text.to_owned())) } else { Err(InvalidJobId(text.to_owned())) }
    }
}

/// Whether `text` may name a directory entry: `[A-Za-z0-9][A-Za-z0-9_.-]{0,127}`.
pub fn is_path_safe(text: &str) -> bool {
    text.len() <= MAX_ID_LEN
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

macro_rules! string_id {
    ($name:ident, $error:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = $error;
            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}
string_id!(HostId, InvalidHostId);
string_id!(JobId, InvalidJobId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_ids_hold_no_dash() {
        assert_eq!("a-b".parse::<HostId>().unwrap_err().to_string(), "host id must not contain dashes");
        assert_eq!(HostId::from_hostname("ip-10-0-0-1").unwrap().as_str(), "ip10001");
        for bad in ["", "a/b", "..", "a b", "-"] {
            assert!(bad.parse::<HostId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn job_ids_are_safe_as_path_names() {
        for good in ["host1-5f2c6f0e-8f2b-4a3e-9d0a-3f6f3c1f7b11", "a", "a_b.c-d"] {
            assert!(good.parse::<JobId>().is_ok(), "{good:?}");
        }
        for bad in ["", "..", "a/b", "/etc", "a\0b", "-a", ".a", "ä", &"a".repeat(129)] {
            assert!(bad.parse::<JobId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_hostname_is_the_part_after_the_first_dash() {
        let id: JobId = "host1-5f2c6f0e-8f2b-4a3e-9d0a-3f6f3c1f7b11".parse().unwrap();
        assert_eq!((id.host(), id.hostname()), (Some("host1"), "5f2c6f0e-8f2b-4a3e-9d0a-3f6f3c1f7b11"));
        let id: JobId = "single".parse().unwrap();
        assert_eq!((id.host(), id.hostname()), (None, "single"));
        let id: JobId = format!("h-{}", "x".repeat(100)).parse().unwrap();
        assert_eq!(id.hostname().len(), 64);
    }
}
