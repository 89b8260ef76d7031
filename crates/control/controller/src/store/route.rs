//! `http_routes`, `tcp_routes`, `certificates` and what links them.

use flynn_types::router::{Certificate, Route, RouteKind};
use flynn_types::time::GoTime;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Columns as _, all};
use crate::error::{Error, Result};

/// Columns of both kinds, those that one lacks at their default.
const SELECT: &str = "SELECT * FROM (
        SELECT 'http' AS type, r.id, parent_ref, service, port, leader, drain_backends, domain, sticky, path,
            disable_keep_alives, managed_certificate_domain, r.created_at, r.updated_at, r.deleted_at,
            c.id AS certificate_id, c.cert, c.key, c.created_at AS certificate_created_at,
            c.updated_at AS certificate_updated_at
        FROM http_routes r
        LEFT JOIN route_certificates l ON l.http_route_id = r.id
        LEFT JOIN certificates c ON c.id = l.certificate_id
        UNION ALL
        SELECT 'tcp', id, parent_ref, service, port, leader, drain_backends, '', false, '', false, NULL, created_at,
            updated_at, deleted_at, NULL, NULL, NULL, NULL, NULL
        FROM tcp_routes
    ) routes WHERE deleted_at IS NULL";

fn route(row: &PgRow) -> sqlx::Result<Route> {
    let port: i32 = row.try_get("port")?;
    let time = |column| row.time(column).map(|time| time.unwrap_or(GoTime::UNSET));
    let certificate = match row.optional_id("certificate_id")? {
        id if id.is_empty() => None,
        id => Some(Certificate {
            id,
            cert: row.try_get("cert")?,
            key: row.try_get("key")?,
            created_at: time("certificate_created_at")?,
            updated_at: time("certificate_updated_at")?,
            ..Certificate::default()
        }),
    };
    Ok(Route {
        kind: if row.try_get::<&str, _>("type")? == "tcp" { RouteKind::Tcp } else { RouteKind::Http },
        id: row.id("id")?,
        parent_ref: row.try_get("parent_ref")?,
        service: row.try_get("service")?,
        port: u16::try_from(port).map_err(|err| sqlx::Error::Decode(err.into()))?,
        leader: row.try_get("leader")?,
        created_at: time("created_at")?,
        updated_at: time("updated_at")?,
        domain: row.try_get("domain")?,
        certificate,
        sticky: row.try_get("sticky")?,
        path: row.try_get("path")?,
        drain_backends: row.try_get("drain_backends")?,
        disable_keep_alives: row.try_get("disable_keep_alives")?,
        managed_certificate_domain: row.or_default("managed_certificate_domain")?,
        ..Route::default()
    })
}

/// All of one app, or all there are; newest first.
pub(crate) async fn list(sql: &mut PgConnection, parent_ref: Option<&str>) -> Result<Vec<Route>> {
    let query = format!("{SELECT} AND ($1::text IS NULL OR parent_ref = $1) ORDER BY created_at DESC, id");
    let rows = sqlx::query(sqlx::AssertSqlSafe(query)).bind(parent_ref).fetch_all(sql).await?;
    Ok(all(&rows, route)?)
}

pub(crate) async fn get(sql: &mut PgConnection, kind: RouteKind, id: Uuid) -> Result<Route> {
    let query = format!("{SELECT} AND type = $1 AND id = $2");
    let row = sqlx::query(sqlx::AssertSqlSafe(query)).bind(name(kind)).bind(id).fetch_optional(sql).await?;
    Ok(route(&row.ok_or(Error::NotFound)?)?)
}

pub(crate) fn name(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Http => "http",
        RouteKind::Tcp => "tcp",
    }
}

/// Others change routes after this transaction: rules are about several routes at once.
pub(crate) async fn lock_all(sql: &mut PgConnection) -> Result<()> {
    let lock = sqlx::query("SELECT pg_advisory_xact_lock(hashtext('flynn'), hashtext('routes'))");
    lock.execute(sql).await?;
    Ok(())
}

/// How routes of a service drain; `None` when it has no other.
pub(crate) async fn drains(sql: &mut PgConnection, service: &str, except: Option<Uuid>) -> Result<Option<bool>> {
    let drains = sqlx::query_scalar(
        "SELECT drain_backends FROM (
            SELECT id, service, drain_backends FROM http_routes WHERE deleted_at IS NULL
            UNION ALL SELECT id, service, drain_backends FROM tcp_routes WHERE deleted_at IS NULL
         ) routes WHERE service = $1 AND id IS DISTINCT FROM $2 LIMIT 1",
    );
    Ok(drains.bind(service).bind(except).fetch_optional(sql).await?)
}

/// Whether an HTTP route has this name, port and path; domains are equal in upper and lower case.
pub(crate) async fn has_http(
    sql: &mut PgConnection,
    domain: &str,
    port: u16,
    path: &str,
    except: Option<Uuid>,
) -> Result<bool> {
    let exists = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM http_routes WHERE deleted_at IS NULL AND port = $2 AND path = $3
            AND lower(rtrim(domain, '.')) = lower(rtrim($1, '.')) AND id IS DISTINCT FROM $4)",
    );
    Ok(exists.bind(domain).bind(i32::from(port)).bind(path).bind(except).fetch_one(sql).await?)
}

