//! A small discoverd in memory, which can be told to misbehave.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, put};
use flynn_discoverd_client::Client;
use flynn_http::{Failure, Json, ServerOptions, serve, sse};
use flynn_types::discoverd::{Event, EventKind, Instance, ServiceConfig, ServiceMeta};
use flynn_types::error::{ApiError, ErrorCode};
use futures_util::StreamExt as _;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;

#[derive(Default)]
pub(crate) struct Data {
    index: u64,
    pub(crate) services: BTreeMap<String, Service>,
    /// Each heartbeat and removal: when and what.
    pub(crate) log: Vec<(Instant, String)>,
    /// Writes of metadata that are applied without an answer.
    pub(crate) swallow: u32,
    /// Answers 503 to heartbeats.
    pub(crate) failing: bool,
}

#[derive(Default)]
pub(crate) struct Service {
    pub(crate) instances: BTreeMap<String, Instance>,
    pub(crate) meta: Option<ServiceMeta>,
}

impl Service {
    fn leader(&self) -> Option<Instance> {
        self.instances.values().min_by_key(|instance| instance.index).cloned()
    }
}

/// State that outlives servers.
#[derive(Clone)]
pub(crate) struct Mini {
    pub(crate) data: Arc<Mutex<Data>>,
    events: broadcast::Sender<Event>,
}

/// A running server; ends when dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    shutdown: CancellationToken,
    task: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
}

