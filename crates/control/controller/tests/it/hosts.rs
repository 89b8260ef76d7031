//! Jobs on hosts. Service discovery is real; hosts are doubles that speak the host API as far as the controller needs it,
//! for real ones need namespaces and images.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{post, put};
use flynn_controller::Discovery;
use flynn_discoverd::{Config, Discoverd};
use flynn_discoverd_client::Client as DiscoverdClient;
use flynn_types::controller::Job;
use flynn_types::discoverd::{Instance, ServiceConfig};
use flynn_types::host::attach::{Frame, PROTOCOL};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::fixture::Controller;

/// A discoverd of one node.
struct Cluster {
    discoverd: Discoverd,
    client: DiscoverdClient,
    _folder: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config =
            Config { register: false, ..Config::new("h1", address, folder.path().join("raft.redb"), Vec::new()) };
        let discoverd = Discoverd::start(config, vec![listener]).await.unwrap();
        let client = DiscoverdClient::from_list(&format!("http://{address}")).unwrap();
        let client = client.with_patience(flynn_patience::seconds(30));
        client.add_service("flynn-host", &ServiceConfig::default()).await.unwrap();
        Self { discoverd, client, _folder: folder }
    }

    async fn controller(&self) -> Controller {
        let instance = Instance::new("http", "127.0.0.1:9", BTreeMap::from([("AUTH_KEY".into(), "one".into())]));
        let discovery = Discovery { client: self.client.clone(), instance };
        Controller::start_in(Controller::database().await, Some(discovery), |_| {}).await
    }

    /// Waits until the instances of a service are as they should be.
    async fn instances(&self, service: &str, right: impl Fn(&[Instance]) -> bool) -> Vec<Instance> {
        let deadline = std::time::Instant::now() + flynn_patience::seconds(30);
        loop {
            let found = self.client.instances(service).await.unwrap_or_default();
            if right(&found) {
                return found;
            }
            assert!(std::time::Instant::now() < deadline, "{service} has {found:?}");
            tokio::time::sleep(Duration::from_millis(20)).await; // between two looks
        }
    }

    async fn host(&self, id: &str, behaviour: Behaviour) -> TestHost {
        let host = TestHost { behaviour, seen: Arc::new(watch::Sender::new(Seen::default())) };
        let router = axum::Router::new()
            .route("/host/jobs/{id}", put(add).delete(stop))
            .route("/attach", post(attach))
            .with_state(host.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let instance = Instance::new("tcp", &address, BTreeMap::from([("id".into(), id.into())]));
        self.client.put_instance("flynn-host", &instance).await.unwrap();
        host
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Behaviour {
    Runs,
    Drains,
    /// Takes a job and never starts it.
    Hangs,
}

#[derive(Default)]
struct Seen {
    jobs: Vec<flynn_types::host::Job>,
    stopped: Vec<String>,
}

#[derive(Clone)]
struct TestHost {
    behaviour: Behaviour,
    seen: Arc<watch::Sender<Seen>>,
}

impl TestHost {
    async fn wait(&self, what: impl Fn(&Seen) -> bool) {
        let mut seen = self.seen.subscribe();
        let waited = tokio::time::timeout(flynn_patience::seconds(30), seen.wait_for(|seen| what(seen)));
        waited.await.expect("the host is asked in time").unwrap();
    }
}

async fn add(State(host): State<TestHost>, axum::Json(job): axum::Json<flynn_types::host::Job>) -> Response {
    if host.behaviour == Behaviour::Drains {
        let error = json!({ "code": "service_unavailable", "message": "host is draining", "retry": true });
        return (StatusCode::SERVICE_UNAVAILABLE, axum::Json(error)).into_response();
    }
    host.seen.send_modify(|seen| seen.jobs.push(job));
    StatusCode::OK.into_response()
}

async fn stop(State(host): State<TestHost>, Path(id): Path<String>) -> Response {
    if host.seen.borrow().jobs.iter().all(|job| job.id != id) {
        let error = json!({ "code": "object_not_found", "message": "unknown job", "retry": false });
        return (StatusCode::NOT_FOUND, axum::Json(error)).into_response();
    }
    host.seen.send_modify(|seen| seen.stopped.push(id));
    StatusCode::OK.into_response()
}

/// Says that it waits, and once the job is there gives back what comes until the input ends.
async fn attach(State(host): State<TestHost>, mut request: Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        stream.write_all(&Frame::Waiting.encode()).await.unwrap();
        host.wait(|seen| !seen.jobs.is_empty()).await;
        if host.behaviour == Behaviour::Hangs {
            return std::future::pending().await;
        }
        stream.write_all(&Frame::Success.encode()).await.unwrap();
        let mut buffer = Vec::new();
        loop {
            match frame(&mut stream, &mut buffer).await {
                Some(Frame::Data { payload, .. }) if payload.is_empty() => break,
                Some(Frame::Data { payload, .. }) => {
                    stream.write_all(&Frame::Data { stream: 1, payload }.encode()).await.unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
        stream.write_all(&Frame::Exit(7).encode()).await.unwrap();
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)]).into_response()
}

/// The next frame, or the end.
async fn frame(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<Frame> {
    loop {
        if let Some((frame, used)) = Frame::decode(buffer).unwrap() {
            buffer.drain(..used);
            return Some(frame);
        }
        if stream.read_buf(buffer).await.unwrap() == 0 {
            return None;
        }
    }
}

/// An app with a release, and what runs a job of it.
async fn job(controller: &Controller) -> Value {
    let app = controller.app("shop").await;
    let release = controller.release(&app, &["web"]).await;
    json!({ "release": release.id, "args": ["sh"], "release_env": true, "tty": true, "tty_columns": 80, "tty_lines": 24 })
}

#[tokio::test]
async fn j7_j9_j13_j14_jobs_run_on_a_host_that_takes_them() {
    let cluster = Cluster::start().await;
    let controller = cluster.controller().await;
    let drains = cluster.host("host1", Behaviour::Drains).await;
    let runs = cluster.host("host2", Behaviour::Runs).await;
    let wanted = job(&controller).await;
    let started: Job = controller.post("/apps/shop/jobs", &wanted).await.json();
    assert_eq!(
        (started.host_id.as_str(), started.state, started.args.as_slice()),
        ("host2", None, &["sh".to_owned()][..])
    );
    assert_eq!(started.id, format!("host2-{}", started.uuid));
    {
        let seen = runs.seen.borrow();
        let job = &seen.jobs[0];
        assert_eq!(
            (job.id.as_str(), job.config.stdin, job.config.env["A"].as_str()),
            (started.id.as_str(), false, "1")
        );
        assert!(seen.stopped.is_empty() && drains.seen.borrow().jobs.is_empty());
    }
    // J7: the host's own words about a job that it does not know.
    let app: flynn_types::controller::App = controller.get("/apps/shop").await.json();
    let record = async |uuid: &str| {
        let job = json!({ "uuid": uuid, "id": format!("host2-{uuid}"), "host_id": "host2", "app": app.id, "release": wanted["release"], "state": "up" });
        controller.put("/apps/shop/jobs/x", &job).await.json::<Job>()
    };
    record(&started.uuid).await;
    controller.delete(&format!("/apps/shop/jobs/{}", started.id)).await.empty();
    assert_eq!(runs.seen.borrow().stopped, [started.id]);
    let unknown = record("11111111-0d4b-4b7c-8d0f-3c1b7e0a1d11").await;
    let error = controller.delete(&format!("/apps/shop/jobs/{}", unknown.uuid)).await.error(404, "unknown job");
    assert_eq!(error.code.as_str(), "object_not_found");
    let hosts: Value = controller.get("/hosts").await.json();
    assert_eq!((hosts[0]["id"].as_str(), hosts[1]["id"].as_str()), (Some("host1"), Some("host2")));
}

#[tokio::test]
async fn j15_an_attached_client_sees_frames_only() {
    let cluster = Cluster::start().await;
    let controller = cluster.controller().await;
    cluster.host("host1", Behaviour::Runs).await;
    let wanted = job(&controller).await;
    let mut stream = controller.client().upgrade("/apps/shop/jobs", &wanted, PROTOCOL).await.unwrap();
    let send = async |stream: &mut (dyn AsyncWrite + Unpin + Send), text: &str| {
        let frame = Frame::Data { stream: 0, payload: text.as_bytes().to_vec() };
        stream.write_all(&frame.encode()).await.unwrap();
        stream.flush().await.unwrap();
    };
    let mut buffer = Vec::new();
    for text in ["hello", "again"] {
        send(&mut stream, text).await;
        let echoed = frame(&mut stream, &mut buffer).await;
        assert_eq!(echoed, Some(Frame::Data { stream: 1, payload: text.as_bytes().to_vec() }));
    }
    send(&mut stream, "").await;
    assert_eq!(frame(&mut stream, &mut buffer).await, Some(Frame::Exit(7)));
    assert_eq!(frame(&mut stream, &mut buffer).await, None);
}

#[tokio::test]
async fn w19_a_client_that_goes_leaves_no_job_behind() {
    let cluster = Cluster::start().await;
    let controller = cluster.controller().await;
    let host = cluster.host("host1", Behaviour::Hangs).await;
    let wanted = job(&controller).await;
    {
        let client = controller.client();
        let upgrade = client.upgrade("/apps/shop/jobs", &wanted, PROTOCOL);
        tokio::select! {
            _ = upgrade => panic!("the job never starts"),
            () = host.wait(|seen| seen.jobs.len() == 1) => {}
        }
    }
    host.wait(|seen| seen.stopped.len() == 1).await;
}

#[tokio::test]
async fn w7_the_api_is_found_with_one_key_and_withdrawn_at_the_end() {
    let cluster = Cluster::start().await;
    let controller = cluster.controller().await;
    let found = cluster.instances("controller", |found| found.len() == 1).await;
    assert_eq!((found[0].proto.as_str(), found[0].meta["AUTH_KEY"].as_str()), ("http", "one"));
    controller.shutdown.cancel();
    cluster.instances("controller", <[Instance]>::is_empty).await;
    cluster.discoverd.shutdown().await;
}
