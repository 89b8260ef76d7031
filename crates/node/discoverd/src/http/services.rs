//! Services, instances, leaders and metadata.

use std::time::Duration;

use flynn_types::discoverd::{Instance, LeaderChange, LeaderType, ServiceConfig, ServiceMeta, validate_service_name};
use flynn_types::error::{ApiError, ErrorCode};
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::json;
use serde_json::value::RawValue;

use super::answer::{self, Answer, Body};
use super::body;
use super::compact::compact;
use super::server::Exchange;
use crate::Kinds;
use crate::peer::Beat;
use crate::registry::{Applied, Command, Refusal};

/// How long a plain read waits for a node that has just started.
const FRESH_READ: Duration = Duration::from_secs(1);

type Requested = Request<Incoming>;

pub(super) fn status(exchange: &Exchange) -> Response<Body> {
    let trouble = exchange.node.status.borrow().trouble.clone();
    let version = &exchange.node.config.version;
    match trouble {
        None => answer::pretty(StatusCode::OK, &json!({"data": {"status": "healthy", "version": version}})),
        Some(reason) => answer::pretty(
            StatusCode::INTERNAL_SERVER_ERROR,
            &json!({"data": {"status": "unhealthy", "version": version, "detail": {"store": reason}}}),
        ),
    }
}

pub(super) async fn names(exchange: &Exchange, consistent: bool) -> Answer {
    before_read(exchange, consistent).await?;
    answer::json(&exchange.node.replica.with(|s| s.registry.service_names()))
}

pub(super) async fn add(exchange: &Exchange, service: String, request: Requested) -> Answer {
    check_name(&service)?;
    body::check_content_type(request.headers())?;
    let config: ServiceConfig = body::json(request.into_body()).await?;
    write(exchange, Command::AddService { service, leader_type: config.leader_type }).await?;
    Ok(answer::done())
}

pub(super) async fn remove(exchange: &Exchange, service: String) -> Answer {
    check_name(&service)?;
    write(exchange, Command::RemoveService { service }).await?;
    Ok(answer::done())
}

pub(super) async fn watch(exchange: &Exchange, service: &str, consistent: bool) -> Answer {
    before_stream(exchange, consistent).await?;
    Ok(exchange.stream(service, Kinds::ALL))
}

pub(super) async fn set_meta(exchange: &Exchange, service: String, request: Requested) -> Answer {
    body::check_content_type(request.headers())?;
    let meta: ServiceMeta = body::json(request.into_body()).await?;
    let data = meta.data.as_ref().map_or_else(|| "null".to_owned(), |data| compact(data.get()));
    if data.len() > body::MAX_META {
        let message = format!("service metadata is longer than {} bytes", body::MAX_META);
        return Err(ApiError::new(ErrorCode::BodyTooBig, message));
    }
    let leader_id = Some(meta.leader_id.clone()).filter(|id| !id.is_empty());
    let command = Command::SetMeta { service, data: data.clone(), index: meta.index, leader_id };
    match write(exchange, command).await? {
        Applied::Meta { index } => {
            answer::json(&ServiceMeta { data: RawValue::from_string(data).ok(), index, leader_id: meta.leader_id })
        }
        Applied::Done => Err(ApiError::internal("the write of metadata gave no index")),
    }
}

pub(super) async fn meta(exchange: &Exchange, service: &str, consistent: bool) -> Answer {
    before_read(exchange, consistent).await?;
    let meta = exchange.node.replica.with(|s| s.registry.meta(service));
    answer::json(&meta.ok_or_else(|| ApiError::object_not_found("service meta not found"))?)
}

pub(super) async fn put_instance(exchange: &Exchange, service: String, request: Requested) -> Answer {
    let mut instance: Instance = body::json(request.into_body()).await?;
    instance.index = 0;
    let node = &exchange.node;
    // What is registered already is valid.
    if let Some(epoch) = node.replica.with(|s| s.registry.unchanged(&service, &instance)) {
        let beat = Beat { service: service.clone(), id: instance.id.clone(), epoch };
        if node.beat(beat).await {
            return Ok(answer::done());
        }
    }
    instance.validate().map_err(|err| ApiError::validation("", &err.to_string()))?;
    write(exchange, Command::AddInstance { service, instance }).await?;
    Ok(answer::done())
}

