//! One-off jobs, with somebody at their terminal or without (J8 to J15).

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest as _, Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use flynn_host_client::{AttachReceiver, AttachSender, Client};
use flynn_http::Backoff;
use flynn_types::controller::{App, Job, NewJob, Release};
use flynn_types::error::ApiError;
use flynn_types::host::attach::{FLAG_STDERR, FLAG_STDIN, FLAG_STDOUT, FLAG_STREAM, Frame, PROTOCOL};
use flynn_types::host::{AttachRequest, VolumeBinding, VolumeInfo, VolumeType};
use flynn_types::image::Artifact;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use uuid::Uuid;

use super::{container, of_host};
use crate::api::attach;
use crate::error::{Error, Result, invalid};
use crate::hosts::{self, Host};
use crate::input::Input;
use crate::shared::Shared;
use crate::store;

/// How long hosts are asked before it is said that none takes the job.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest time from the host's acceptance until the job's process is about to run: layers are fetched in it.
const START_LIMIT: Duration = Duration::from_secs(600);
/// Provider of volumes on every host.
const VOLUMES: &str = "default";

/// What a job is made of.
struct Plan {
    app: App,
    release: Release,
    artifacts: Vec<Artifact>,
    new: NewJob,
}

pub(super) async fn run(
    State(shared): State<Shared>,
    Path(app): Path<String>,
    mut request: Request,
) -> Result<Response> {
    let wanted = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    let attached = wanted.is_some_and(|text| text.contains(PROTOCOL));
    let upgrade = attached.then(|| hyper::upgrade::on(&mut request));
    let Input(new) = Input::<NewJob>::from_request(request, &()).await?;
    let plan = plan(&shared, &app, new).await?;
    let (job, connection) = plan.start_anywhere(&shared, attached).await?;
    Ok(answer(&shared, job, connection.zip(upgrade)))
}

async fn plan(shared: &Shared, app: &str, new: NewJob) -> Result<Plan> {
    let mut sql = shared.sql().await?;
    let app = store::app::get(&mut sql, app).await?;
    let release_id = store::id(&new.release_id)?;
    if !store::release::belongs_to(&mut sql, release_id, store::id(&app.id)?).await? {
        return Err(Error::NotFound);
    }
    let release = store::release::get(&mut sql, release_id).await?;
    let ids = if new.artifact_ids.is_empty() { &release.artifact_ids } else { &new.artifact_ids };
    if ids.is_empty() {
        return Err(invalid("release.ArtifactIDs", "cannot be empty"));
    }
    let uuids = ids.iter().map(|id| store::id(id)).collect::<Result<Vec<_>>>()?;
    let artifacts = store::artifact::get_all(&mut sql, &uuids).await?;
    if artifacts.len() < uuids.len() {
        return Err(invalid("artifacts", "name an artifact that does not exist"));
    }
    Ok(Plan { app, release, artifacts, new })
}

type Connection = (AttachSender, AttachReceiver);

impl Plan {
    /// On the first host that takes it: those that end or do not answer are passed over (J9, J13).
    async fn start_anywhere(&self, shared: &Shared, attached: bool) -> Result<(Job, Option<Connection>)> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut refused = ApiError::unavailable("there is no host to run the job");
            for host in hosts::all(shared).await? {
                match self.start(shared, &host, attached).await {
                    Err(Error::Api(error)) if error.retry => refused = error,
                    started => return started,
                }
            }
            let pause = backoff.pause();
            if Instant::now() + pause >= deadline {
                return Err(ApiError::internal(format!("no host takes the job: {refused}")).into());
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Whatever goes wrong, or when the client goes, nothing of the job goes on at the host.
    async fn start(&self, shared: &Shared, host: &Host, attached: bool) -> Result<(Job, Option<Connection>)> {
        let uuid = Uuid::new_v4();
        let id = format!("{}-{uuid}", host.id);
        let mut job = container::job(&id, &self.app, &self.release, &self.artifacts, &self.new, attached);
        let mut connection = if attached { Some(self.attach(&host.client, &id).await?) } else { None };
        if self.new.data {
            let info = VolumeInfo { kind: VolumeType::Data, ..VolumeInfo::default() };
            let volume = host.client.create_volume(VOLUMES, Some(&info)).await.map_err(of_host)?;
            let (target, volume) = ("/data".to_owned(), volume.id);
            job.config.volumes.push(VolumeBinding { target, volume, writeable: true, delete_on_stop: true });
        }
        let mut started =
            Started { client: host.client.clone(), id: id.clone(), tasks: shared.tasks.clone(), kept: false };
        host.client.add_job(&job).await.map_err(of_host)?;
        if let Some((_, receiver)) = &mut connection {
            running(receiver).await?;
        }
        started.kept = true;
        let job = Job {
            id,
            uuid: uuid.to_string(),
            host_id: host.id.clone(),
            release_id: self.release.id.clone(),
            args: self.new.args.clone(),
            ..Job::default()
        };
        Ok((job, connection))
    }

    /// Before the job is there, so that nothing of its output is lost.
    async fn attach(&self, client: &Client, id: &str) -> Result<Connection> {
        let request = AttachRequest {
            job_id: id.to_owned(),
            flags: FLAG_STDOUT | FLAG_STDERR | FLAG_STDIN | FLAG_STREAM,
            height: self.new.lines,
            width: self.new.columns,
        };
        client.attach(&request).await.map_err(of_host)
    }
}

/// Waits until the host says that the job is about to run.
async fn running(receiver: &mut AttachReceiver) -> Result<()> {
    let attached = async {
        loop {
            let error = match receiver.next().await {
                Ok(Some(Frame::Waiting)) => continue,
                Ok(Some(Frame::Success)) => return Ok(()),
                Ok(Some(Frame::Error(reason))) => ApiError::internal(format!("the job does not start: {reason}")),
                Ok(Some(Frame::Data { .. } | Frame::Signal(_) | Frame::Exit(_) | Frame::Resize { .. }) | None) => {
                    ApiError::unavailable("the host ended the connection before the job ran")
                }
                Err(err) => ApiError::unavailable(format!("the host does not attach: {err}")),
            };
            return Err(error.into());
        }
    };
    let limit = START_LIMIT.as_secs();
    let late = |_| Error::from(ApiError::internal(format!("the job did not start within {limit} s")));
    tokio::time::timeout(START_LIMIT, attached).await.map_err(late)?
}

/// A job on its host. Stopped unless it is kept: its answer may be lost, or its client gone (W19).
struct Started {
    client: Client,
    id: String,
    tasks: TaskTracker,
    kept: bool,
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (client, id) = (self.client.clone(), std::mem::take(&mut self.id));
        self.tasks.spawn(async move {
            match client.stop_job(&id).await {
                Ok(()) => debug!(id, "stopped a job that nobody waits for"),
                Err(err) if err.is_not_found() => {}
                Err(err) => warn!(id, %err, "cannot stop a job that nobody waits for"),
            }
        });
    }
}

fn answer(shared: &Shared, job: Job, attached: Option<(Connection, OnUpgrade)>) -> Response {
    let Some(((sender, receiver), upgrade)) = attached else { return Json(job).into_response() };
    let relayed = attach::relay(upgrade, sender, receiver);
    let shutdown = shared.shutdown.clone();
    shared.tasks.spawn(async move { shutdown.run_until_cancelled(relayed).await });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}
