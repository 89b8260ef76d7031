//! Statistics of a host and its jobs. Sizes are bytes, times nanoseconds.

use serde::{Deserialize, Serialize};

use crate::time::GoTime;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobStats {
    pub job_id: String,
    pub timestamp: GoTime,
    pub cpu_usage_nanoseconds: u64,
    /// Of one core, since the previous call; absent on the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_usage_percent: Option<f64>,
    pub cpu_throttled_periods: u64,
    pub cpu_throttled_time_ns: u64,
    pub memory_usage_bytes: u64,
    pub memory_limit_bytes: u64,
    pub memory_max_usage_bytes: u64,
    pub memory_cache_bytes: u64,
    pub memory_rss_bytes: u64,
    pub network_rx_bytes: u64,
    pub network_tx_bytes: u64,
    pub network_rx_packets: u64,
    pub network_tx_packets: u64,
    pub io_read_bytes: u64,
    pub io_write_bytes: u64,
    pub pids_current: u64,
    pub pids_limit: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobsStats {
    pub host_id: String,
    pub timestamp: GoTime,
    pub jobs: Vec<JobStats>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostStats {
    pub host_id: String,
    pub timestamp: GoTime,
    pub cpu_usage_percent: f64,
    pub cpu_count: u32,
    pub memory_total_bytes: u64,
    /// Total less available.
    pub memory_used_bytes: u64,
    pub memory_available_bytes: u64,
    pub memory_free_bytes: u64,
    pub memory_cached_bytes: u64,
    pub memory_buffers_bytes: u64,
    pub disk_total_bytes: u64,
    pub disk_used_bytes: u64,
    pub disk_free_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zpool_total_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zpool_used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zpool_free_bytes: Option<u64>,
    pub network_rx_bytes: u64,
    pub network_tx_bytes: u64,
    pub network_rx_packets: u64,
    pub network_tx_packets: u64,
    pub load_avg_1: f64,
    pub load_avg_5: f64,
    pub load_avg_15: f64,
    pub uptime_seconds: u64,
    pub running_jobs_count: u32,
    pub total_jobs_count: u32,
}
