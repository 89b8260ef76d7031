//! Routes and their certificates (spec controller-api section 6 H, spec router section 5).

mod certificate;
mod rules;

pub(super) use certificate::check as check_certificate;

use axum::Json;
use axum::extract::{Path, State};
use flynn_types::controller::{App, EventType};
use flynn_types::router::{Route, RouteKind};

use super::managed_certificate;
use crate::api::endpoints::Endpoints;
use crate::database::{Change, NewEvent};
use crate::error::{Error, Result};
use crate::input::Document;
use crate::shared::Shared;
use crate::store;

pub(super) fn endpoints() -> Endpoints {
    Endpoints::new()
        .get("/routes", "All routes, newest first", list_all)
        .get("/apps/{app}/routes", "Routes of an app, newest first", list)
        .post("/apps/{app}/routes", "Create a route", create)
        .taking::<Route>()
        .get("/apps/{app}/routes/{kind}/{id}", "A route", read)
        .put("/apps/{app}/routes/{kind}/{id}", "Replace a route", update)
        .taking::<Route>()
        .delete("/apps/{app}/routes/{kind}/{id}", "Delete a route", delete)
}

async fn list_all(State(shared): State<Shared>) -> Result<Json<Vec<Route>>> {
    Ok(Json(store::route::list(&mut *shared.sql().await?, None).await?))
}

async fn list(State(shared): State<Shared>, Path(app): Path<String>) -> Result<Json<Vec<Route>>> {
    let mut sql = shared.sql().await?;
    let app = store::app::get(&mut sql, &app).await?;
    Ok(Json(store::route::list(&mut sql, Some(&parent_ref(&app))).await?))
}

/// What a route of an app says whose it is.
fn parent_ref(app: &App) -> String {
    format!("controller/apps/{}", app.id)
}

fn kind(name: &str) -> Result<RouteKind> {
    [RouteKind::Http, RouteKind::Tcp].into_iter().find(|kind| store::route::name(*kind) == name).ok_or(Error::NotFound)
}

/// A route of this app; wherever its id is wrong, it does not exist.
async fn find(sql: &mut sqlx::PgConnection, app: &App, kind: &str, id: &str) -> Result<Route> {
    let route = store::route::get(sql, self::kind(kind)?, store::id(id)?).await?;
    if route.parent_ref == parent_ref(app) { Ok(route) } else { Err(Error::NotFound) }
}

type Reference = Path<(String, String, String)>;

async fn read(State(shared): State<Shared>, Path((app, kind, id)): Reference) -> Result<Json<Route>> {
    let mut sql = shared.sql().await?;
    let app = store::app::get(&mut sql, &app).await?;
    Ok(Json(find(&mut sql, &app, &kind, &id).await?))
}

async fn create(State(shared): State<Shared>, Path(app): Path<String>, body: Document) -> Result<Json<Route>> {
    let route: Route = body.decode()?;
    let mut change = shared.change().await?;
    let app = store::app::get(change.sql(), &app).await?;
    let drains = body.fields.get("drain_backends").and_then(serde_json::Value::as_bool);
    let created = insert(&shared, &mut change, &app, route, drains).await?;
    change.commit().await?;
    Ok(Json(created))
}

/// Creates a route of an app. `drains`: what was said about draining, if anything.
async fn insert(shared: &Shared, change: &mut Change, app: &App, sent: Route, drains: Option<bool>) -> Result<Route> {
    let mut route = Route { parent_ref: parent_ref(app), ..sent };
    let pair = certificate::pair(&route)?;
    store::route::lock_all(change.sql()).await?;
    rules::normalize(&mut route)?;
    rules::fit_drain(change, &mut route, drains).await?;
    rules::check_new(change, &shared.config.ports, &mut route, pair.is_some()).await?;
    let id = store::route::insert(change.sql(), &route).await?;
    let managed = route.managed_certificate_domain.as_str();
    if !managed.is_empty() {
        managed_certificate::attach(change, id, managed).await?;
    } else if let Some((cert, key)) = &pair {
        store::route::link(change.sql(), id, cert, key).await?;
    }
    let mut created = store::route::get(change.sql(), route.kind, id).await?;
    change.emit(event(EventType::Route, &created));
    // Older clients look for what they sent.
    (created.tls_cert, created.tls_key) = (route.tls_cert, route.tls_key);
    Ok(created)
}

