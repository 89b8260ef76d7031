//! A controller, workers, and a scheduler that reports jobs without starting any.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flynn_controller_client::{Client as ControllerClient, Fed};
use flynn_http::{Client, ClientError};
use flynn_test_postgres::Database;
use flynn_types::controller::{
    App, Deployment, DeploymentEvent, DeploymentStatus, Event, ExpandedFormation, Formation, Job, JobState, Release,
    ScaleRequest, ScaleRequestState,
};
use flynn_types::image::Artifact;
use http::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

pub(crate) const KEY: &str = "test-key";

pub(crate) fn patience() -> Duration {
    flynn_patience::seconds(60)
}

/// Waits until there is something.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What runs for a test. It ends with the test.
pub(crate) struct Cluster {
    pub(crate) database: Database,
    pub(crate) http: Client,
    url: String,
    /// Where files are kept.
    pub(crate) files: String,
    /// Paths of files that were deleted.
    pub(crate) deleted: Arc<Mutex<Vec<String>>>,
    _serving: [AbortOnDropHandle<()>; 2],
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With settings of the controller.
    pub(crate) async fn start_with(change: impl FnOnce(&mut flynn_controller::Config)) -> Self {
        let database = Database::create(|options| async move {
            let mut connection = sqlx::PgConnection::connect_with(&options).await.expect("connect");
            flynn_controller::migrate(&mut connection).await.expect("migrate");
        });
        let database = database.await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let mut config = flynn_controller::Config::new(KEY);
        change(&mut config);
        let serving = flynn_controller::serve(config, database.options(), listener, None, CancellationToken::new());
        let serving = AbortOnDropHandle::new(tokio::spawn(async move { serving.await.expect("serve") }));
        let http = Client::new(&url).with_basic_auth(KEY).with_connect_patience(Duration::from_secs(5));
        let deleted = Arc::default();
        let (files, keeping) = keep_files(Arc::clone(&deleted)).await;
        Self { database, http, url, files, deleted, _serving: [serving, keeping] }
    }

    pub(crate) fn controller(&self) -> ControllerClient {
        ControllerClient::new(&self.url, KEY)
    }

    pub(crate) async fn worker(&self) -> Worker {
        Worker::start(self).await
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        self.http.get_json(path).await.unwrap_or_else(|err| panic!("GET {path}: {err}"))
    }

