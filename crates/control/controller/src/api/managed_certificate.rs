//! Automatic certificates and how they are ordered (spec controller-api section 6 H11 to H13).

use std::collections::{BTreeMap, VecDeque};

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use flynn_types::acme::{AcmeConfig, ManagedCertificate, ManagedCertificateStatus};
use flynn_types::controller::EventType;
use flynn_types::router::RouteKind;
use uuid::Uuid;

use super::follow::{self, Followed};
use super::route;
use crate::api::endpoints::Endpoints;
use crate::database::{Change, NewEvent};
use crate::error::{Result, invalid};
use crate::events::{Filter, Stored};
use crate::input::Input;
use crate::shared::Shared;
use crate::store;

const DISABLED: &str =
    "ACME/Let's Encrypt is not enabled. Run 'flynn-host acme configure' and 'flynn-host acme enable' first.";

pub(super) fn endpoints() -> Endpoints {
    Endpoints::new()
        .get("/managed-certificates", "Automatic certificates as a list or a stream (?since=)", list_or_stream)
        .get("/managed-certificates/{id}", "An automatic certificate", read)
        .put("/managed-certificates/{id}", "Record what became of an automatic certificate", update)
        .taking::<ManagedCertificate>()
        .get("/acme/config", "How certificates are ordered", read_config)
        .put("/acme/config", "Set how certificates are ordered", set_config)
        .taking::<AcmeConfig>()
}

async fn list_or_stream(
    State(shared): State<Shared>,
    Query(parameters): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response> {
    let since = parameters.get("since").cloned();
    if flynn_http::wants_events(&headers) {
        return Ok(follow::answer::<Certificates>(shared, since));
    }
    let mut sql = shared.sql().await?;
    let certificates = match since {
        None => store::managed_certificate::list(&mut sql).await?,
        Some(text) => {
            let since = follow::timestamp(Some(&text));
            let since = since.map_err(|_| invalid("", "since must be a valid RFC3339 timestamp"))?;
            store::managed_certificate::since(&mut sql, since).await?
        }
    };
    Ok(Json(certificates).into_response())
}

struct Certificates;

impl Followed for Certificates {
    type Object = ManagedCertificate;

    fn filter() -> Filter {
        Filter::of_kinds(&[EventType::ManagedCertificate])
    }

    async fn initial(shared: &Shared, since: DateTime<Utc>) -> Result<VecDeque<Self::Object>> {
        Ok(store::managed_certificate::since(&mut *shared.sql().await?, since).await?.into())
    }

    async fn changed(_: &Shared, event: &Stored) -> Result<Option<Self::Object>> {
        Ok(event.data())
    }
}

async fn read(State(shared): State<Shared>, Path(id): Path<String>) -> Result<Json<ManagedCertificate>> {
    Ok(Json(store::managed_certificate::get(&mut *shared.sql().await?, store::id(&id)?).await?))
}

/// What the orderer made of it. An issued one becomes the certificate of its route (H12).
async fn update(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    Input(mut sent): Input<ManagedCertificate>,
) -> Result<Json<ManagedCertificate>> {
    (sent.cert, sent.key) = (sent.cert.trim().to_owned(), sent.key.trim().to_owned());
    let issued = sent.status == ManagedCertificateStatus::Issued && !sent.cert.is_empty() && !sent.key.is_empty();
    if issued {
        route::check_certificate(&sent.cert, &sent.key)?;
    }
    let mut change = shared.change().await?;
    let stored = store::managed_certificate::update(change.sql(), store::id(&id)?, &sent).await?;
    emit(&mut change, &stored);
    if issued {
        link(&mut change, &stored).await?;
    }
    change.commit().await?;
    Ok(Json(stored))
}

fn emit(change: &mut Change, certificate: &ManagedCertificate) {
    change.emit(NewEvent::new(EventType::ManagedCertificate, &certificate.id, certificate));
}

/// Gives the certificate to its route, which may be gone by now.
async fn link(change: &mut Change, certificate: &ManagedCertificate) -> Result<()> {
    let id = store::id(&certificate.route_id)?;
    match store::route::get(change.sql(), RouteKind::Http, id).await {
        Ok(_) => {}
        Err(crate::error::Error::NotFound) => return Ok(()),
        Err(err) => return Err(err),
    }
    store::route::link(change.sql(), id, &certificate.cert, &certificate.key).await?;
    let route = store::route::get(change.sql(), RouteKind::Http, id).await?;
    change.emit(route::event(EventType::Route, &route));
    Ok(())
}

/// From now on the route has the automatic certificate of a domain (H11).
pub(super) async fn attach(change: &mut Change, route_id: Uuid, domain: &str) -> Result<()> {
    if !store::managed_certificate::config(change.sql()).await?.enabled {
        return Err(invalid("", DISABLED));
    }
    store::route::set_managed_domain(change.sql(), route_id, Some(domain)).await?;
    let certificate = store::managed_certificate::attach(change.sql(), route_id, domain).await?;
    if certificate.status != ManagedCertificateStatus::Pending {
        store::route::link(change.sql(), route_id, &certificate.cert, &certificate.key).await?;
    }
    emit(change, &certificate);
    Ok(())
}

/// The key only for those who say that they belong to the cluster, which whoever has a key may (H13).
async fn read_config(State(shared): State<Shared>, headers: HeaderMap) -> Result<Json<AcmeConfig>> {
    let config = store::managed_certificate::config(&mut *shared.sql().await?).await?;
    let internal = headers.get("x-flynn-internal").is_some_and(|value| value == "true");
    Ok(Json(if internal { config } else { config.without_key() }))
}

async fn set_config(State(shared): State<Shared>, Input(sent): Input<AcmeConfig>) -> Result<Json<AcmeConfig>> {
    if sent.enabled && sent.contact_email.is_empty() {
        return Err(invalid("contact_email", "contact email is required when enabling ACME"));
    }
    if sent.enabled && !sent.terms_of_service_agreed {
        return Err(invalid("terms_of_service_agreed", "terms of service must be agreed to when enabling ACME"));
    }
    let mut change = shared.change().await?;
    store::managed_certificate::set_config(change.sql(), &sent).await?;
    let config = store::managed_certificate::config(change.sql()).await?;
    change.commit().await?;
    Ok(Json(config.without_key()))
}
