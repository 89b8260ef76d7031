//! The scheduler with a real host and real discovery. The controller is a stand-in that speaks its protocol.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use flynn_harness::ClusterOptions;
use flynn_scenarios::{busybox, cluster};
use flynn_scheduler::driver::{Config, Handle, Scheduler};
use flynn_types::controller::{
    App, ExpandedFormation, Job, JobState, ProcessType, Release, ScaleRequest, Sink, Volume, VolumeReq,
};
use flynn_types::discoverd::Instance;
use futures_util::StreamExt as _;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// What the stand-in stores.
#[derive(Default)]
struct Stored {
    formations: BTreeMap<(String, String), ExpandedFormation>,
    jobs: BTreeMap<String, Job>,
    volumes: BTreeMap<String, Volume>,
    scaled: Vec<String>,
}

#[derive(Clone)]
struct Controller {
    stored: Arc<Mutex<Stored>>,
    changes: broadcast::Sender<ExpandedFormation>,
}

type Parameters = Query<BTreeMap<String, String>>;

impl Controller {
    /// Serves on a port of its own; gives its address.
    async fn start() -> (Self, String) {
        let controller = Self { stored: Arc::default(), changes: broadcast::channel(64).0 };
        let router = Router::new()
            .route("/formations", get(formations))
            .route("/apps/{app}/formations/{release}", get(formation))
            .route("/apps/{app}/jobs/{job}", put(job))
            .route("/apps/{app}/scale/{release}", put(scale))
            .route("/active-jobs", get(active_jobs))
            .route("/volumes", get(volumes))
            .route("/volumes/{volume}", put(volume))
            .route("/sinks", get(sinks))
            .with_state(controller.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (controller, base)
    }

    fn put(&self, mut formation: ExpandedFormation) {
        formation.updated_at = chrono::Utc::now().into();
        let (app, release) =
            (formation.app.as_ref().unwrap().id.clone(), formation.release.as_ref().unwrap().id.clone());
        formation.pending_scale_request =
            Some(ScaleRequest { id: uuid::Uuid::new_v4().to_string(), ..ScaleRequest::default() });
        self.stored.lock().unwrap().formations.insert((app, release), formation.clone());
        let _ = self.changes.send(formation); // nobody may listen yet
    }

    fn jobs(&self, state: JobState) -> Vec<Job> {
        let stored = self.stored.lock().unwrap();
        stored.jobs.values().filter(|job| job.state == Some(state)).cloned().collect()
    }

    /// Waits until so many jobs are up, and no more; gives them.
    async fn up(&self, count: usize, handle: &Handle) -> Vec<Job> {
        let deadline = tokio::time::Instant::now() + flynn_patience::seconds(60);
        loop {
            let up = self.jobs(JobState::Up);
            if up.len() == count {
                return up;
            }
            if tokio::time::Instant::now() > deadline {
                let jobs: Vec<_> = self.stored.lock().unwrap().jobs.values().cloned().collect();
                panic!("{} of {count} are up: {jobs:#?}\n{:#}", up.len(), handle.state().await.unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn formations(State(controller): State<Controller>, headers: HeaderMap, _: Parameters) -> Response {
    let changes = controller.changes.subscribe();
    let known: Vec<_> = controller.stored.lock().unwrap().formations.values().cloned().collect();
    if !flynn_http::wants_events(&headers) {
        let active = known.into_iter().filter(|formation| formation.processes.values().sum::<i64>() > 0);
        return Json(active.collect::<Vec<_>>()).into_response();
    }
    let list = futures_util::stream::iter(known.into_iter().chain([ExpandedFormation::default()]));
    let changes = futures_util::stream::unfold(changes, |mut changes| async {
        let change = changes.recv().await.ok()?;
        Some((change, changes))
    });
    flynn_http::sse(list.chain(changes).map(Ok::<_, String>))
}

async fn formation(State(controller): State<Controller>, Path(key): Path<(String, String)>) -> Response {
    match controller.stored.lock().unwrap().formations.get(&key) {
        Some(found) => Json(found.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn job(State(controller): State<Controller>, Json(job): Json<Job>) -> Json<Job> {
    controller.stored.lock().unwrap().jobs.insert(job.uuid.clone(), job.clone());
    Json(job)
}

async fn scale(State(controller): State<Controller>, Json(request): Json<ScaleRequest>) -> Json<ScaleRequest> {
    controller.stored.lock().unwrap().scaled.push(request.id.clone());
    Json(request)
}

async fn active_jobs(State(controller): State<Controller>) -> Json<Vec<Job>> {
    let stored = controller.stored.lock().unwrap();
    let active = stored.jobs.values().filter(|job| job.state.is_some_and(|state| !state.is_terminal()));
    Json(active.cloned().collect())
}

async fn volumes(State(controller): State<Controller>, headers: HeaderMap) -> Response {
    if !flynn_http::wants_events(&headers) {
        let volumes: Vec<_> = controller.stored.lock().unwrap().volumes.values().cloned().collect();
        return Json(volumes).into_response();
    }
    list_and_wait(Volume::default())
}

async fn volume(State(controller): State<Controller>, Json(volume): Json<Volume>) -> Json<Volume> {
    controller.stored.lock().unwrap().volumes.insert(volume.id.clone(), volume.clone());
    Json(volume)
}

async fn sinks(headers: HeaderMap) -> Response {
    if flynn_http::wants_events(&headers) {
        list_and_wait(Sink::default())
    } else {
        Json(Vec::<Sink>::new()).into_response()
    }
}

/// A stream with the end of an empty list, and then nothing.
fn list_and_wait<T: serde::Serialize + Send + 'static>(end: T) -> Response {
    let items = futures_util::stream::iter([Ok::<_, String>(end)]);
    flynn_http::sse(items.chain(futures_util::stream::pending()))
}

/// An app of the busybox image, with `count` jobs that run until they are stopped.
fn shop(count: i64, volumes: Vec<VolumeReq>) -> ExpandedFormation {
    let web = ProcessType {
        args: ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"].map(str::to_owned).into(),
        volumes,
        ..ProcessType::default()
    };
    let id = "9b1d2f6e-0000-4000-8000-000000000001".to_owned();
    ExpandedFormation {
        app: Some(App { id: id.clone(), name: "shop".into(), ..App::default() }),
        release: Some(Release {
            id: id.clone(),
            app_id: id,
            processes: BTreeMap::from([("web".to_owned(), web)]),
            ..Release::default()
        }),
        artifacts: vec![busybox().clone()],
        processes: BTreeMap::from([("web".to_owned(), count)]),
        ..ExpandedFormation::default()
    }
}

/// Runs a scheduler until stopped.
fn scheduler(
    discoverd: &str,
    controller: &str,
    port: u16,
    stop: &CancellationToken,
) -> (Handle, tokio::task::JoinHandle<()>) {
    let config = Config {
        discoverd: flynn_discoverd_client::Client::from_list(discoverd).unwrap(),
        controller: flynn_controller_client::Client::new(controller, "key"),
        host_auth_key: None,
        instance: Instance::new("http", &format!("127.0.0.1:{port}"), BTreeMap::new()),
        job_id: String::new(),
        seed: uuid::Uuid::new_v4().as_u128(),
    };
    let scheduler = Scheduler::new(config, stop);
    (scheduler.handle(), tokio::spawn(scheduler.run()))
}

#[test]
fn a_formation_is_started_replaced_and_stopped_also_by_the_next_scheduler() {
    let cluster = cluster(ClusterOptions::default()).unwrap();
    let host = cluster.host(0);
    let (discoverd, api) = (format!("http://{}:1111", host.ip()), format!("http://{}:1113", host.ip()));
    host.in_network(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(live(&discoverd, &api));
    })
    .unwrap();
    cluster.down().unwrap();
}

async fn live(discoverd: &str, api: &str) {
    let (controller, base) = Controller::start().await;
    let host = flynn_host_client::Client::new(api, None).unwrap();
    let stop = CancellationToken::new();
    let (handle, running) = scheduler(discoverd, &base, 7001, &stop);
    controller.put(shop(2, Vec::new()));
    let first = controller.up(2, &handle).await;
    // A job that ends is replaced.
    host.stop_job(&first[0].id).await.unwrap();
    let wait = async {
        while controller.jobs(JobState::Down).len() != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(flynn_patience::seconds(30), wait).await.unwrap();
    assert_eq!(controller.jobs(JobState::Down)[0].uuid, first[0].uuid);
    let second = controller.up(2, &handle).await;
    assert!(second.iter().any(|job| job.uuid == first[1].uuid), "the other one goes on");
    // The next scheduler finds what runs, and goes on from there.
    let next_stop = CancellationToken::new();
    let (next, next_running) = scheduler(discoverd, &base, 7002, &next_stop);
    stop.cancel();
    running.await.unwrap();
    controller.put(shop(3, Vec::new()));
    let third = controller.up(3, &next).await;
    assert!(second.iter().all(|job| third.iter().any(|other| other.uuid == job.uuid)), "nothing was started anew");
    // What an earlier leader asks for is refused.
    let leader = flynn_discoverd_client::Client::from_list(discoverd).unwrap().leader("controller-scheduler").await;
    let term = leader.unwrap().unwrap().index;
    let stale = host.clone().with_header(flynn_types::host::TERM_HEADER, &(term - 1).to_string());
    assert_eq!(stale.stop_job(&third[0].id).await.unwrap_err().status(), Some(409));
    controller.put(shop(0, Vec::new()));
    controller.up(0, &next).await;
    assert!(host.jobs(true).await.unwrap().is_empty());
    // Data stays with its type.
    let data = || vec![VolumeReq { path: "/data".into(), delete_on_stop: false }];
    controller.put(shop(1, data()));
    let before = controller.up(1, &next).await.remove(0);
    host.stop_job(&before.id).await.unwrap();
    let deadline = tokio::time::Instant::now() + flynn_patience::seconds(60);
    let after = loop {
        let up = controller.up(1, &next).await.remove(0);
        if up.uuid != before.uuid {
            break up;
        }
        assert!(tokio::time::Instant::now() < deadline, "it is replaced");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(after.volume_ids, before.volume_ids);
    assert_eq!(after.volume_ids.len(), 1);
    controller.put(shop(0, data()));
    controller.up(0, &next).await;
    for volume in &after.volume_ids {
        host.destroy_volume(volume).await.unwrap();
    }
    next_stop.cancel();
    next_running.await.unwrap();
}