    pub(crate) async fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: &Value) -> T {
        let what = format!("{method} {path}");
        self.http.send_json(method, path, body).await.unwrap_or_else(|err| panic!("{what}: {err}"))
    }

    pub(crate) async fn app(&self, name: &str, strategy: &str) -> App {
        self.send(Method::POST, "/apps", &json!({ "name": name, "strategy": strategy })).await
    }

    /// A release of an app with processes of these types.
    pub(crate) async fn release(&self, app: &App, types: &[&str]) -> Release {
        let manifest = json!({ "_type": "application/vnd.flynn.image.manifest.v1+json" });
        let artifact =
            json!({ "type": "flynn", "uri": format!("http://example.com/{}", app.id), "manifest": manifest });
        let artifact: Artifact = self.send(Method::POST, "/artifacts", &artifact).await;
        let processes: BTreeMap<_, _> = types.iter().map(|kind| (kind, json!({ "args": ["run", kind] }))).collect();
        let release = json!({ "app_id": app.id, "artifacts": [artifact.id], "processes": processes });
        self.send(Method::POST, "/releases", &release).await
    }

    pub(crate) async fn deploy(&self, app: &App, release: &Release) -> Deployment {
        self.send(Method::POST, &format!("/apps/{}/deploy", app.id), &json!({ "id": release.id })).await
    }

    /// An app whose first release runs with these counts.
    pub(crate) async fn running(&self, name: &str, strategy: &str, counts: &[(&str, i64)]) -> (App, Release) {
        let app = self.app(name, strategy).await;
        let types: Vec<_> = counts.iter().map(|(kind, _)| *kind).collect();
        let release = self.release(&app, &types).await;
        self.deploy(&app, &release).await;
        self.scale(&app, &release, counts).await;
        (app, release)
    }

    pub(crate) async fn scale(&self, app: &App, release: &Release, counts: &[(&str, i64)]) {
        let processes: BTreeMap<_, _> = counts.iter().copied().collect();
        let path = format!("/apps/{}/formations/{}", app.id, release.id);
        let _: Formation = self.send(Method::PUT, &path, &json!({ "processes": processes })).await;
        until("the app runs", async || self.pending_requests().await.is_empty().then_some(())).await;
    }

    async fn pending_requests(&self) -> Vec<(Uuid,)> {
        let rows = sqlx::query_as("SELECT scale_request_id FROM scale_requests WHERE state = 'pending'");
        rows.fetch_all(&mut self.database.connect().await).await.expect("scale requests")
    }

    /// The last event of a deployment, once it is over.
    pub(crate) async fn over(&self, deployment: &Deployment) -> DeploymentEvent {
        until("the deployment is over", async || {
            let path = format!("/events?object_types=deployment&object_id={}", deployment.id);
            let events: Vec<Event> = self.http.get_json(&path).await.ok()?;
            let events: Vec<DeploymentEvent> = events.iter().map(data).collect();
            let ends = |event: &DeploymentEvent| {
                matches!(event.status, Some(DeploymentStatus::Complete | DeploymentStatus::Failed))
            };
            let ends: Vec<_> = events.into_iter().filter(ends).collect();
            assert!(ends.len() < 2, "a deployment ends once: {ends:?}");
            ends.into_iter().next()
        })
        .await
    }

    /// Counts of a release; `None` without a formation.
    pub(crate) async fn counts(&self, app: &App, release: &Release) -> Option<BTreeMap<String, i64>> {
        let answer = self.http.get_json::<Formation>(&format!("/apps/{}/formations/{}", app.id, release.id)).await;
        match answer {
            Ok(formation) => Some(formation.processes),
            Err(err) if err.is_not_found() => None,
            Err(err) => panic!("{err}"),
        }
    }

    /// What the scheduler was asked for, in order: `old` or `new`, with the counts.
    pub(crate) async fn requests(&self, deployment: &Deployment) -> Vec<String> {
        let path = format!("/events?object_types=scale_request&app_id={}", deployment.app_id);
        let mut events: Vec<Event> = self.get(&path).await;
        events.reverse();
        let requests = events.iter().map(data::<ScaleRequest>);
        let began = deployment.created_at.expect("a time");
        let asked = requests.filter(|request| {
            request.state == ScaleRequestState::Pending && request.created_at.is_some_and(|at| at > began)
        });
        let text = |request: ScaleRequest| {
            let which = if request.release_id == deployment.new_release_id { "new" } else { "old" };
            let counts = request.new_processes.unwrap_or_default();
            format!("{which} {}", counts.iter().map(|(kind, count)| format!("{kind}={count}")).collect::<String>())
        };
        asked.map(text).collect()
    }

    /// Rows of the queue: class, failures and last error.
    pub(crate) async fn queue(&self) -> Vec<(String, i32, Option<String>)> {
        let rows = sqlx::query_as("SELECT job_class, error_count, last_error FROM que_jobs ORDER BY job_id");
        rows.fetch_all(&mut self.database.connect().await).await.expect("the queue")
    }

    pub(crate) async fn sql(&self, statement: &str) {
        let mut connection = self.database.connect().await;
        sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.expect(statement);
    }
}

/// A blob store that has every file, as far as deleting them shows.
async fn keep_files(deleted: Arc<Mutex<Vec<String>>>) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let delete = move |method: Method, uri: http::Uri| {
        assert_eq!(method, Method::DELETE);
        deleted.lock().expect("no panic").push(uri.path().to_owned());
        std::future::ready(())
    };
    let router = axum::Router::new().fallback(delete);
    let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("serve") });
    (url, AbortOnDropHandle::new(serving))
}

