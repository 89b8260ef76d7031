//! Rules of routes (spec router section 5.2). The caller holds the lock of all routes.

use flynn_types::error::{ApiError, ErrorCode};
use flynn_types::router::{Route, RouteKind};
use serde_json::json;
use uuid::Uuid;

use crate::config::Ports;
use crate::database::Change;
use crate::error::{Error, Result, invalid};
use crate::store;

/// Ports that TCP routes are given.
const TCP_POOL: std::ops::RangeInclusive<u16> = 3000..=3500;
/// Ports that the host listens on, or a router in any case.
const RESERVED: [u16; 8] = [22, 53, 80, 443, 1111, 1113, 5000, 5002];

/// The texts are fixed; what is wrong is told beside them.
fn invalid_route(route: &Route, reason: &str) -> Error {
    let detail = json!({ "route": route.clone().without_key(), "reason": reason });
    ApiError::validation("", "Invalid route").with_detail(detail).into()
}

fn conflict(route: &Route, message: &str) -> Error {
    ApiError::new(ErrorCode::Conflict, message).with_detail(json!(route.clone().without_key())).into()
}

/// Completes paths and checks what a route says about itself.
pub(super) fn normalize(route: &mut Route) -> Result<()> {
    if route.service.is_empty() {
        return Err(invalid("service", "must not be empty"));
    }
    if route.service.len() > 255 || route.domain.len() > 255 {
        return Err(invalid_route(route, "service and domain have at most 255 characters"));
    }
    if route.kind == RouteKind::Tcp {
        (route.sticky, route.disable_keep_alives) = (false, false);
        return Ok(());
    }
    if route.domain.is_empty() {
        return Err(invalid("domain", "must not be empty"));
    }
    if !route.path.ends_with('/') {
        route.path.push('/');
    }
    if route.path.starts_with('/') { Ok(()) } else { Err(invalid_route(route, "the path must begin with a slash")) }
}

/// Routes of one service drain alike: a new one that says nothing follows the others (rule 4).
pub(super) async fn fit_drain(change: &mut Change, route: &mut Route, said: Option<bool>) -> Result<()> {
    let others = store::route::drains(change.sql(), &route.service, None).await?;
    match (said, others) {
        (Some(said), Some(others)) if said != others => {
            Err(invalid_route(route, "drain_backends differs from that of the service's other routes"))
        }
        (said, others) => {
            route.drain_backends = said.or(others).unwrap_or(false);
            Ok(())
        }
    }
}

/// A changed route follows the service that it now names.
pub(super) async fn fit_drain_of(sql: &mut sqlx::PgConnection, route: &mut Route, id: Uuid) -> Result<()> {
    if let Some(others) = store::route::drains(sql, &route.service, Some(id)).await? {
        route.drain_backends = others;
    }
    Ok(())
}

/// What a new route must find, and the port of a TCP route that names none.
pub(super) async fn check_new(
    change: &mut Change,
    ports: &Ports,
    route: &mut Route,
    has_certificate: bool,
) -> Result<()> {
    if route.kind == RouteKind::Tcp && route.port == 0 {
        let free = store::route::free_tcp_port(change.sql(), TCP_POOL).await?;
        route.port = free.ok_or_else(|| conflict(route, "No TCP ports available"))?;
    }
    check(change, ports, route, None, has_certificate).await
}

/// The same for one that was there before.
pub(super) async fn check_changed(
    change: &mut Change,
    ports: &Ports,
    old: &Route,
    route: &Route,
    has_certificate: bool,
) -> Result<()> {
    let moves = (old.path.as_str(), old.port) != (route.path.as_str(), route.port);
    if moves && store::route::has_dependents(change.sql(), old).await? {
        return Err(invalid("", "Route has dependent routes"));
    }
    check(change, ports, route, Some(store::id(&old.id)?), has_certificate).await
}

async fn check(
    change: &mut Change,
    ports: &Ports,
    route: &Route,
    id: Option<Uuid>,
    has_certificate: bool,
) -> Result<()> {
    if route.kind == RouteKind::Tcp {
        let taken_by_router = ports.http.contains(&route.port) || ports.https.contains(&route.port);
        if RESERVED.contains(&route.port) || taken_by_router {
            return Err(conflict(route, "Port reserved for HTTP/HTTPS traffic"));
        }
        let taken = store::route::has_tcp(change.sql(), route.port, id).await?;
        return if taken { Err(conflict(route, "Duplicate route")) } else { Ok(()) };
    }
    if route.port != 0 {
        let (known, message) = if has_certificate {
            (&ports.https, "Port not reserved for HTTPS traffic")
        } else {
            (&ports.http, "Port not reserved for HTTP traffic")
        };
        if !known.contains(&route.port) {
            return Err(invalid("", message));
        }
    }
    let sql = change.sql();
    if route.path != "/" && !store::route::has_http(sql, &route.domain, route.port, "/", id).await? {
        return Err(invalid_route(route, "a path needs a route for / of the same domain"));
    }
    let taken = store::route::has_http(sql, &route.domain, route.port, &route.path, id).await?;
    if taken { Err(conflict(route, "Duplicate route")) } else { Ok(()) }
}
