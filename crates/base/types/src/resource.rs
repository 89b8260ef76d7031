//! What a job may use, and its textual form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Kinds of resources that the platform limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceType {
    /// Bytes; the limit is hard.
    Memory,
    /// Thousandths of a core; a relative weight.
    Cpu,
    /// Bytes of the writable layer.
    TempDisk,
    /// Open files of a process.
    MaxFd,
    /// Processes of a user id.
    MaxProcs,
    /// A kind of a newer client: kept out of the way.
    #[serde(other)]
    Unknown,
}

impl ResourceType {
    pub const KNOWN: [Self; 5] = [Self::Memory, Self::Cpu, Self::TempDisk, Self::MaxFd, Self::MaxProcs];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::TempDisk => "temp_disk",
            Self::MaxFd => "max_fd",
            Self::MaxProcs => "max_procs",
            Self::Unknown => "unknown",
        }
    }

    /// Limit of a job that names none (spec flynn-host section 9.1).
    pub fn default_limit(self) -> Option<i64> {
        match self {
            Self::Memory => Some(1 << 30),
            Self::Cpu => Some(1000),
            Self::TempDisk => Some(100 << 20),
            Self::MaxFd => Some(10_000),
            Self::MaxProcs | Self::Unknown => None,
        }
    }
}

/// Request and limit of one resource; either may be `null`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resource {
    pub request: Option<i64>,
    pub limit: Option<i64>,
}

/// Resources of a job by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Resources(pub BTreeMap<ResourceType, Resource>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidResource {
    #[error("invalid resource limit: {0:?}")]
    Limit(String),
    #[error("invalid resource limit type: [{0}]")]
    Type(String),
    #[error("invalid resource limit value: {0:?}")]
    Value(String),
}

impl Resources {
    pub fn limit(&self, kind: ResourceType) -> Option<i64> {
        self.0.get(&kind)?.limit
    }

    pub fn set_limit(&mut self, kind: ResourceType, limit: i64) {
        self.0.entry(kind).or_default().limit = Some(limit);
    }

    /// A missing limit becomes the default one, a missing request the limit.
    pub fn fill_defaults(&mut self) {
        for kind in ResourceType::KNOWN {
            let Some(default) = kind.default_limit() else { continue };
            let resource = self.0.entry(kind).or_default();
            let limit = *resource.limit.get_or_insert(default);
            resource.request.get_or_insert(limit);
        }
    }

    /// Parses `type=value[,type=value…]`, for example `memory=512MB,cpu=500`.
    pub fn parse(text: &str) -> Result<Self, InvalidResource> {
        let mut resources = Self::default();
        for item in text.split(',').filter(|item| !item.is_empty()) {
            let (name, value) = item.split_once('=').ok_or_else(|| InvalidResource::Limit(item.to_owned()))?;
            let kind = ResourceType::KNOWN
                .into_iter()
                .find(|kind| kind.as_str() == name)
                .ok_or_else(|| InvalidResource::Type(name.to_owned()))?;
            resources.set_limit(kind, parse_value(kind, value)?);
        }
        Ok(resources)
    }
}

/// Parses a limit: binary units for memory and disk (`512MB`, `2G`), decimal SI prefixes for counts (`10k`).
pub fn parse_value(kind: ResourceType, text: &str) -> Result<i64, InvalidResource> {
    let invalid = || InvalidResource::Value(text.to_owned());
    let binary = matches!(kind, ResourceType::Memory | ResourceType::TempDisk);
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let unit = if binary { unit.strip_suffix('b').unwrap_or(unit) } else { unit };
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    let power = match unit.trim() {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(invalid()),
    };
    if power == 0 {
        return number.parse::<i64>().map_err(|_| invalid());
    }
    let value = number.parse::<f64>().map_err(|_| invalid())? * base.powi(power);
    if value.is_finite() && value < 9.0e18 { Ok(value as i64) } else { Err(invalid()) }
}

/// Prints a limit as people read it: up to 4 significant digits and a binary unit for sizes.
pub fn format_value(kind: ResourceType, value: i64) -> String {
    if !matches!(kind, ResourceType::Memory | ResourceType::TempDisk) {
        return value.to_string();
    }
    let mut scaled = value as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB", "PB"] {
        if scaled.abs() < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        unit = next;
    }
    let decimals = match scaled.abs() {
        x if x >= 1000.0 => 0,
        x if x >= 100.0 => 1,
        x if x >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{scaled:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_and_counts_decimal() {
        for (kind, text, value) in [
            (ResourceType::Memory, "512MB", 512 << 20),
            (ResourceType::Memory, "2G", 2 << 30),
            (ResourceType::TempDisk, "1.5k", 1536),
            (ResourceType::Memory, "1073741824", 1 << 30),
            (ResourceType::Cpu, "2k", 2000),
            (ResourceType::MaxFd, "10000", 10_000),
        ] {
            assert_eq!(parse_value(kind, text), Ok(value), "{text}");
        }
    }

    #[test]
    fn bad_limits_say_which_part_is_wrong() {
        for (text, message) in [
            ("memory", "invalid resource limit: \"memory\""),
            ("colour=1", "invalid resource limit type: [colour]"),
            ("memory=lots", "invalid resource limit value: \"lots\""),
            ("cpu=", "invalid resource limit value: \"\""),
        ] {
            assert_eq!(Resources::parse(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn limits_print_as_people_read_them() {
        for (value, text) in [(1 << 30, "1GB"), (100 << 20, "100MB"), (1536, "1.5kB"), (1000, "1000B"), (0, "0B")] {
            assert_eq!(format_value(ResourceType::Memory, value), text);
        }
    }

    #[test]
    fn defaults_fill_limits_first_and_requests_from_limits() {
        let mut resources = Resources::parse("memory=1k").unwrap();
        resources.fill_defaults();
        assert_eq!(resources.0[&ResourceType::Memory], Resource { request: Some(1024), limit: Some(1024) });
        assert_eq!(resources.limit(ResourceType::Cpu), Some(1000));
        assert!(!resources.0.contains_key(&ResourceType::MaxProcs));
    }
}
