//! What a cgroup used, read from its files.

use std::io;
use std::path::{Path, PathBuf};

use super::hierarchy::Hierarchies;

/// Amounts since the cgroup was made, and now. Bytes and nanoseconds. Limits are 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu_nanos: u64,
    pub(crate) throttled_periods: u64,
    pub(crate) throttled_nanos: u64,
    pub(crate) memory: u64,
    pub(crate) memory_limit: u64,
    pub(crate) memory_max: u64,
    pub(crate) memory_cache: u64,
    pub(crate) memory_rss: u64,
    pub(crate) io_read: u64,
    pub(crate) io_written: u64,
    pub(crate) pids: u64,
    pub(crate) pids_limit: u64,
}

impl Usage {
    pub(super) fn read(hierarchies: &Hierarchies, cgroup: &str) -> io::Result<Self> {
        let directory = |controller| hierarchies.directory(controller, cgroup).unwrap_or_default();
        let pids = directory("pids");
        let usage = match hierarchies {
            Hierarchies::V1 { .. } => {
                Self::v1(&directory("cpuacct"), &directory("cpu"), &directory("memory"), &directory("blkio"))?
            }
            Hierarchies::V2(_) => Self::v2(&directory("memory"))?,
        };
        Ok(Self { pids: number(&pids, "pids.current"), pids_limit: number(&pids, "pids.max"), ..usage })
    }

    fn v1(cpuacct: &Path, cpu: &Path, memory: &Path, blkio: &Path) -> io::Result<Self> {
        std::fs::metadata(memory)?;
        let stat = KeyedFile::read(cpu.join("cpu.stat"));
        let memory_stat = KeyedFile::read(memory.join("memory.stat"));
        let bytes =
            std::fs::read_to_string(blkio.join("blkio.throttle.io_service_bytes_recursive")).unwrap_or_default();
        let limit = number(memory, "memory.limit_in_bytes");
        Ok(Self {
            cpu_nanos: number(cpuacct, "cpuacct.usage"),
            throttled_periods: stat.get("nr_throttled"),
            throttled_nanos: stat.get("throttled_time"),
            memory: number(memory, "memory.usage_in_bytes"),
            // "No limit" is the largest number of whole pages.
            memory_limit: if limit > i64::MAX as u64 - (1 << 20) { 0 } else { limit },
            memory_max: number(memory, "memory.max_usage_in_bytes"),
            memory_cache: memory_stat.get("total_cache"),
            memory_rss: memory_stat.get("total_rss"),
            io_read: sum_of_devices(&bytes, "Read"),
            io_written: sum_of_devices(&bytes, "Write"),
            ..Self::default()
        })
    }

    fn v2(directory: &Path) -> io::Result<Self> {
        std::fs::metadata(directory)?;
        let cpu = KeyedFile::read(directory.join("cpu.stat"));
        let memory = KeyedFile::read(directory.join("memory.stat"));
        let io = std::fs::read_to_string(directory.join("io.stat")).unwrap_or_default();
        Ok(Self {
            cpu_nanos: cpu.get("usage_usec") * 1000,
            throttled_periods: cpu.get("nr_throttled"),
            throttled_nanos: cpu.get("throttled_usec") * 1000,
            memory: number(directory, "memory.current"),
            memory_limit: number(directory, "memory.max"),
            memory_max: number(directory, "memory.peak"),
            memory_cache: memory.get("file"),
            memory_rss: memory.get("anon"),
            io_read: sum_of_keys(&io, "rbytes="),
            io_written: sum_of_keys(&io, "wbytes="),
            ..Self::default()
        })
    }
}

/// The number in a file; 0 for `max` and for files that are missing.
fn number(directory: &Path, file: &str) -> u64 {
    let content = std::fs::read_to_string(directory.join(file)).unwrap_or_default();
    content.trim().parse().unwrap_or(0)
}

/// A file of lines `key value`.
struct KeyedFile(String);

impl KeyedFile {
    fn read(path: PathBuf) -> Self {
        Self(std::fs::read_to_string(path).unwrap_or_default())
    }

    fn get(&self, key: &str) -> u64 {
        let value = self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    }
}

/// Version 1: lines `8:0 Read 4096`.
fn sum_of_devices(text: &str, operation: &str) -> u64 {
    let amounts = text.lines().filter_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [_, own, bytes] if own == operation => bytes.parse::<u64>().ok(),
        _ => None,
    });
    amounts.sum()
}

/// Version 2: lines `8:0 rbytes=4096 wbytes=0 …`.
fn sum_of_keys(text: &str, key: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_and_output_are_summed_over_devices() {
        let v1 = "8:0 Read 4096\n8:0 Write 1\n8:16 Read 4\n8:16 Total 5\nTotal 4101\n";
        assert_eq!((sum_of_devices(v1, "Read"), sum_of_devices(v1, "Write")), (4100, 1));
        let v2 = "8:0 rbytes=4096 wbytes=1 rios=2\n8:16 rbytes=4 wbytes=0\n";
        assert_eq!((sum_of_keys(v2, "rbytes="), sum_of_keys(v2, "wbytes=")), (4100, 1));
    }

    #[test]
    fn keys_are_whole_words() {
        let file = KeyedFile("usage_usec_x 1\nusage_usec 22\n".into());
        assert_eq!((file.get("usage_usec"), file.get("nothing")), (22, 0));
    }
}
