//! Requests.

use std::collections::BTreeMap;

use flynn_http::{ClientError, path_segment};
use flynn_types::controller::{App, ExpandedFormation, Job, Release, Resource, ScaleRequest, Sink, Volume};
use flynn_types::host::TERM_HEADER;
use flynn_types::router::Route;
use http::Method;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::Feed;

/// A client of the controller. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) http: flynn_http::Client,
}

impl Client {
    /// A client of the controller at `base`, such as `http://controller.discoverd`, with one of its keys.
    pub fn new(base: &str, key: &str) -> Self {
        Self::over(flynn_http::Client::new(base), key)
    }

    /// A client that reaches the controller through `http`, with one of its keys.
    pub fn over(http: flynn_http::Client, key: &str) -> Self {
        Self { http: http.with_basic_auth(key) }
    }

    /// Sends the term of the leading scheduler with every request.
    #[must_use]
    pub fn with_term(mut self, term: u64) -> Self {
        let (name, value) = (TERM_HEADER.to_owned(), term.to_string());
        self.http = self.http.with_headers([(&name, &value)]);
        self
    }

    /// Formations: those that exist, then all that change.
    pub fn formations(&self) -> Feed<ExpandedFormation> {
        Feed::new(self.http.clone(), "/formations")
    }

    /// Formations with a count, the last changed first.
    pub async fn active_formations(&self) -> Result<Vec<ExpandedFormation>, ClientError> {
        self.http.get_json("/formations?active=true").await
    }

    /// A formation; `None` if there is none.
    pub async fn formation(&self, app: &str, release: &str) -> Result<Option<ExpandedFormation>, ClientError> {
        let path = format!("/apps/{}/formations/{}?expand=true", path_segment(app), path_segment(release));
        optional(self.http.get_json(&path).await)
    }

    /// Volumes: those that exist, then all that change.
    pub fn volumes(&self) -> Feed<Volume> {
        Feed::new(self.http.clone(), "/volumes")
    }

    pub async fn volume_list(&self) -> Result<Vec<Volume>, ClientError> {
        self.http.get_json("/volumes").await
    }

    /// Writes a volume, whether it is known or not.
    pub async fn put_volume(&self, volume: &Volume) -> Result<(), ClientError> {
        self.http.put_json(Method::PUT, &format!("/volumes/{}", path_segment(&volume.id)), volume).await
    }

    /// Sinks: those that exist, then all that change. A deleted one has no `config`.
    pub fn sinks(&self) -> Feed<Sink> {
        Feed::new(self.http.clone(), "/sinks")
    }

    pub async fn sink_list(&self) -> Result<Vec<Sink>, ClientError> {
        self.http.get_json("/sinks").await
    }

    /// Jobs that are not down; `None` if the controller is too old to tell.
    pub async fn active_jobs(&self) -> Result<Option<Vec<Job>>, ClientError> {
        optional(self.http.get_json("/active-jobs").await)
    }

    /// Writes a job, whether it is known or not.
    pub async fn put_job(&self, job: &Job) -> Result<(), ClientError> {
        let path = format!("/apps/{}/jobs/{}", path_segment(&job.app_id), path_segment(&job.uuid));
        self.http.put_json(Method::PUT, &path, job).await
    }

    /// Creates a scale request, or changes the state of one.
    pub async fn put_scale(&self, request: &ScaleRequest) -> Result<(), ClientError> {
        self.http.put_json(Method::PUT, &scale_path(request), request).await
    }

    /// Creates a scale request; the answer says what it is called.
    pub async fn scale(&self, request: &ScaleRequest) -> Result<ScaleRequest, ClientError> {
        self.http.send_json(Method::PUT, &scale_path(request), request).await
    }

    /// Stops all jobs of a release and deletes its formation. `false` if there was none.
    pub async fn delete_formation(&self, app: &str, release: &str) -> Result<bool, ClientError> {
        self.delete(&format!("/apps/{}/formations/{}", path_segment(app), path_segment(release))).await
    }

    /// An app by id or name; `None` if there is none.
    pub async fn app(&self, app: &str) -> Result<Option<App>, ClientError> {
        optional(self.http.get_json(&format!("/apps/{}", path_segment(app))).await)
    }

    /// Gives an app another release, without a deployment.
    pub async fn set_app_release(&self, app: &str, release: &str) -> Result<(), ClientError> {
        let body = BTreeMap::from([("id", release)]);
        self.http.put_json(Method::PUT, &format!("/apps/{}/release", path_segment(app)), &body).await
    }

    /// Gives an app another release on behalf of a deployment, unless that one is cancelled.
    pub async fn switch_app_release(&self, app: &str, release: &str, deployment: &str) -> Result<(), ClientError> {
        let body = BTreeMap::from([("id", release), ("deployment", deployment)]);
        self.http.put_json(Method::PUT, &format!("/apps/{}/release", path_segment(app)), &body).await
    }

    /// Releases of an app, newest first.
    pub async fn releases(&self, app: &str) -> Result<Vec<Release>, ClientError> {
        self.http.get_json(&format!("/apps/{}/releases", path_segment(app))).await
    }

    /// Deletes a release, and orders the deletion of files that only it used. `false` if there was none.
    pub async fn delete_release(&self, app: &str, release: &str) -> Result<bool, ClientError> {
        self.delete(&format!("/apps/{}/releases/{}", path_segment(app), path_segment(release))).await
    }

    /// Routes of an app, newest first.
    pub async fn app_routes(&self, app: &str) -> Result<Vec<Route>, ClientError> {
        self.http.get_json(&format!("/apps/{}/routes", path_segment(app))).await
    }

    /// Deletes a route by its kind (`http` or `tcp`) and id. `false` if there was none.
    pub async fn delete_route(&self, app: &str, kind: &str, id: &str) -> Result<bool, ClientError> {
        self.delete(&format!("/apps/{}/routes/{kind}/{}", path_segment(app), path_segment(id))).await
    }

    /// Resources of an app.
    pub async fn resources(&self, app: &str) -> Result<Vec<Resource>, ClientError> {
        self.http.get_json(&format!("/apps/{}/resources", path_segment(app))).await
    }

    /// Has a resource's provider unmake it. `false` if there was none.
    pub async fn delete_resource(&self, provider: &str, id: &str) -> Result<bool, ClientError> {
        self.delete(&format!("/providers/{}/resources/{}", path_segment(provider), path_segment(id))).await
    }

    /// How many hosts the cluster has.
    pub async fn host_count(&self) -> Result<usize, ClientError> {
        self.http.get_json::<Vec<IgnoredAny>>("/hosts").await.map(|hosts| hosts.len())
    }

    /// The last lines of a job's output, oldest first.
    pub async fn log_lines(&self, app: &str, job: &str, lines: usize) -> Result<Vec<String>, ClientError> {
        #[derive(Deserialize)]
        struct Line {
            #[serde(default)]
            msg: String,
        }
        let path = format!("/apps/{}/log?job_id={}&lines={lines}", path_segment(app), path_segment(job));
        let text = self.http.get_text(&path).await?;
        let messages = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
        Ok(messages.map(|line| line.msg).collect())
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<bool, ClientError> {
        optional(self.http.send(Method::DELETE, path).await).map(|done| done.is_some())
    }
}

fn scale_path(request: &ScaleRequest) -> String {
    format!("/apps/{}/scale/{}", path_segment(&request.app_id), path_segment(&request.release_id))
}

pub(crate) fn optional<T>(answer: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(err) if err.is_not_found() => Ok(None),
        Err(err) => Err(err),
    }
}
