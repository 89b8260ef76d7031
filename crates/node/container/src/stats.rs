//! What a container uses.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use flynn_types::host::JobStats;
use flynn_types::time::GoTime;

use crate::bundle::{self, SupervisorConfig};
use crate::cgroup::Usage;
use crate::runtime::Runtime;

/// Why a container's use is unknown.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    #[error("no container belongs to {}", .0.display())]
    NoContainer(PathBuf),
    #[error("read the cgroup of {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Traffic of a network namespace, without its loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Traffic {
    rx_bytes: u64,
    rx_packets: u64,
    tx_bytes: u64,
    tx_packets: u64,
}

impl Runtime {
    /// Reads what the container of `run_dir` uses; takes a fraction of a millisecond.
    pub fn stats(&self, run_dir: &Path) -> Result<JobStats, StatsError> {
        let (config, usage) = self.usage(run_dir)?;
        let traffic = if config.host_network { Traffic::default() } else { traffic_of(run_dir) };
        Ok(JobStats {
            job_id: config.container_id,
            timestamp: now(),
            cpu_usage_nanoseconds: usage.cpu_nanos,
            cpu_usage_percent: Some(self.cpu_percent(run_dir, &usage)),
            cpu_throttled_periods: usage.throttled_periods,
            cpu_throttled_time_ns: usage.throttled_nanos,
            memory_usage_bytes: usage.memory,
            memory_limit_bytes: usage.memory_limit,
            memory_max_usage_bytes: usage.memory_max,
            memory_cache_bytes: usage.memory_cache,
            memory_rss_bytes: usage.memory_rss,
            network_rx_bytes: traffic.rx_bytes,
            network_tx_bytes: traffic.tx_bytes,
            network_rx_packets: traffic.rx_packets,
            network_tx_packets: traffic.tx_packets,
            io_read_bytes: usage.io_read,
            io_write_bytes: usage.io_written,
            pids_current: usage.pids,
            pids_limit: usage.pids_limit,
        })
    }

    /// Memory in use that the kernel cannot take back, and the limit, in bytes.
    pub fn memory(&self, run_dir: &Path) -> Result<(u64, u64), StatsError> {
        let (_, usage) = self.usage(run_dir)?;
        Ok((usage.memory.saturating_sub(usage.memory_cache), usage.memory_limit))
    }

    fn usage(&self, run_dir: &Path) -> Result<(SupervisorConfig, Usage), StatsError> {
        let config = bundle::load(run_dir).map_err(|_| StatsError::NoContainer(run_dir.to_owned()))?;
        let usage = self.inner.cgroups.usage(&config.cgroup).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StatsError::NoContainer(run_dir.to_owned()),
            _ => StatsError::Read { path: run_dir.to_owned(), source },
        })?;
        Ok((config, usage))
    }

    /// Processor time since the previous call, in percent of one core; 0 the first time.
    fn cpu_percent(&self, run_dir: &Path, usage: &Usage) -> f64 {
        let now = Instant::now();
        let Ok(mut before) = self.inner.cpu_before.lock() else { return 0.0 };
        match before.insert(run_dir.to_owned(), (usage.cpu_nanos, now)) {
            Some((nanos, then)) => percent(usage.cpu_nanos.saturating_sub(nanos), now - then),
            None => 0.0,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "percentages need no more than 52 bits")]
fn percent(used_nanos: u64, elapsed: std::time::Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { used_nanos as f64 / elapsed.as_nanos() as f64 * 100.0 }
}

fn now() -> GoTime {
    GoTime(Some(chrono::DateTime::<chrono::Utc>::from(SystemTime::now())))
}

fn traffic_of(run_dir: &Path) -> Traffic {
    let pid = std::fs::read_to_string(run_dir.join(bundle::CONTAINER_PID)).unwrap_or_default();
    let Ok(pid) = pid.trim().parse::<i32>() else { return Traffic::default() };
    parse_traffic(&std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
}

/// Sums the lines of `/proc/<pid>/net/dev`: 16 counters per interface, receiving first.
fn parse_traffic(text: &str) -> Traffic {
    let mut sum = Traffic::default();
    for (name, counters) in text.lines().filter_map(|line| line.split_once(':')) {
        let counters: Vec<u64> = counters.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        if let [rx_bytes, rx_packets, _, _, _, _, _, _, tx_bytes, tx_packets, ..] = counters[..]
            && name.trim() != "lo"
        {
            sum.rx_bytes += rx_bytes;
            sum.rx_packets += rx_packets;
            sum.tx_bytes += tx_bytes;
            sum.tx_packets += tx_packets;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn traffic_of_loopback_is_not_counted() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
            \x20   lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  eth0:100 2 0 0 0 0 0 0 300 4 0 0 0 0 0 0\n";
        assert_eq!(parse_traffic(text), Traffic { rx_bytes: 100, rx_packets: 2, tx_bytes: 300, tx_packets: 4 });
    }

    #[test]
    fn percentages_are_of_one_core() {
        assert!((percent(500_000_000, Duration::from_secs(1)) - 50.0).abs() < 1e-9);
        assert!(percent(1, Duration::ZERO).abs() < 1e-9);
    }
}