/// Whether routes of other paths need this one.
pub(crate) async fn has_dependents(sql: &mut PgConnection, route: &Route) -> Result<bool> {
    if route.kind != RouteKind::Http || route.path != "/" {
        return Ok(false);
    }
    let exists = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM http_routes WHERE deleted_at IS NULL AND port = $2 AND path <> '/'
            AND lower(rtrim(domain, '.')) = lower(rtrim($1, '.')))",
    );
    Ok(exists.bind(&route.domain).bind(i32::from(route.port)).fetch_one(sql).await?)
}

/// The lowest port of the pool that no live route has.
pub(crate) async fn free_tcp_port(sql: &mut PgConnection, pool: std::ops::RangeInclusive<u16>) -> Result<Option<u16>> {
    let free = sqlx::query_scalar::<_, Option<i32>>(
        "SELECT min(pool.port) FROM generate_series($1::int, $2::int) pool (port)
         WHERE NOT EXISTS (SELECT FROM tcp_routes r WHERE r.port = pool.port AND deleted_at IS NULL)",
    );
    let free = free.bind(i32::from(*pool.start())).bind(i32::from(*pool.end())).fetch_one(sql).await?;
    Ok(free.and_then(|port| u16::try_from(port).ok()))
}

pub(crate) async fn has_tcp(sql: &mut PgConnection, port: u16, except: Option<Uuid>) -> Result<bool> {
    let exists = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM tcp_routes WHERE deleted_at IS NULL AND port = $1 AND id IS DISTINCT FROM $2)",
    );
    Ok(exists.bind(i32::from(port)).bind(except).fetch_one(sql).await?)
}

/// Inserts a route that follows the rules; its certificate is linked by [`link`].
pub(crate) async fn insert(sql: &mut PgConnection, new: &Route) -> Result<Uuid> {
    let id = Uuid::new_v4();
    let insert = match new.kind {
        RouteKind::Http => sqlx::query(
            "INSERT INTO http_routes (id, parent_ref, service, port, leader, drain_backends, domain, sticky, path,
                disable_keep_alives) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        ),
        RouteKind::Tcp => sqlx::query(
            "INSERT INTO tcp_routes (id, parent_ref, service, port, leader, drain_backends)
             VALUES ($1, $2, $3, $4, $5, $6)",
        ),
    };
    let mut insert = insert.bind(id).bind(&new.parent_ref).bind(&new.service).bind(i32::from(new.port));
    insert = insert.bind(new.leader).bind(new.drain_backends);
    if new.kind == RouteKind::Http {
        insert = insert.bind(&new.domain).bind(new.sticky).bind(&new.path).bind(new.disable_keep_alives);
    }
    insert.execute(sql).await?;
    Ok(id)
}

/// Stores what may change.
pub(crate) async fn update(sql: &mut PgConnection, id: Uuid, changed: &Route) -> Result<()> {
    let update = match changed.kind {
        RouteKind::Http => sqlx::query(
            "UPDATE http_routes SET service = $2, port = $3, leader = $4, drain_backends = $5, sticky = $6, path = $7,
                disable_keep_alives = $8 WHERE id = $1",
        ),
        RouteKind::Tcp => {
            sqlx::query("UPDATE tcp_routes SET service = $2, port = $3, leader = $4, drain_backends = $5 WHERE id = $1")
        }
    };
    let mut update = update.bind(id).bind(&changed.service).bind(i32::from(changed.port)).bind(changed.leader);
    update = update.bind(changed.drain_backends);
    if changed.kind == RouteKind::Http {
        update = update.bind(changed.sticky).bind(&changed.path).bind(changed.disable_keep_alives);
    }
    update.execute(sql).await?;
    Ok(())
}

pub(crate) async fn delete(sql: &mut PgConnection, kind: RouteKind, id: Uuid) -> Result<()> {
    let delete = match kind {
        RouteKind::Http => sqlx::query("UPDATE http_routes SET deleted_at = now() WHERE id = $1"),
        RouteKind::Tcp => sqlx::query("UPDATE tcp_routes SET deleted_at = now() WHERE id = $1"),
    };
    delete.bind(id).execute(sql).await?;
    Ok(())
}

/// Stores a certificate, once for equal texts (H6), and makes it the route's only one. A renewed key replaces the old.
pub(crate) async fn link(sql: &mut PgConnection, route_id: Uuid, cert: &str, key: &str) -> Result<()> {
    let insert = sqlx::query_scalar::<_, Uuid>(
        "INSERT INTO certificates (cert, key, cert_sha256) VALUES ($1, $2, $3)
         ON CONFLICT (cert_sha256) WHERE deleted_at IS NULL DO UPDATE
            SET key = excluded.key, updated_at = CASE WHEN certificates.key = excluded.key
                THEN certificates.updated_at ELSE now() END
         RETURNING id",
    );
    let certificate = insert.bind(cert).bind(key).bind(Sha256::digest(cert).to_vec()).fetch_one(&mut *sql).await?;
    unlink(sql, route_id).await?;
    let link = sqlx::query("INSERT INTO route_certificates (http_route_id, certificate_id) VALUES ($1, $2)");
    link.bind(route_id).bind(certificate).execute(sql).await?;
    Ok(())
}

pub(crate) async fn unlink(sql: &mut PgConnection, route_id: Uuid) -> Result<()> {
    sqlx::query("DELETE FROM route_certificates WHERE http_route_id = $1").bind(route_id).execute(sql).await?;
    Ok(())
}

pub(crate) async fn set_managed_domain(sql: &mut PgConnection, route_id: Uuid, domain: Option<&str>) -> Result<()> {
    let set = sqlx::query("UPDATE http_routes SET managed_certificate_domain = $2 WHERE id = $1");
    set.bind(route_id).bind(domain).execute(sql).await?;
    Ok(())
}
