//! A router on loopback and what it is told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use flynn_router::source::{Change, Changes, Instance, Membership};
use flynn_router::{CookieKey, Former, HttpPort, Limits, Router, Serving, Settings, Sockets};
use flynn_telemetry::Metrics;
use flynn_types::router::{Route, RouteKind};

use crate::client::Client;

/// Longest time that anything may take in a test.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The key of all routers in tests.
pub(crate) fn cookie_key() -> CookieKey {
    CookieKey::new(&[7; 32])
}

/// Default ports for HTTP and HTTPS, and one more of each.
pub(crate) fn settings() -> Settings {
    let port = |tls, default| HttpPort { port: 0, tls, default };
    Settings {
        listen: Some(LOOPBACK),
        listen_tcp: Some(LOOPBACK),
        http: vec![port(false, true), port(true, true), port(false, false), port(true, false)],
        api: Some(0),
        proxy_protocol: false,
        trusted_proxies: Vec::new(),
        cookie_key: cookie_key(),
        default_certificate: None,
        unavailable_page: None,
        workers: 2,
        access_log: true,
        limits: Limits::default(),
    }
}

pub(crate) struct Rig {
    pub(crate) serving: Serving,
    changes: Changes,
    pub(crate) metrics: Metrics,
}

impl Rig {
    /// A router with these routes and services.
    pub(crate) async fn start(routes: Vec<Route>, services: Vec<Membership>) -> Self {
        Self::with(settings(), routes, services).await
    }

    /// A router that has taken over from another process.
    pub(crate) async fn replacing(former: &Arc<Former>, routes: Vec<Route>, services: Vec<Membership>) -> Self {
        Self::of(settings(), Some(former), routes, services).await
    }

    pub(crate) async fn with(settings: Settings, routes: Vec<Route>, services: Vec<Membership>) -> Self {
        Self::of(settings, None, routes, services).await
    }

    async fn of(
        settings: Settings,
        former: Option<&Arc<Former>>,
        routes: Vec<Route>,
        services: Vec<Membership>,
    ) -> Self {
        let metrics = Metrics::new("flynn_router");
        let router = Router::new(settings, &metrics);
        if let Some(former) = former {
            router.replaces(Arc::clone(former));
        }
        let changes = router.changes();
        changes.send(Change::Everything { routes, services }).await.expect("the router takes changes");
        within(router.synced()).await;
        let serving = router.listen("v1", Sockets::default()).expect("loopback has free ports");
        Self { serving, changes, metrics }
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.serving.addresses()[0]
    }

    pub(crate) fn https(&self) -> SocketAddr {
        self.serving.addresses()[1]
    }

    pub(crate) fn extra_http(&self) -> SocketAddr {
        self.serving.addresses()[2]
    }

    pub(crate) fn extra_https(&self) -> SocketAddr {
        self.serving.addresses()[3]
    }

    /// A new connection of a client.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.http()).await
    }

    /// Tells the router something and waits until it is so.
    pub(crate) async fn tell(&self, change: Change) {
        let mut applied = self.serving.applied();
        applied.mark_unchanged();
        self.changes.send(change).await.expect("the router takes changes");
        within(applied.changed()).await.expect("the router runs");
    }

    pub(crate) async fn set(&self, route: Route) {
        self.tell(Change::Set(Box::new(route))).await;
    }

    pub(crate) async fn remove(&self, id: &str) {
        self.tell(Change::Remove { id: id.into() }).await;
    }

    pub(crate) async fn members(&self, membership: Membership) {
        self.tell(Change::Members(membership)).await;
    }

    /// The body of a `GET /` for a host, by a new connection, with its status before it.
    pub(crate) async fn get(&self, host: &str) -> String {
        self.get_path(host, "/").await
    }

    pub(crate) async fn get_path(&self, host: &str, path: &str) -> String {
        let answer = self.client().await.get(host, path).await;
        format!("{} {}", answer.status, answer.text())
    }

    /// The value of a metric's line that begins so.
    pub(crate) fn metric(&self, line: &str) -> Option<f64> {
        let text = self.metrics.encode();
        text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
    }
}

/// A route on the default ports, whose id is its domain and path.
pub(crate) fn route(domain: &str, service: &str) -> Route {
    let (domain, path) = domain.split_once('/').map_or((domain, ""), |(domain, path)| (domain, path));
    let path = format!("/{path}");
    Route { id: format!("{domain}{path}"), domain: domain.into(), path, service: service.into(), ..Route::default() }
}

pub(crate) fn sticky(domain: &str, service: &str) -> Route {
    Route { sticky: true, ..route(domain, service) }
}

pub(crate) fn tcp_route(port: u16, service: &str) -> Route {
    Route { kind: RouteKind::Tcp, id: format!("tcp-{port}"), port, service: service.into(), ..Route::default() }
}

pub(crate) fn members(service: &str, addresses: &[SocketAddr]) -> Membership {
    let instances = addresses.iter().map(|address| Instance::new(*address)).collect();
    Membership { service: service.into(), instances, leader: None }
}

pub(crate) fn led(service: &str, addresses: &[SocketAddr], leader: SocketAddr) -> Membership {
    Membership { leader: Some(leader), ..members(service, addresses) }
}

/// An address on loopback that refuses connections: its port is bound, and nobody listens.
pub(crate) struct Refusing(socket2::Socket);

impl Refusing {
    pub(crate) fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(LOOPBACK, 0).into()).expect("a free port");
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("it is bound").as_socket().expect("of IPv4")
    }
}

/// The result, or a failed test when it takes too long.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("this takes too long")
}

/// Asks again until the answer is as expected.
pub(crate) async fn eventually<T, F>(expected: T, mut ask: impl FnMut() -> F)
where
    T: PartialEq + std::fmt::Debug,
    F: Future<Output = T>,
{
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let last = ask().await;
        if last == expected {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{expected:?} is awaited, the last answer is {last:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The most memory that this process has had so far.
pub(crate) fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}
