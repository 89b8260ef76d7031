//! Requests.

use flynn_http::{ClientError, path_segment};
use flynn_types::controller::{ExpandedFormation, Job, ScaleRequest, Sink, Volume};
use flynn_types::host::TERM_HEADER;
use http::Method;

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
        let path = format!("/apps/{}/scale/{}", path_segment(&request.app_id), path_segment(&request.release_id));
        self.http.put_json(Method::PUT, &path, request).await
    }
}

pub(crate) fn optional<T>(answer: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(err) if err.is_not_found() => Ok(None),
        Err(err) => Err(err),
    }
}
