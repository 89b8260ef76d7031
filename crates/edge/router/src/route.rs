//! Routes as the router uses them: parsed, checked, and put together with what serves them.

use std::sync::Arc;

use flynn_types::router::{Route, RouteKind};
use http::HeaderValue;
use rustls::sign::CertifiedKey;

use crate::metrics::RouteMetrics;
use crate::service::Service;
use crate::table::{Mount, canonical};

/// Why a route cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoute {
    #[error("route has no id")]
    NoId,
    #[error("route {0} names no service")]
    NoService(Box<str>),
    #[error("route {id} has the domain {domain:?}, which is no name, `*.name` or `*`")]
    Domain { id: Box<str>, domain: Box<str> },
    #[error("route {id} has the path {path:?}, which does not begin with a slash")]
    Path { id: Box<str>, path: Box<str> },
    #[error("route {0} is for TCP and has no port")]
    NoPort(Box<str>),
    #[error("route {id} is for TCP on port {port}, which is the router's own")]
    OwnPort { id: Box<str>, port: u16 },
}

/// An HTTP route that requests can take.
#[derive(Debug)]
pub(crate) struct HttpRoute {
    pub(crate) service: Arc<Service>,
    pub(crate) leader: bool,
    pub(crate) sticky: bool,
    /// Whether connections to backends are used again.
    pub(crate) keep_alive: bool,
    pub(crate) certificate: Option<Arc<CertifiedKey>>,
    /// What comes in clear is sent to HTTPS.
    pub(crate) https_redirect: bool,
    /// `Strict-Transport-Security` of answers over HTTPS.
    pub(crate) hsts: Option<HeaderValue>,
    pub(crate) metrics: RouteMetrics,
}

/// A TCP route.
#[derive(Debug)]
pub(crate) struct TcpRoute {
    pub(crate) id: Arc<str>,
    pub(crate) service: Arc<Service>,
    pub(crate) leader: bool,
}

/// Where a route belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Http(Mount),
    Tcp { port: u16 },
}

/// Checks a route and finds its place. Pure.
pub(crate) fn place(route: &Route) -> Result<Place, InvalidRoute> {
    let id = || Box::<str>::from(&*route.id);
    if route.id.is_empty() {
        return Err(InvalidRoute::NoId);
    }
    if route.service.is_empty() {
        return Err(InvalidRoute::NoService(id()));
    }
    match route.kind {
        RouteKind::Tcp if route.port == 0 => Err(InvalidRoute::NoPort(id())),
        RouteKind::Tcp => Ok(Place::Tcp { port: route.port }),
        RouteKind::Http => {
            let domain = canonical(&route.domain);
            // `*.` is a wildcard of nothing, not the catch-all with a final dot.
            if !is_domain(&domain) || route.domain == "*." {
                return Err(InvalidRoute::Domain { id: id(), domain: (*route.domain).into() });
            }
            let path = match &*route.path {
                "" => "/".into(),
                path if !path.starts_with('/') => return Err(InvalidRoute::Path { id: id(), path: path.into() }),
                path if path.ends_with('/') => path.into(),
                path => format!("{path}/").into(),
            };
            Ok(Place::Http(Mount { port: route.port, domain: domain.into(), path }))
        }
    }
}

fn is_domain(domain: &str) -> bool {
    let name = domain.strip_prefix("*.").unwrap_or(domain);
    domain == "*"
        || (!name.is_empty()
            && name.len() <= 255
            && !name.contains(|c: char| c == '*' || c == '/' || c.is_whitespace()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(domain: &str, path: &str) -> Result<Place, InvalidRoute> {
        let route = Route { id: "r".into(), service: "s".into(), ..Route::default() };
        place(&Route { domain: domain.into(), path: path.into(), ..route })
    }

    #[test]
    fn places_are_canonical() {
        let mount = |domain: &str, path: &str| Place::Http(Mount { port: 0, domain: domain.into(), path: path.into() });
        assert_eq!(http("Foo.COM.", ""), Ok(mount("foo.com", "/")));
        assert_eq!(http("*.foo.com", "/3"), Ok(mount("*.foo.com", "/3/")));
        assert_eq!(http("*", "/a/b/"), Ok(mount("*", "/a/b/")));
    }

    #[test]
    fn routes_that_mean_nothing_are_refused() {
        for domain in ["", "*.", "a.*", "a b", "**", "*a", "a/b"] {
            assert!(matches!(http(domain, "/"), Err(InvalidRoute::Domain { .. })), "{domain}");
        }
        assert!(matches!(http("a", "x/"), Err(InvalidRoute::Path { .. })));
        assert_eq!(place(&Route::default()), Err(InvalidRoute::NoId));
        let tcp = Route { id: "r".into(), service: "s".into(), kind: RouteKind::Tcp, ..Route::default() };
        assert_eq!(place(&tcp), Err(InvalidRoute::NoPort("r".into())));
        assert_eq!(place(&Route { port: 3000, ..tcp }), Ok(Place::Tcp { port: 3000 }));
    }
}
