//! Limits and listeners of a router.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::cookie::CookieKey;
use crate::tls::DefaultCertificate;
use crate::unavailable::Page;

/// How long the router waits for what, and how much it keeps (spec router section 14).
#[derive(Clone, Debug)]
pub struct Limits {
    /// A connection to a backend.
    pub dial: Duration,
    /// Silence of a backend since it took the last of the request, until the head of its response.
    pub response_head: Duration,
    /// Nothing heard of a backend while a request waits there: then it is asked whether it hangs. Zero is never.
    pub backend_silence: Duration,
    /// Backends tried for one request.
    pub attempts: usize,
    /// A client's connection between two requests.
    pub idle: Duration,
    /// A request's head, from its first byte (of a connection's first request: from the connection's begin) to its end.
    pub request_head: Duration,
    pub tls_handshake: Duration,
    pub proxy_header: Duration,
    /// Idle connections to one backend, for each worker.
    pub pooled_per_backend: usize,
    /// An idle connection to a backend.
    pub pooled_idle: Duration,
    /// Requests in flight when the router ends, and idle connections of clients when another process has taken over.
    pub drain: Duration,
    /// A worker's loop stands still; zero is never.
    pub worker_stall: Duration,
    /// Requests and tunnels in flight when another process has taken over.
    pub drain_handed_over: Duration,
    /// Clients' connections for each worker; more wait in the listeners' queues.
    pub connections: usize,
    /// Connections of one client to all HTTP and HTTPS ports, by its address, of IPv6 by its /64. Without a limit a
    /// load balancer that does not say who its clients are is no client that has too many.
    pub connections_per_client: Option<u32>,
    /// How long a client may be waited for until [`body_least`](Self::body_least) bytes more of its request's body are
    /// there. Counts only time in which a backend would take more, and ends with the head of the response.
    pub body_pause: Duration,
    /// Bytes of a request's body.
    pub body_least: u64,
    /// How long a client may take nothing of a response that is there.
    pub response_pause: Duration,
    /// Silence of the API's event stream after which a comment is sent.
    pub event_keep_alive: Duration,
    /// Absence of the controller after which the status says that routes may be old.
    pub controller_absence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            dial: Duration::from_secs(1),
            response_head: Duration::from_secs(600),
            backend_silence: Duration::from_secs(5),
            attempts: 4,
            idle: Duration::from_secs(300),
            request_head: Duration::from_secs(60),
            tls_handshake: Duration::from_secs(10),
            proxy_header: Duration::from_secs(10),
            pooled_per_backend: 256,
            pooled_idle: Duration::from_secs(60),
            drain: Duration::from_secs(20),
            worker_stall: Duration::from_secs(10),
            drain_handed_over: Duration::from_secs(3600),
            connections: 100_000,
            connections_per_client: None,
            // The specification knows no limit: these end what will never end by itself, and no upload that has pauses.
            body_pause: Duration::from_secs(300),
            body_least: 1024,
            response_pause: Duration::from_secs(300),
            event_keep_alive: Duration::from_secs(30),
            controller_absence: Duration::from_secs(120),
        }
    }
}

/// A port that the router listens on for HTTP or HTTPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpPort {
    /// 0 lets the system choose.
    pub port: u16,
    pub tls: bool,
    /// Serves routes of the default ports, else those that name this port.
    pub default: bool,
}

/// Everything about a router that does not change while it runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address of all listeners; `None` for all addresses of both families.
    pub listen: Option<IpAddr>,
    /// Address of TCP routes, where it differs.
    pub listen_tcp: Option<IpAddr>,
    pub http: Vec<HttpPort>,
    /// Port of the router's own API; 0 lets the system choose, `None` is without.
    pub api: Option<u16>,
    /// HTTP and HTTPS connections may begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Load balancers in front of the router. When there are any, only they may send a PROXY header, their
    /// `X-Forwarded-*` are believed and those of others dropped. Their own connections are not limited in number.
    pub trusted_proxies: Vec<IpNet>,
    pub cookie_key: CookieKey,
    pub default_certificate: Option<DefaultCertificate>,
    /// HTML for clients of services that cannot answer.
    pub unavailable_page: Option<Page>,
    /// Threads that serve connections.
    pub workers: usize,
    /// Write a line for each request.
    pub access_log: bool,
    pub limits: Limits,
}

impl Settings {
    /// What is known of a peer or client with this address; `None` while no proxies are named.
    pub(crate) fn is_trusted(&self, address: IpAddr) -> Option<bool> {
        let address = address.to_canonical();
        let named = !self.trusted_proxies.is_empty();
        named.then(|| self.trusted_proxies.iter().any(|network| network.contains(&address)))
    }

    /// Whether a port is one that the router itself listens on.
    pub(crate) fn owns(&self, port: u16) -> bool {
        self.api == Some(port) || self.http.iter().any(|http| http.port == port)
    }
}
