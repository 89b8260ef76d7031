//! Figures of certificates and orders, for Prometheus.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use flynn_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::domain::Domain;
use crate::store::Contents;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DomainLabel {
    domain: String,
}

#[derive(Debug)]
pub(crate) struct AcmeMetrics {
    pub(crate) orders: Counter,
    pub(crate) issued: Counter,
    pub(crate) failures: Counter,
    /// 1 for the one that orders.
    pub(crate) leads: Gauge,
    missing: Gauge,
    failing: Gauge,
    expiry: Family<DomainLabel, Gauge>,
    told: Mutex<BTreeSet<Domain>>,
}

impl AcmeMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let this = Self {
            orders: metrics.counter("acme_orders", "Orders of certificates that were begun or taken up again"),
            issued: metrics.counter("acme_certificates_issued", "Certificates that this process got"),
            failures: metrics.counter("acme_order_failures", "Orders that failed, see the log and last_error"),
            leads: metrics.gauge("acme_orders_here", "Whether this process is the one that orders"),
            missing: metrics.gauge("acme_certificates_missing", "Domains of routes that have no certificate yet"),
            failing: metrics.gauge("acme_certificates_failing", "Domains of routes whose last order failed"),
            expiry: Family::default(),
            told: Mutex::default(),
        };
        let help = "When the automatic certificate of a domain ends, in Unix time";
        metrics.register("managed_certificate_expiry_timestamp_seconds", help, this.expiry.clone());
        this
    }

    /// Tells how the wanted certificates are.
    pub(crate) fn tell(&self, contents: &Contents, wanted: &BTreeSet<Domain>) {
        let records = || wanted.iter().filter_map(|domain| contents.certificates.get(domain));
        let mut told = BTreeSet::new();
        for managed in records() {
            if let Some(issued) = &managed.issued {
                let label = DomainLabel { domain: managed.domain.to_string() };
                self.expiry.get_or_create(&label).set(issued.not_after.timestamp());
                told.insert(managed.domain.clone());
            }
        }
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.missing.set(count(wanted.len() - told.len()));
        self.failing.set(count(records().filter(|managed| managed.failure.is_some()).count()));
        let mut before = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in before.difference(&told) {
            self.expiry.remove(&DomainLabel { domain: gone.to_string() });
        }
        *before = told;
    }
}