impl Running {
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        self.task.take().unwrap().await.unwrap().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Mini {
    pub(crate) fn new() -> Self {
        Self { data: Arc::default(), events: broadcast::channel(4096).0 }
    }

    /// Serves on a port of its own, or again on the same one.
    pub(crate) async fn start(&self, address: Option<SocketAddr>) -> Running {
        let listener = TcpListener::bind(address.unwrap_or(([127, 0, 0, 1], 0).into())).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/services", get(names))
            .route("/services/{s}", put(add).get(stream))
            .route("/services/{s}/meta", put(set_meta).get(meta))
            .route("/services/{s}/instances", get(instances))
            .route("/services/{s}/instances/{id}", put(beat).delete(remove))
            .with_state(self.clone());
        let shutdown = CancellationToken::new();
        let options = ServerOptions { grace: Duration::from_millis(100), ..ServerOptions::default() };
        let task = Some(tokio::spawn(serve(listener, router, shutdown.clone(), options)));
        Running { address, shutdown, task }
    }

    pub(crate) fn put(&self, service: &str, instance: &Instance) {
        let mut data = self.data.lock().unwrap();
        data.index += 1;
        let index = data.index;
        let found = data.services.entry(service.to_owned()).or_default();
        let leader = found.leader().map(|leader| leader.id);
        let old = found.instances.get(&instance.id);
        let kind = match old {
            Some(old) if old.same_registration(instance) => return,
            Some(_) => EventKind::Update,
            None => EventKind::Up,
        };
        let instance = Instance { index: old.map_or(index, |old| old.index), ..instance.clone() };
        found.instances.insert(instance.id.clone(), instance.clone());
        let now = found.leader();
        self.tell(service, kind, Some(instance), None);
        if now.as_ref().map(|now| &now.id) != leader.as_ref() {
            self.tell(service, EventKind::Leader, now, None);
        }
    }

    pub(crate) fn remove(&self, service: &str, id: &str) {
        let mut data = self.data.lock().unwrap();
        let Some(found) = data.services.get_mut(service) else { return };
        let leader = found.leader().map(|leader| leader.id);
        let Some(gone) = found.instances.remove(id) else { return };
        let now = found.leader();
        self.tell(service, EventKind::Down, Some(gone), None);
        if now.as_ref().map(|now| &now.id) != leader.as_ref() {
            self.tell(service, EventKind::Leader, now, None);
        }
    }

    fn tell(&self, service: &str, kind: EventKind, instance: Option<Instance>, service_meta: Option<ServiceMeta>) {
        let _ = self.events.send(Event { service: service.to_owned(), kind, instance, service_meta });
    }
}

pub(crate) fn client(servers: &[SocketAddr]) -> Client {
    let list: Vec<String> = servers.iter().map(ToString::to_string).collect();
    Client::from_list(&list.join(",")).unwrap()
}

type Answer = Result<Response, Failure>;

fn not_found(service: &str) -> Failure {
    ApiError::object_not_found(format!("discoverd: service {service:?} not found")).into()
}

async fn names(State(mini): State<Mini>) -> Response {
    let data = mini.data.lock().unwrap();
    axum::Json(data.services.keys().cloned().collect::<Vec<_>>()).into_response()
}

async fn add(State(mini): State<Mini>, Path(service): Path<String>, Json(_): Json<ServiceConfig>) -> Answer {
    let mut data = mini.data.lock().unwrap();
    if data.services.contains_key(&service) {
        return Err(ApiError::new(ErrorCode::ObjectExists, "already exists").into());
    }
    data.services.insert(service, Service::default());
    Ok(().into_response())
}

async fn stream(State(mini): State<Mini>, Path(service): Path<String>) -> Response {
    let data = mini.data.lock().unwrap();
    let live = BroadcastStream::new(mini.events.subscribe());
    let event = |kind, instance| Event { service: service.clone(), kind, instance, service_meta: None };
    let mut replay = Vec::new();
    if let Some(found) = data.services.get(&service) {
        let mut instances: Vec<_> = found.instances.values().cloned().collect();
        instances.sort_by_key(|instance| instance.index);
        replay.extend(instances.into_iter().map(|instance| event(EventKind::Up, Some(instance))));
        replay.extend(found.leader().map(|leader| event(EventKind::Leader, Some(leader))));
        replay.extend(
            found.meta.clone().map(|meta| Event { service_meta: Some(meta), ..event(EventKind::ServiceMeta, None) }),
        );
    }
    replay.push(event(EventKind::Current, None));
    let ours =
        live.filter(move |event| std::future::ready(event.as_ref().map_or(true, |event| event.service == service)));
    sse(futures_util::stream::iter(replay).map(Ok).chain(ours))
}

async fn beat(State(mini): State<Mini>, Path((service, _)): Path<(String, String)>, request: Request) -> Answer {
    let Json(instance) = Json::<Instance>::read_untyped(request, 1 << 20).await?;
    instance.validate().map_err(|err| ApiError::validation("", &err.to_string()))?;
    {
        let mut data = mini.data.lock().unwrap();
        data.log.push((Instant::now(), format!("put {}", instance.addr)));
        if data.failing {
            return Err(ApiError::unavailable("discoverd: no known leader").into());
        }
        if !data.services.contains_key(&service) {
            return Err(not_found(&service));
        }
    }
    mini.put(&service, &instance);
    Ok(().into_response())
}

async fn remove(State(mini): State<Mini>, Path((service, id)): Path<(String, String)>) -> Response {
    mini.data.lock().unwrap().log.push((Instant::now(), format!("delete {id}")));
    mini.remove(&service, &id);
    ().into_response()
}

async fn instances(State(mini): State<Mini>, Path(service): Path<String>) -> Answer {
    let data = mini.data.lock().unwrap();
    let Some(found) = data.services.get(&service).filter(|found| !found.instances.is_empty()) else {
        return Err(ApiError::object_not_found(format!("service not found: {service:?}")).into());
    };
    Ok(axum::Json(found.instances.values().cloned().collect::<Vec<_>>()).into_response())
}

async fn meta(State(mini): State<Mini>, Path(service): Path<String>) -> Answer {
    let data = mini.data.lock().unwrap();
    let meta = data.services.get(&service).and_then(|found| found.meta.clone());
    let meta = meta.ok_or_else(|| Failure(ApiError::object_not_found("service meta not found")))?;
    Ok(axum::Json(meta).into_response())
}

async fn set_meta(State(mini): State<Mini>, Path(service): Path<String>, Json(meta): Json<ServiceMeta>) -> Answer {
    let (written, swallowed) = {
        let mut data = mini.data.lock().unwrap();
        data.index += 1;
        let index = data.index;
        let found = data.services.get_mut(&service).ok_or_else(|| not_found(&service))?;
        match (&found.meta, meta.index) {
            (Some(_), 0) => return Err(ApiError::new(ErrorCode::ObjectExists, "already exists").into()),
            (Some(old), index) if old.index != index => {
                return Err(ApiError::new(ErrorCode::PreconditionFailed, "wrong index provided").into());
            }
            (None, 1..) => return Err(ApiError::new(ErrorCode::PreconditionFailed, "does not exist").into()),
            _ => {}
        }
        let written = ServiceMeta { index, ..meta };
        found.meta = Some(written.clone());
        mini.tell(&service, EventKind::ServiceMeta, None, Some(written.clone()));
        let swallowed = data.swallow > 0;
        data.swallow = data.swallow.saturating_sub(1);
        (written, swallowed)
    };
    if swallowed {
        std::future::pending::<()>().await;
    }
    Ok(axum::Json(written).into_response())
}