pub(super) fn event(kind: EventType, route: &Route) -> NewEvent {
    let app_id = route.parent_ref.strip_prefix("controller/apps/").unwrap_or_default();
    NewEvent::new(kind, &route.id, route).app_text(app_id)
}

/// The whole route as it shall be: what is absent is off, but for certificates and the way of draining (H8, H9).
async fn update(
    State(shared): State<Shared>,
    Path((app, kind, id)): Reference,
    mut body: Document,
) -> Result<Json<Route>> {
    // The path's word counts.
    body.set("type", store::route::name(self::kind(&kind)?));
    let sent: Route = body.decode()?;
    let mut change = shared.change().await?;
    let app = store::app::get(change.sql(), &app).await?;
    store::route::lock_all(change.sql()).await?;
    let old = find(change.sql(), &app, &kind, &id).await?;
    if old.domain != sent.domain {
        return Err(Error::NotFound);
    }
    let pair = certificate::pair(&sent)?;
    let id = store::id(&old.id)?;
    let mut route = Route {
        service: sent.service.clone(),
        port: if old.kind == RouteKind::Tcp && sent.port == 0 { old.port } else { sent.port },
        leader: sent.leader,
        sticky: sent.sticky,
        path: sent.path.clone(),
        disable_keep_alives: sent.disable_keep_alives,
        ..old.clone()
    };
    rules::normalize(&mut route)?;
    rules::fit_drain_of(change.sql(), &mut route, id).await?;
    let unlinks = body.fields.get("certificate").is_some_and(serde_json::Value::is_null);
    let has_certificate = pair.is_some() || (!unlinks && old.certificate.is_some());
    rules::check_changed(&mut change, &shared.config.ports, &old, &route, has_certificate).await?;
    store::route::update(change.sql(), id, &route).await?;
    match &pair {
        Some((cert, key)) => store::route::link(change.sql(), id, cert, key).await?,
        None if unlinks => store::route::unlink(change.sql(), id).await?,
        None => {}
    }
    if let Some(managed) = body.fields.get("managed_certificate_domain") {
        match managed.as_str().filter(|domain| !domain.is_empty()) {
            Some(domain) if domain != old.managed_certificate_domain => {
                managed_certificate::attach(&mut change, id, domain).await?;
            }
            Some(_) => {}
            None => store::route::set_managed_domain(change.sql(), id, None).await?,
        }
    }
    let changed = store::route::get(change.sql(), old.kind, id).await?;
    change.emit(event(EventType::Route, &changed));
    change.commit().await?;
    Ok(Json(changed))
}

async fn delete(State(shared): State<Shared>, Path((app, kind, id)): Reference) -> Result<()> {
    let mut change = shared.change().await?;
    let app = store::app::get(change.sql(), &app).await?;
    store::route::lock_all(change.sql()).await?;
    let route = find(change.sql(), &app, &kind, &id).await?;
    if store::route::has_dependents(change.sql(), &route).await? {
        return Err(crate::error::invalid("", "Route has dependent routes"));
    }
    store::route::delete(change.sql(), route.kind, store::id(&route.id)?).await?;
    change.emit(event(EventType::RouteDeletion, &route));
    change.commit().await
}

/// The route that a new app has (P4).
pub(super) async fn create_default(shared: &Shared, app: &App) -> Result<()> {
    let domain = &shared.config.default_route_domain;
    let route = Route {
        service: format!("{}-web", app.name),
        domain: format!("{}.{domain}", app.name),
        drain_backends: true,
        ..Route::default()
    };
    let mut change = shared.change().await?;
    insert(shared, &mut change, app, route, Some(true)).await?;
    change.commit().await
}
