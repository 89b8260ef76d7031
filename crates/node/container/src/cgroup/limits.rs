//! What a container's limits are, line by line. Pure.

use super::hierarchy::Hierarchies;
use crate::bundle::CgroupWrite;
use crate::oci::DeviceRule;
use crate::spec::Limits;

/// Weight on cgroup version 2 of cpu shares: linear from 2..=262144 to 1..=10000, so that 1024 shares are 39 (spec
/// flynn-host section 9.2).
pub(crate) fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

pub(super) fn writes(
    hierarchies: &Hierarchies,
    cgroup: &str,
    limits: &Limits,
    rules: &[DeviceRule],
) -> Vec<CgroupWrite> {
    let mut writes = Vec::new();
    let mut write = |controller: &str, file: &str, value: String, purpose: Option<&str>| {
        if let Some(directory) = hierarchies.directory(controller, cgroup) {
            writes.push(CgroupWrite { file: directory.join(file), value, purpose: purpose.map(str::to_owned) });
        }
    };
    let memory = (limits.memory_bytes > 0).then(|| limits.memory_bytes.to_string());
    let memory_purpose = memory.as_ref().map(|bytes| format!("limit the job's memory to {bytes} bytes"));
    match hierarchies {
        Hierarchies::V1 { .. } => {
            if let Some(bytes) = memory {
                write("memory", "memory.limit_in_bytes", bytes.clone(), memory_purpose.as_deref());
                // Memory and swap together; missing where the kernel does not account swap.
                write("memory", "memory.memsw.limit_in_bytes", bytes, None);
            }
            if let Some(shares) = limits.cpu_shares {
                write("cpu", "cpu.shares", shares.clamp(2, 262_144).to_string(), None);
            }
            const PURPOSE: Option<&str> = Some("restrict the job's devices");
            write("devices", "devices.deny", "a".into(), PURPOSE);
            for rule in rules {
                write("devices", "devices.allow", rule.line(), PURPOSE);
            }
        }
        Hierarchies::V2(_) => {
            if let Some(bytes) = memory {
                write("memory", "memory.max", bytes, memory_purpose.as_deref());
                write("memory", "memory.swap.max", "0".into(), None);
            }
            if let Some(shares) = limits.cpu_shares {
                write("cpu", "cpu.weight", cpu_weight(shares).to_string(), None);
            }
        }
    }
    writes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(hierarchies: &Hierarchies, limits: Limits) -> Vec<(String, String)> {
        let rule = DeviceRule { kind: 'c', major: Some(1), minor: None, access: "rw".into() };
        let writes = writes(hierarchies, "/flynn/user/a", &limits, &[rule]);
        let name = |write: &CgroupWrite| write.file.file_name().unwrap().to_str().unwrap().to_owned();
        writes.iter().map(|write| (name(write), write.value.clone())).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(file, value)| ((*file).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn weights_are_those_of_the_specification() {
        for (shares, weight) in
            [(0, 1), (2, 1), (1024, 39), (4096, 157), (8192, 313), (262_144, 10_000), (u64::MAX, 10_000)]
        {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
    }

    #[test]
    fn version_2_limits_memory_without_swap() {
        let v2 = Hierarchies::V2("/sys/fs/cgroup".into());
        let limits = Limits { memory_bytes: 1 << 20, cpu_shares: Some(1024) };
        let expected = pairs(&[("memory.max", "1048576"), ("memory.swap.max", "0"), ("cpu.weight", "39")]);
        assert_eq!(lines(&v2, limits), expected);
        assert!(lines(&v2, Limits::default()).is_empty());
    }

    #[test]
    fn version_1_denies_all_devices_before_it_allows_some() {
        let hierarchy = |name: &str| super::super::hierarchy::Hierarchy {
            controllers: vec![name.into()],
            mount: format!("/sys/fs/cgroup/{name}").into(),
        };
        let controllers = ["memory", "devices"].map(hierarchy).into();
        let v1 = Hierarchies::V1 { controllers, tracking: vec![] };
        let limits = Limits { memory_bytes: 1 << 20, cpu_shares: Some(1024) };
        let expected = pairs(&[
            ("memory.limit_in_bytes", "1048576"),
            ("memory.memsw.limit_in_bytes", "1048576"),
            ("devices.deny", "a"),
            ("devices.allow", "c 1:* rw"),
        ]);
        assert_eq!(lines(&v1, limits), expected, "cpu is not mounted here");
    }
}
