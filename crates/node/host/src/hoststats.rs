//! Statistics of the machine, read from `/proc` and `statfs`.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use flynn_types::host::HostStats;

/// Busy and total clock ticks of all cores since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CpuTicks {
    busy: u64,
    total: u64,
}

/// Remembers the last reading, so that the next one can give a rate.
#[derive(Debug, Default)]
pub(crate) struct HostMeter {
    last: Mutex<CpuTicks>,
}

impl HostMeter {
    /// Reads the machine's figures; those that cannot be read stay zero.
    pub(crate) fn read(&self, disk: &Path) -> HostStats {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let mut stats = HostStats::default();
        memory(&text("/proc/meminfo"), &mut stats);
        load(&text("/proc/loadavg"), &mut stats);
        network(&text("/proc/net/dev"), &mut stats);
        stats.uptime_seconds = text("/proc/uptime").split(['.', ' ']).next().and_then(|s| s.parse().ok()).unwrap_or(0);
        let (ticks, cores) = cpu(&text("/proc/stat"));
        stats.cpu_count = cores;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        stats.cpu_usage_percent = percent(*last, ticks);
        *last = ticks;
        drop(last);
        // The folder may not have been made yet.
        if let Some(fs) = disk.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok()) {
            stats.disk_total_bytes = fs.f_blocks * fs.f_frsize;
            stats.disk_free_bytes = fs.f_bavail * fs.f_frsize;
            stats.disk_used_bytes = stats.disk_total_bytes.saturating_sub(fs.f_bfree * fs.f_frsize);
        }
        stats
    }
}

/// Share of busy time between two readings, of all cores together.
fn percent(before: CpuTicks, after: CpuTicks) -> f64 {
    let (busy, total) = (after.busy.saturating_sub(before.busy), after.total.saturating_sub(before.total));
    if total == 0 { 0.0 } else { busy as f64 * 100.0 / total as f64 }
}

/// proc(5), `/proc/stat`: user nice system idle iowait irq softirq steal, and one `cpuN` line per core.
fn cpu(stat: &str) -> (CpuTicks, u32) {
    let mut ticks = CpuTicks::default();
    let mut cores = 0;
    for line in stat.lines().filter(|line| line.starts_with("cpu")) {
        let mut fields = line.split_whitespace();
        if fields.next() != Some("cpu") {
            cores += 1;
            continue;
        }
        let numbers: Vec<u64> = fields.take(8).filter_map(|n| n.parse().ok()).collect();
        ticks.total = numbers.iter().sum();
        ticks.busy = ticks.total - numbers.get(3..5).map_or(0, |idle| idle.iter().sum());
    }
    (ticks, cores)
}

fn memory(meminfo: &str, stats: &mut HostStats) {
    for line in meminfo.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let kib: u64 = value.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let field = match key {
            "MemTotal" => &mut stats.memory_total_bytes,
            "MemAvailable" => &mut stats.memory_available_bytes,
            "MemFree" => &mut stats.memory_free_bytes,
            "Cached" => &mut stats.memory_cached_bytes,
            "Buffers" => &mut stats.memory_buffers_bytes,
            _ => continue,
        };
        *field = kib * 1024;
    }
    stats.memory_used_bytes = stats.memory_total_bytes.saturating_sub(stats.memory_available_bytes);
}

fn load(loadavg: &str, stats: &mut HostStats) {
    let mut numbers = loadavg.split_whitespace().map(|n| n.parse().unwrap_or(0.0));
    let mut next = || numbers.next().unwrap_or(0.0);
    (stats.load_avg_1, stats.load_avg_5, stats.load_avg_15) = (next(), next(), next());
}

/// All interfaces but loopback. Columns: bytes, packets and six more received, then the same sent.
fn network(dev: &str, stats: &mut HostStats) {
    for line in dev.lines() {
        let Some((name, values)) = line.split_once(':') else { continue };
        if name.trim() == "lo" {
            continue;
        }
        let values: Vec<u64> = values.split_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
        let at = |index: usize| values.get(index).copied().unwrap_or(0);
        stats.network_rx_bytes += at(0);
        stats.network_rx_packets += at(1);
        stats.network_tx_bytes += at(8);
        stats.network_tx_packets += at(9);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_use_is_a_rate_between_two_readings() {
        let (before, cores) = cpu("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 2 3\ncpu1 1 2 3\nintr 5\n");
        let (after, _) = cpu("cpu  150 0 100 850 0 0 0 0 0 0\n");
        assert_eq!((cores, percent(before, after), percent(after, after)), (2, 50.0, 0.0));
    }

    #[test]
    fn interfaces_are_summed_without_loopback() {
        let mut stats = HostStats::default();
        network(
            "head|er\n lo: 9 9 0 0 0 0 0 0 9 9\neth0: 10 2 0 0 0 0 0 0 30 4\neth1: 1 1 0 0 0 0 0 0 1 1\n",
            &mut stats,
        );
        assert_eq!((stats.network_rx_bytes, stats.network_tx_bytes, stats.network_tx_packets), (11, 31, 5));
    }

    #[test]
    fn the_machine_has_memory_and_cores() {
        let stats = HostMeter::default().read(Path::new("/"));
        assert!(
            stats.memory_total_bytes > stats.memory_used_bytes && stats.cpu_count > 0 && stats.disk_total_bytes > 0
        );
    }
}
