//! The HTTP API (spec build-and-deploy section 11.1).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Router, routing};
use flynn_types::status::{Health, Status};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, header};
use tracing::warn;

use crate::error::Error;
use crate::path;
use crate::respond::plan;
use crate::store::{Found, Store};

const OFFSET: &str = "blobstore-offset";
const COPY_FROM: &str = "blobstore-copy-from";

#[derive(Clone)]
struct Shared {
    store: Arc<Store>,
    version: String,
}

pub(crate) fn router(store: Store, version: String) -> Router {
    let shared = Shared { store: Arc::new(store), version };
    Router::new().route("/.well-known/status", routing::get(status)).fallback(answer).with_state(shared)
}

async fn status(State(shared): State<Shared>) -> Response {
    let health = match shared.store.check().await {
        Ok(()) => Health::Healthy,
        Err(err) => {
            warn!(err = &err as &dyn std::error::Error, "the database does not answer");
            Health::Unhealthy
        }
    };
    flynn_http::status(&Status::new(health, &shared.version))
}

async fn answer(State(shared): State<Shared>, request: Request) -> Result<Response, Error> {
    let (parts, body) = request.into_parts();
    let name = path::name_of(parts.uri.path())?;
    let store = &shared.store;
    if name == "/" {
        return root(store, &parts).await;
    }
    match parts.method {
        Method::GET => get(store, &name, &parts.headers).await,
        Method::HEAD => head(store, &name, &parts.headers).await,
        Method::PUT => put(store, &name, &parts.headers, body).await,
        Method::DELETE => {
            store.delete(&name).await?;
            Ok(StatusCode::OK.into_response())
        }
        _ => Ok(StatusCode::METHOD_NOT_ALLOWED.into_response()),
    }
}

async fn root(store: &Store, parts: &Parts) -> Result<Response, Error> {
    match parts.method {
        Method::GET => {
            let query = parts.uri.query().unwrap_or_default();
            let mut pairs = url::form_urlencoded::parse(query.as_bytes());
            let directory = pairs.find(|(name, _)| name == "dir").map(|(_, value)| path::clean(&value));
            let names = store.list(&directory.unwrap_or_else(|| "/".to_owned())).await?;
            let list = serde_json::Value::from(names).to_string();
            Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], list + "\n").into_response())
        }
        Method::HEAD => Ok(StatusCode::OK.into_response()),
        _ => Ok(StatusCode::NOT_FOUND.into_response()),
    }
}

async fn get(store: &Store, name: &str, headers: &HeaderMap) -> Result<Response, Error> {
    let opened = match store.open(name).await? {
        Found::Here(opened) => opened,
        // The store evaluates conditions and ranges: clients send them there, too.
        Found::Elsewhere(url) => {
            return Ok((StatusCode::FOUND, [(header::LOCATION, url.as_str())]).into_response());
        }
    };
    let plan = plan(&opened.file, headers);
    let body = if plan.parts.is_empty() { Body::empty() } else { Body::from_stream(opened.stream(plan.parts)) };
    Ok((plan.status, plan.headers, body).into_response())
}

async fn head(store: &Store, name: &str, headers: &HeaderMap) -> Result<Response, Error> {
    let plan = plan(&store.find(name).await?, headers);
    Ok((plan.status, plan.headers).into_response())
}

async fn put(store: &Store, name: &str, headers: &HeaderMap, body: Body) -> Result<Response, Error> {
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    if let Some(from) = text(COPY_FROM).filter(|from| !from.is_empty()) {
        store.copy(&path::name_of(&from)?, name).await?;
        return Ok(StatusCode::OK.into_response());
    }
    let offset = match text(OFFSET) {
        Some(offset) if !offset.is_empty() => {
            offset.parse::<i64>().map_err(|_| Error::InvalidOffset(offset.into_owned()))?
        }
        _ => 0,
    };
    if offset > 0 {
        store.append(name, offset, body).await?;
    } else {
        let content_type = text(header::CONTENT_TYPE.as_str()).unwrap_or_default();
        store.put(name, &content_type, body).await?;
    }
    Ok(StatusCode::OK.into_response())
}