pub(super) async fn remove_instance(exchange: &Exchange, service: String, id: String) -> Answer {
    write(exchange, Command::RemoveInstance { service, id }).await?;
    Ok(answer::done())
}

pub(super) async fn instances(exchange: &Exchange, service: &str, request: &Requested, consistent: bool) -> Answer {
    if wants_events(request.headers()) {
        before_stream(exchange, consistent).await?;
        return Ok(exchange.stream(service, Kinds::INSTANCES));
    }
    before_read(exchange, consistent).await?;
    let instances = exchange.node.replica.with(|s| s.registry.instances(service));
    if instances.is_empty() {
        return Err(ApiError::object_not_found(format!("service not found: {service:?}")));
    }
    answer::json(&instances)
}

pub(super) async fn set_leader(exchange: &Exchange, service: String, request: Requested) -> Answer {
    let leads = exchange.node.status.borrow().leads;
    // First of all, as in Go; only the leader surely knows.
    if leads && exchange.node.replica.with(|s| s.registry.leader_type(&service)) != Some(LeaderType::Manual) {
        return Err(refused(&Refusal::NotManual));
    }
    body::check_content_type(request.headers())?;
    let change: LeaderChange = body::json(request.into_body()).await?;
    write(exchange, Command::SetLeader { service, id: change.id }).await?;
    Ok(answer::done())
}

pub(super) async fn leader(exchange: &Exchange, service: &str, request: &Requested, consistent: bool) -> Answer {
    if wants_events(request.headers()) {
        before_stream(exchange, consistent).await?;
        return Ok(exchange.stream(service, Kinds::LEADER));
    }
    before_read(exchange, consistent).await?;
    let leader = exchange.node.replica.with(|s| s.registry.leader(service));
    answer::json(&leader.ok_or_else(|| ApiError::object_not_found("no leader found"))?)
}

fn check_name(service: &str) -> Result<(), ApiError> {
    validate_service_name(service).map_err(|err| ApiError::validation("", &err.to_string()))
}

fn wants_events(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(header::ACCEPT).iter();
    accepted.any(|value| value.to_str().is_ok_and(|text| text.contains("text/event-stream")))
}

/// A plain read may be stale, but not so stale as a node that has not met its cluster since it started.
async fn before_read(exchange: &Exchange, consistent: bool) -> Result<(), ApiError> {
    let node = &exchange.node;
    if consistent {
        return node.linearize().await;
    }
    if node.await_ready(FRESH_READ).await || node.replica.with(|s| s.last_applied.is_some()) {
        return Ok(());
    }
    Err(ApiError::unavailable("discoverd: no known leader"))
}

/// A stream never shows an older state than the same node showed before it was restarted: a client that resumes would
/// take it for the disappearance of instances.
async fn before_stream(exchange: &Exchange, consistent: bool) -> Result<(), ApiError> {
    let node = &exchange.node;
    if consistent {
        return node.linearize().await;
    }
    if node.await_ready(node.config.timing.leader_patience).await {
        return Ok(());
    }
    Err(ApiError::unavailable("discoverd: no known leader"))
}

pub(super) async fn write(exchange: &Exchange, command: Command) -> Result<Applied, ApiError> {
    exchange.node.write(command).await?.map_err(|refusal| refused(&refusal))
}

fn refused(refusal: &Refusal) -> ApiError {
    let code = match refusal {
        Refusal::ServiceExists(_) | Refusal::MetaExists(_) => ErrorCode::ObjectExists,
        Refusal::ServiceMissing(_) => ErrorCode::ObjectNotFound,
        Refusal::MetaMissing(_) | Refusal::MetaWrongIndex(_) => ErrorCode::PreconditionFailed,
        Refusal::NotManual => ErrorCode::Validation,
    };
    ApiError::new(code, refusal.to_string())
}
