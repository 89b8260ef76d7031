//! The usual metrics of a process, read when they are asked for (proc(5)).

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug)]
pub(crate) struct Process {
    /// Seconds since 1970.
    started: f64,
}

/// What `/proc/self/stat` says, in seconds and bytes.
struct Usage {
    cpu_seconds: f64,
    resident_bytes: u64,
}

impl Process {
    pub(crate) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: now.as_secs_f64() }
    }
}

/// Parses `/proc/self/stat`; the second field may hold spaces and brackets.
fn usage(stat: &str) -> Option<Usage> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // Counted from the third field of proc(5): utime is 14, stime 15, rss 24.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = number(14)? + number(15)?;
    let pages = number(24)?;
    #[expect(clippy::cast_precision_loss, reason = "a process does not run for 285 million years")]
    let cpu_seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Some(Usage { cpu_seconds, resident_bytes: pages * rustix::param::page_size() as u64 })
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut add = |name: &str, help: &str, metric: &dyn Encode| metric.write(&mut encoder, name, help);
        add("process_start_time_seconds", "Start time of the process since 1970", &ConstGauge::new(self.started))?;
        if let Some(usage) = std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| usage(&stat)) {
            let resident = i64::try_from(usage.resident_bytes).unwrap_or(i64::MAX);
            add("process_resident_memory_bytes", "Resident memory", &ConstGauge::new(resident))?;
            add("process_cpu_seconds", "Processor time used", &ConstCounter::new(usage.cpu_seconds))?;
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            let open = i64::try_from(entries.count()).unwrap_or(i64::MAX);
            add("process_open_fds", "Open file descriptors", &ConstGauge::new(open))?;
        }
        Ok(())
    }
}

/// A metric behind a reference, for [`Process::encode`].
trait Encode {
    fn write(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result;
}

impl<M: EncodeMetric> Encode for M {
    fn write(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result {
        let metric = encoder.encode_descriptor(name, help, None, self.metric_type())?;
        EncodeMetric::encode(self, metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 1 0 0 0 250 150 0 0 20 0 1 0 9 4096 12 184 1 1 0 0 0 0 0 0 0";
        let usage = usage(stat).unwrap();
        assert_eq!(usage.resident_bytes, 12 * rustix::param::page_size() as u64);
        assert!((usage.cpu_seconds - 400.0 / rustix::param::clock_ticks_per_second() as f64).abs() < 1e-9);
        assert!(super::usage("").is_none() && super::usage("1 (x) S 1").is_none());
    }
}