pub(crate) fn data<T: DeserializeOwned>(event: &Event) -> T {
    serde_json::from_str(event.data.as_ref().expect("data").get()).expect("the data of an event")
}

/// A worker of the test's process.
pub(crate) struct Worker {
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    pub(crate) url: String,
}

impl Worker {
    async fn start(cluster: &Cluster) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let shutdown = CancellationToken::new();
        let config = flynn_worker::Config {
            controller: cluster.controller(),
            blobstore: cluster.files.clone(),
            slots: flynn_worker::SLOTS,
            version: "test".to_owned(),
        };
        let serving = flynn_worker::serve(config, cluster.database.options(), listener, None, shutdown.clone());
        let task = tokio::spawn(async move { serving.await.expect("work") });
        Self { shutdown, task, url }
    }

    /// As by SIGKILL: nothing is given back.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.expect_err("it was aborted").is_cancelled());
    }

    /// As by SIGTERM.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(patience(), self.task).await.expect("it ends in time").expect("no panic");
    }
}

/// What the scheduler makes of jobs.
pub(crate) type Fate = Arc<dyn Fn(&str, &Job) -> What + Send + Sync>;

/// What becomes of a job that shall start.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Up,
    /// It goes down at once, and is started again.
    Down(Option<String>),
    /// It waits, for this reason.
    Pending(String),
}

/// Does as formations say: reports jobs up and down, and requests fulfilled.
pub(crate) struct Scheduler {
    /// What it did, in order: `up` or `down`, release, type.
    done: Arc<Mutex<Vec<(JobState, String, String)>>>,
    /// Changes of formations that it may still look at.
    may: Arc<Semaphore>,
    _task: AbortOnDropHandle<()>,
}

impl Scheduler {
    /// All jobs come up.
    pub(crate) fn start(cluster: &Cluster) -> Self {
        Self::with_fate(cluster, Arc::new(|_, _| What::Up))
    }

    pub(crate) fn with_fate(cluster: &Cluster, fate: Fate) -> Self {
        let (done, may) = (Arc::default(), Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)));
        let acting = Acting {
            controller: cluster.controller(),
            fate,
            jobs: BTreeMap::new(),
            done: Arc::clone(&done),
            may: Arc::clone(&may),
        };
        Self { done, may, _task: AbortOnDropHandle::new(tokio::spawn(acting.run())) }
    }

    /// From now on it does nothing unless it is let.
    pub(crate) fn hold(&self) {
        self.may.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Lets it look at so many changes.
    pub(crate) fn allow(&self, changes: usize) {
        self.may.add_permits(changes);
    }

    /// What it did with jobs of a deployment: for example `up new web`.
    pub(crate) fn done(&self, deployment: &Deployment) -> Vec<String> {
        let done = self.done.lock().expect("no panic");
        let ours = done.iter().filter_map(|(state, release, kind)| {
            let which = match release {
                release if *release == deployment.new_release_id => "new",
                release if *release == deployment.old_release_id => "old",
                _ => return None,
            };
            Some(format!("{} {which} {kind}", state.as_str()))
        });
        ours.collect()
    }

    /// How many jobs of any release it brought into a state.
    pub(crate) fn count(&self, state: &str) -> usize {
        self.done.lock().expect("no panic").iter().filter(|(done, ..)| done.as_str() == state).count()
    }

    pub(crate) fn forget(&self) {
        self.done.lock().expect("no panic").clear();
    }
}

struct Acting {
    controller: ControllerClient,
    fate: Fate,
    /// Jobs that are up, by app, release and type.
    jobs: BTreeMap<(String, String, String), Vec<Job>>,
    done: Arc<Mutex<Vec<(JobState, String, String)>>>,
    may: Arc<Semaphore>,
}

