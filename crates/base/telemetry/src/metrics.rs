//! Metrics of a program.

use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

use crate::process::Process;

/// Content type of [`Metrics::encode`]: OpenMetrics 1.0, which Prometheus reads.
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The registry of a program. Cheap to clone; clones are the same registry.
///
/// Names carry their unit (`_seconds`, `_bytes`); counters get their `_total` when they are written out. Labels have
/// few values.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    prefix: Arc<str>,
}

impl Metrics {
    /// A registry whose names begin with `<prefix>_`, with the usual `process_…` metrics beside.
    pub fn new(prefix: &str) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::new()));
        Self { registry: Arc::new(Mutex::new(registry)), prefix: prefix.into() }
    }

    /// The same registry for a part of the program, whose names begin with `<prefix>_`.
    #[must_use]
    pub fn with_prefix(&self, prefix: &str) -> Self {
        Self { registry: Arc::clone(&self.registry), prefix: prefix.into() }
    }

    /// Registers a metric of any kind: give it a clone and keep the other. Names are given once.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        let name = format!("{}_{name}", self.prefix);
        // The library ends the help with a full stop itself.
        let help = help.trim_end_matches('.');
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).register(name, help, metric);
    }

    /// A number that only grows.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        let metric = Counter::default();
        self.register(name, help, metric.clone());
        metric
    }

    /// A number that goes up and down.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        let metric = Gauge::default();
        self.register(name, help, metric.clone());
        metric
    }

    /// Counters by labels.
    pub fn counters<L>(&self, name: &str, help: &str) -> Family<L, Counter>
    where
        L: Clone + std::fmt::Debug + Hash + Eq + EncodeLabelSet + Send + Sync + 'static,
    {
        let metric = Family::default();
        self.register(name, help, metric.clone());
        metric
    }

    /// Durations in seconds, from half a millisecond to 16 s in doubling buckets.
    pub fn durations(&self, name: &str, help: &str) -> Histogram {
        let metric = Histogram::new(exponential_buckets(0.0005, 2.0, 16));
        self.register(name, help, metric.clone());
        metric
    }

    /// Everything as text, for the answer to `GET /metrics` with [`METRICS_CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(err) = prometheus_client::encoding::text::encode(&mut text, &registry) {
            tracing::error!(%err, "cannot write the metrics");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_come_out_in_the_format_of_prometheus() {
        let metrics = Metrics::new("flynn_host");
        let jobs = metrics.gauge("jobs", "Jobs that run.");
        let starts = metrics.counter("job_starts", "Jobs started");
        let requests = metrics.with_prefix("flynn_discoverd").counters::<[(String, String); 1]>("requests", "Requests");
        let durations = metrics.durations("start_seconds", "How long starts take");
        jobs.set(3);
        starts.inc();
        requests.get_or_create(&[("method".into(), "GET".into())]).inc_by(2);
        durations.observe(0.25);
        let text = metrics.encode();
        for line in [
            "# HELP flynn_host_jobs Jobs that run.",
            "# TYPE flynn_host_jobs gauge",
            "flynn_host_jobs 3",
            "flynn_host_job_starts_total 1",
            "flynn_discoverd_requests_total{method=\"GET\"} 2",
            "flynn_host_start_seconds_bucket{le=\"0.256\"} 1",
            "flynn_host_start_seconds_count 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|l| l.starts_with(name) && !l.starts_with('#'));
            line.unwrap_or_else(|| panic!("{name} is missing in\n{text}"))
                .split(' ')
                .next_back()
                .unwrap()
                .parse()
                .unwrap()
        };
        assert!(value("process_resident_memory_bytes ") > 100_000.0);
        assert!(value("process_open_fds ") >= 3.0);
        assert!(value("process_cpu_seconds_total ") < 600.0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now - value("process_start_time_seconds ")).abs() < 600.0);
    }
}
