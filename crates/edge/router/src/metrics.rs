//! Figures of the router and of each route, for Prometheus.

use std::sync::Arc;
use std::time::Duration;

use flynn_telemetry::Metrics;
use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// Names a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RouteLabels {
    route: String,
    service: String,
}

/// Names a route and a class of statuses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ClassLabels {
    route: String,
    service: String,
    class: &'static str,
}

/// Why a client's connection or request was ended by us.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct EndLabels {
    reason: &'static str,
}

/// Clients that were too slow, too many or too eager, by reason.
#[derive(Clone, Debug)]
pub(crate) struct ClientsEnded {
    pub(crate) slow_head: Counter,
    pub(crate) slow_body: Counter,
    pub(crate) slow_response: Counter,
    pub(crate) large_body: Counter,
    /// Frames of HTTP/2 for nothing.
    pub(crate) flood: Counter,
    /// Connections of one address.
    pub(crate) crowd: Counter,
}

impl ClientsEnded {
    fn new(metrics: &Metrics) -> Self {
        let family = Family::<EndLabels, Counter>::default();
        let help = "Connections and requests of clients that were ended for a limit";
        metrics.register("clients_ended", help, family.clone());
        let counter = |reason| family.get_or_create_owned(&EndLabels { reason });
        Self {
            slow_head: counter("slow_head"),
            slow_body: counter("slow_body"),
            slow_response: counter("slow_response"),
            large_body: counter("large_body"),
            flood: counter("flood"),
            crowd: counter("crowd"),
        }
    }
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Figures of the whole router, and the families that those of routes belong to.
#[derive(Clone, Debug)]
pub(crate) struct RouterMetrics {
    pub(crate) connections: Gauge,
    pub(crate) tunnels: Gauge,
    pub(crate) tcp_connections: Gauge,
    pub(crate) handshakes_failed: Counter,
    pub(crate) dials_failed: Counter,
    pub(crate) requests_resent: Counter,
    pub(crate) requests_refused: Counter,
    pub(crate) requests_unrouted: Counter,
    pub(crate) clients_ended: ClientsEnded,
    pub(crate) routes: Gauge,
    pub(crate) routes_invalid: Gauge,
    requests: Family<ClassLabels, Counter>,
    durations: Family<RouteLabels, Histogram, fn() -> Histogram>,
    in_flight: Family<RouteLabels, Gauge>,
    tcp: Family<RouteLabels, Counter>,
    received: Family<RouteLabels, Counter>,
    sent: Family<RouteLabels, Counter>,
}

fn durations() -> Histogram {
    // From half a millisecond to 16 s.
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

impl RouterMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let this = Self {
            connections: metrics.gauge("connections", "Connections of HTTP and HTTPS clients"),
            tunnels: metrics.gauge("tunnels", "Connections that were upgraded to another protocol"),
            tcp_connections: metrics.gauge("tcp_connections", "Connections of TCP routes"),
            handshakes_failed: metrics.counter("tls_handshakes_failed", "TLS handshakes that failed"),
            dials_failed: metrics.counter("dials_failed", "Connections that a backend did not take"),
            requests_resent: metrics.counter("requests_resent", "Requests sent again after a connection broke"),
            requests_refused: metrics.counter("requests_refused", "Requests that are not sound HTTP"),
            requests_unrouted: metrics.counter("requests_unrouted", "Requests that no route matches"),
            clients_ended: ClientsEnded::new(metrics),
            routes: metrics.gauge("routes", "Routes that are served"),
            routes_invalid: metrics.gauge("routes_invalid", "Routes that cannot be served, see the log"),
            requests: Family::default(),
            durations: Family::new_with_constructor(durations),
            in_flight: Family::default(),
            tcp: Family::default(),
            received: Family::default(),
            sent: Family::default(),
        };
        metrics.register("requests", "Requests by route and class of status", this.requests.clone());
        let help = "From a request's head to the end of its response";
        metrics.register("request_duration_seconds", help, this.durations.clone());
        metrics.register(
            "requests_in_flight",
            "Requests, tunnels and TCP connections that are not over",
            this.in_flight.clone(),
        );
        metrics.register("route_tcp_connections", "Connections of TCP routes that are over", this.tcp.clone());
        metrics.register("request_bytes", "Bytes from clients: bodies, tunnels, TCP", this.received.clone());
        metrics.register("response_bytes", "Bytes to clients: bodies, tunnels, TCP", this.sent.clone());
        this
    }

    /// The figures of a route, which go when the last of these handles does.
    pub(crate) fn route(&self, id: &str, service: &str) -> RouteMetrics {
        let labels = RouteLabels { route: id.to_owned(), service: service.to_owned() };
        let class = |class| ClassLabels { route: id.to_owned(), service: service.to_owned(), class };
        RouteMetrics(Arc::new(Figures {
            requests: CLASSES.map(|name| self.requests.get_or_create_owned(&class(name))),
            duration: self.durations.get_or_create_owned(&labels),
            in_flight: self.in_flight.get_or_create_owned(&labels),
            tcp: self.tcp.get_or_create_owned(&labels),
            received: self.received.get_or_create_owned(&labels),
            sent: self.sent.get_or_create_owned(&labels),
        }))
    }

    /// Drops the figures of a route that is gone.
    pub(crate) fn forget(&self, id: &str, service: &str) {
        let labels = RouteLabels { route: id.to_owned(), service: service.to_owned() };
        for class in CLASSES {
            self.requests.remove(&ClassLabels { route: id.to_owned(), service: service.to_owned(), class });
        }
        self.durations.remove(&labels);
        self.in_flight.remove(&labels);
        self.tcp.remove(&labels);
        self.received.remove(&labels);
        self.sent.remove(&labels);
    }
}

/// Figures of one route.
#[derive(Clone, Debug)]
pub(crate) struct RouteMetrics(Arc<Figures>);

#[derive(Debug)]
struct Figures {
    requests: [Counter; 5],
    duration: Histogram,
    in_flight: Gauge,
    tcp: Counter,
    received: Counter,
    sent: Counter,
}

impl RouteMetrics {
    pub(crate) fn begin(&self) {
        self.0.in_flight.inc();
    }

    /// A connection of a TCP route is over.
    pub(crate) fn end_tcp(&self, received: u64, sent: u64) {
        self.0.in_flight.dec();
        self.0.tcp.inc();
        self.0.received.inc_by(received);
        self.0.sent.inc_by(sent);
    }

    pub(crate) fn end(&self, status: StatusCode, took: Duration, received: u64, sent: u64) {
        self.0.in_flight.dec();
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(requests) = self.0.requests.get(class) {
            requests.inc();
        }
        self.0.duration.observe(took.as_secs_f64());
        self.0.received.inc_by(received);
        self.0.sent.inc_by(sent);
    }
}