impl Acting {
    async fn run(mut self) {
        let mut feed = self.controller.formations();
        let mut handled = BTreeSet::new();
        loop {
            let Fed::Item(formation) = feed.next().await else { continue };
            self.may.acquire().await.expect("it is never closed").forget();
            // Events may come late and twice: what counts is how it is now.
            let (app, release) =
                (formation.app.expect("an app").id, formation.release.expect("a release of a formation").id);
            let Ok(now) = retried(|| self.controller.formation(&app, &release)).await else { continue };
            self.meet(&app, &release, now.as_ref()).await;
            let Some(request) = now.and_then(|formation| formation.pending_scale_request) else { continue };
            if handled.insert(request.id.clone()) && self.is_met(&app, &release, &request) {
                let request = ScaleRequest { state: ScaleRequestState::Complete, ..request };
                let _ = retried(|| self.controller.put_scale(&request)).await;
            }
        }
    }

    async fn meet(&mut self, app: &str, release: &str, formation: Option<&ExpandedFormation>) {
        let key = |kind: &str| (app.to_owned(), release.to_owned(), kind.to_owned());
        let wanted = formation.map(|formation| formation.processes.clone()).unwrap_or_default();
        for (kind, count) in &wanted {
            for _ in self.jobs.entry(key(kind)).or_default().len()..usize::try_from(*count).unwrap_or_default() {
                self.start(app, release, kind).await;
            }
        }
        let ours: Vec<_> = self.jobs.keys().filter(|known| (&*known.0, &*known.1) == (app, release)).cloned().collect();
        for known in ours {
            let wanted = usize::try_from(wanted.get(&known.2).copied().unwrap_or_default()).unwrap_or_default();
            while self.jobs[&known].len() > wanted {
                let job = self.jobs.get_mut(&known).and_then(Vec::pop).expect("there are more");
                self.report(&Job { state: Some(JobState::Down), ..job }).await;
            }
        }
    }

    async fn start(&mut self, app: &str, release: &str, kind: &str) {
        // As often as the scheduler would before it waits longer.
        for _ in 0..8 {
            let uuid = Uuid::new_v4().to_string();
            let job = Job {
                id: format!("host-{uuid}"),
                uuid,
                app_id: app.to_owned(),
                release_id: release.to_owned(),
                kind: kind.to_owned(),
                ..Job::default()
            };
            match (self.fate)(release, &job) {
                What::Up => {
                    let job = Job { state: Some(JobState::Up), ..job };
                    self.report(&job).await;
                    return self.jobs.entry((app.into(), release.into(), kind.into())).or_default().push(job);
                }
                What::Down(host_error) => {
                    let exit_status = host_error.is_none().then_some(1);
                    self.report(&Job { state: Some(JobState::Down), host_error, exit_status, ..job }).await;
                }
                What::Pending(reason) => {
                    self.report(&Job { state: Some(JobState::Pending), host_error: Some(reason), ..job }).await;
                    return;
                }
            }
        }
    }

    async fn report(&self, job: &Job) {
        retried(|| self.controller.put_job(job)).await.expect("report a job");
        let state = job.state.expect("a state");
        self.done.lock().expect("no panic").push((state, job.release_id.clone(), job.kind.clone()));
    }

    fn is_met(&self, app: &str, release: &str, request: &ScaleRequest) -> bool {
        let up = |kind: &str| self.jobs.get(&(app.to_owned(), release.to_owned(), kind.to_owned())).map_or(0, Vec::len);
        let wanted = request.new_processes.iter().flatten();
        wanted.into_iter().all(|(kind, count)| usize::try_from(*count).is_ok_and(|count| up(kind) == count))
    }
}

/// Repeats a request while the controller cannot answer it.
async fn retried<T: Debug, F>(request: impl FnMut() -> F) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let backoff = flynn_http::Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
    flynn_http::retry(backoff, patience(), &CancellationToken::new(), ClientError::is_retryable, request).await
}
