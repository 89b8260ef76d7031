//! Which devices a container has and may use (spec flynn-host section 6.3).

use flynn_types::host::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::InvalidSpec;
use crate::profile::Granted;
use crate::spec::ContainerSpec;

/// One entry of the list of allowed devices; everything else is denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceRule {
    /// `c` or `b`; `a` for both.
    pub(crate) kind: char,
    /// `None` means any.
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    /// Some of `rwm`.
    pub(crate) access: String,
}

impl DeviceRule {
    fn new(kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> Self {
        Self { kind, major, minor, access: access.into() }
    }

    fn of(device: &Device) -> Option<Self> {
        let number = |number: i64| u32::try_from(number).ok(); // -1 means any
        let kind = kind(device).filter(|_| device.allow)?;
        let access: String = "rwm".chars().filter(|right| device.permissions.contains(*right)).collect();
        (!access.is_empty()).then(|| Self { kind, major: number(device.major), minor: number(device.minor), access })
    }

    /// As `devices.allow` of cgroup version 1 takes it.
    pub(crate) fn line(&self) -> String {
        let number = |number: Option<u32>| number.map_or_else(|| "*".into(), |number| number.to_string());
        format!("{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.access)
    }
}

fn kind(device: &Device) -> Option<char> {
    char::from_u32(device.kind).filter(|kind| matches!(kind, 'a' | 'b' | 'c'))
}

/// Without these no program runs: null, zero, full, random, urandom, tty, console, the terminal multiplexer and its
/// terminals. The console can be made, for programs that look for it, but it is the host's: nothing may open it.
fn essential() -> impl Iterator<Item = DeviceRule> {
    let memory = [3, 5, 7, 8, 9].map(|minor| DeviceRule::new('c', Some(1), Some(minor), "rwm"));
    let terminals = [
        DeviceRule::new('c', Some(5), Some(0), "rwm"),
        DeviceRule::new('c', Some(5), Some(1), "m"),
        DeviceRule::new('c', Some(5), Some(2), "rwm"),
        DeviceRule::new('c', Some(136), None, "rwm"),
    ];
    memory.into_iter().chain(terminals)
}

/// The list of allowed devices.
pub(crate) fn device_rules(spec: &ContainerSpec, granted: &Granted) -> Vec<DeviceRule> {
    let mut rules: Vec<DeviceRule> = essential().collect();
    match &spec.allowed_devices {
        Some(exactly) => rules.extend(exactly.iter().filter_map(DeviceRule::of)),
        None => {
            if spec.system || spec.builder {
                // Whoever unpacks images makes nodes; without the right to open them they are names.
                rules.extend(['c', 'b'].map(|kind| DeviceRule::new(kind, None, None, "m")));
            }
            if spec.system {
                rules.push(DeviceRule::new('c', Some(5), Some(1), "rwm"));
                rules.push(DeviceRule::new('c', Some(10), Some(200), "rwm"));
            }
        }
    }
    rules.extend(granted.devices.iter().chain(&granted.allowed).filter_map(DeviceRule::of));
    rules
}

/// Device nodes made in the container's `/dev`, besides those that every runtime makes.
pub(super) fn created(spec: &ContainerSpec, granted: &Granted) -> Result<Vec<Value>, InvalidSpec> {
    let console = Device { kind: 'c'.into(), path: "/dev/console".into(), major: 5, minor: 1, ..Device::default() };
    let asked = match &spec.created_devices {
        Some(exactly) => exactly.clone(),
        None => vec![console],
    };
    let mut nodes: Vec<Value> = Vec::new();
    for device in asked.iter().chain(&granted.devices).filter(|device| !device.path.is_empty()) {
        let Some(kind) = kind(device).filter(|kind| *kind != 'a') else { continue };
        let path = std::path::Path::new(&device.path);
        let plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
        if !path.starts_with("/dev") || !plain {
            return Err(InvalidSpec::DevicePath(device.path.clone()));
        }
        if device.major < 0 || device.minor < 0 || nodes.iter().any(|node| node["path"] == device.path.as_str()) {
            continue;
        }
        nodes.push(json!({
            "path": device.path,
            "type": kind.to_string(),
            "major": device.major,
            "minor": device.minor,
            "fileMode": device.file_mode & 0o777,
            "uid": device.uid,
            "gid": device.gid,
        }));
    }
    Ok(nodes)
}
