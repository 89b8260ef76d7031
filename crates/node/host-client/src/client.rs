//! Requests.

use std::collections::BTreeMap;
use std::time::Duration;

use flynn_http::{ClientError, Download, Follow, path_segment};
use flynn_types::host::{
    ActiveJob, Command, DiscoverdConfig, DrainRequest, HostStats, HostStatus, Job, JobEvent, JobStats, JobsStats,
    NetworkConfig, Port, ProviderSpec, PullCoordinate, ResourceCheck, SNAPSHOT_STREAM_MIME, SinkInfo, SnapshotHave,
    VolumeEvent, VolumeInfo, Webhook,
};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::Value;

/// Longest a stop, a replacement or an operation on volumes may take to be answered.
const SLOW: Duration = Duration::from_secs(300);
/// Longest that a volume may take from host to host. A host that lost its power is noticed much sooner.
const TRANSFER: Duration = Duration::from_secs(24 * 3600);

/// A client of one host. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) http: flynn_http::Client,
}

impl Client {
    /// A client of the host at `base`, such as `http://10.0.0.1:1113`.
    pub fn new(base: &str, auth_key: Option<&str>) -> Result<Self, ClientError> {
        let valid = url::Url::parse(base).is_ok_and(|url| url.host_str().is_some());
        if !valid {
            return Err(ClientError::Url(base.to_owned()));
        }
        let http = flynn_http::Client::new(base);
        Ok(Self { http: auth_key.map_or(http.clone(), |key| http.with_basic_auth(key)) })
    }

    /// Goes on connecting for so long when nothing listens, for example while the daemon starts; spec flynn-host section
    /// 4.1 has 30 s. Not at all unless told.
    #[must_use]
    pub fn with_connect_patience(mut self, patience: Duration) -> Self {
        self.http = self.http.with_connect_patience(patience);
        self
    }

    /// Sends a header with every request.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.http = self.http.with_headers([(&name.to_owned(), &value.to_owned())]);
        self
    }

    fn slow(&self) -> flynn_http::Client {
        self.http.clone().with_timeout(SLOW)
    }

    /// Jobs by id; with `active` only starting and running ones.
    pub async fn jobs(&self, active: bool) -> Result<BTreeMap<String, ActiveJob>, ClientError> {
        self.http.get_json(if active { "/host/jobs?active=true" } else { "/host/jobs" }).await
    }

    pub async fn job(&self, id: &str) -> Result<ActiveJob, ClientError> {
        self.http.get_json(&job_path(id, "")).await
    }

    /// Accepts and starts a job; its `id` must be set. Returns before it runs.
    pub async fn add_job(&self, job: &Job) -> Result<(), ClientError> {
        self.http.put_json(Method::PUT, &job_path(&job.id, ""), job).await
    }

    /// Like [`Client::add_job`], also while the host is draining (spec flynn-host section 16.1).
    pub async fn add_job_even_draining(&self, job: &Job) -> Result<(), ClientError> {
        self.http.put_json(Method::PUT, &job_path(&job.id, "?allow_draining=true"), job).await
    }

    /// Stops a job and waits for its end.
    pub async fn stop_job(&self, id: &str) -> Result<(), ClientError> {
        self.slow().send(Method::DELETE, &job_path(id, "")).await
    }

    pub async fn signal_job(&self, id: &str, signal: i32) -> Result<(), ClientError> {
        self.http.send(Method::PUT, &job_path(id, &format!("/signal/{signal}"))).await
    }

    /// Withdraws the job's services; it goes on running.
    pub async fn deregister_job(&self, id: &str) -> Result<(), ClientError> {
        self.http.send(Method::PUT, &job_path(id, "/discoverd-deregister")).await
    }

    /// Events of all jobs, or of one, from now on. Open the stream before listing, to miss none.
    pub async fn events(
        &self,
        job: Option<&str>,
    ) -> Result<impl Stream<Item = Result<JobEvent, ClientError>> + Send + Unpin + use<>, ClientError> {
        let path = job.map_or("/host/jobs".to_owned(), |id| job_path(id, ""));
        self.http.events(&path).await
    }

    /// Like [`Client::events`], opened again whenever it breaks. List the jobs at each
    /// [`Followed::Opened`](flynn_http::Followed::Opened).
    pub fn follow_events(&self) -> Follow<JobEvent> {
        self.http.follow("/host/jobs")
    }

    pub async fn status(&self) -> Result<HostStatus, ClientError> {
        self.http.get_json("/host/status").await
    }

    pub async fn stats(&self) -> Result<HostStats, ClientError> {
        self.http.get_json("/host/stats").await
    }

    pub async fn job_stats(&self, id: &str) -> Result<JobStats, ClientError> {
        self.http.get_json(&job_path(id, "/stats")).await
    }

    /// Of all running jobs that could be asked.
    pub async fn jobs_stats(&self) -> Result<JobsStats, ClientError> {
        self.http.get_json("/host/jobs-stats").await
    }

    /// Tells the host of a discovery outside the daemon.
    pub async fn configure_discoverd(&self, config: &DiscoverdConfig) -> Result<(), ClientError> {
        self.http.put_json(Method::POST, "/host/discoverd", config).await
    }

    /// Tells the host of a network outside the daemon.
    pub async fn configure_network(&self, config: &NetworkConfig) -> Result<(), ClientError> {
        self.http.put_json(Method::POST, "/host/network", config).await
    }

    /// Sets tags; an empty value deletes one.
    pub async fn set_tags(&self, tags: &BTreeMap<String, String>) -> Result<(), ClientError> {
        self.http.put_json(Method::POST, "/host/tags", tags).await
    }

    /// Fails with a conflict that names the ports in use.
    pub async fn check_resources(&self, ports: &[Port]) -> Result<(), ClientError> {
        let check = ResourceCheck { ports: ports.to_vec() };
        self.http.put_json(Method::POST, "/host/resource-check", &check).await
    }

    pub async fn drain(&self, reason: &str) -> Result<HostStatus, ClientError> {
        let request = DrainRequest { reason: reason.to_owned() };
        self.http.send_json(Method::PUT, "/host/drain", &request).await
    }

    pub async fn undrain(&self) -> Result<HostStatus, ClientError> {
        self.http.send_json(Method::DELETE, "/host/drain", &Value::Null).await
    }

    /// Replaces the daemon; the answer has the new one's process id.
    pub async fn update(&self, command: &Command) -> Result<Command, ClientError> {
        self.slow().send_json(Method::POST, "/host/update", command).await
    }

    pub async fn sinks(&self) -> Result<Vec<SinkInfo>, ClientError> {
        self.http.get_json("/sinks").await
    }

    pub async fn add_sink(&self, sink: &SinkInfo) -> Result<(), ClientError> {
        self.http.put_json(Method::PUT, &format!("/sinks/{}", path_segment(&sink.id)), sink).await
    }

    pub async fn remove_sink(&self, id: &str) -> Result<(), ClientError> {
        self.http.send(Method::DELETE, &format!("/sinks/{}", path_segment(id))).await
    }

    pub async fn volumes(&self) -> Result<Vec<VolumeInfo>, ClientError> {
        self.http.get_json("/storage/volumes").await
    }

    pub async fn volume(&self, id: &str) -> Result<VolumeInfo, ClientError> {
        self.http.get_json(&volume_path(id, "")).await
    }

    pub async fn create_volume(&self, provider: &str, info: Option<&VolumeInfo>) -> Result<VolumeInfo, ClientError> {
        let info = info.cloned().unwrap_or_default();
        self.slow()
            .send_json(Method::POST, &format!("/storage/providers/{}/volumes", path_segment(provider)), &info)
            .await
    }

    pub async fn destroy_volume(&self, id: &str) -> Result<(), ClientError> {
        self.slow().send(Method::DELETE, &volume_path(id, "")).await
    }

    pub async fn snapshot_volume(&self, id: &str) -> Result<VolumeInfo, ClientError> {
        self.slow().send_json(Method::PUT, &volume_path(id, "/snapshot"), &Value::Null).await
    }

    /// Fetches a snapshot of another host into the volume.
    pub async fn pull_snapshot(&self, id: &str, from: &PullCoordinate) -> Result<VolumeInfo, ClientError> {
        let client = self.http.clone().with_timeout(TRANSFER);
        client.send_json(Method::POST, &volume_path(id, "/pull_snapshot"), from).await
    }

    /// The stream of a snapshot, without what the receiver has already.
    pub async fn send_snapshot(&self, id: &str, haves: &[SnapshotHave]) -> Result<Download, ClientError> {
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(SNAPSHOT_STREAM_MIME))]);
        self.http.open_with(&volume_path(id, "/send"), &headers, haves).await
    }

    /// Events of all volumes from now on.
    pub async fn volume_events(
        &self,
    ) -> Result<impl Stream<Item = Result<VolumeEvent, ClientError>> + Send + Unpin + use<>, ClientError> {
        self.http.events("/storage/volumes").await
    }

    /// Like [`Client::volume_events`], opened again whenever it breaks. List the volumes at each
    /// [`Followed::Opened`](flynn_http::Followed::Opened).
    pub fn follow_volume_events(&self) -> Follow<VolumeEvent> {
        self.http.follow("/storage/volumes")
    }

    pub async fn add_provider(&self, provider: &ProviderSpec) -> Result<ProviderSpec, ClientError> {
        self.http.send_json(Method::POST, "/storage/providers", provider).await
    }

    pub async fn webhooks(&self) -> Result<Vec<Webhook>, ClientError> {
        self.http.get_json("/host/webhooks").await
    }

    /// Registers a webhook; the answer has its id.
    pub async fn add_webhook(&self, webhook: &Webhook) -> Result<Webhook, ClientError> {
        self.http.send_json(Method::POST, "/host/webhooks", webhook).await
    }

    pub async fn remove_webhook(&self, id: &str) -> Result<(), ClientError> {
        self.http.send(Method::DELETE, &format!("/host/webhooks/{}", path_segment(id))).await
    }

    /// Removes layers that no job uses; gives what was removed.
    pub async fn collect_garbage(&self) -> Result<Vec<VolumeInfo>, ClientError> {
        self.slow().send_json(Method::POST, "/storage/gc", &Value::Null).await
    }
}

fn job_path(id: &str, rest: &str) -> String {
    format!("/host/jobs/{}{rest}", path_segment(id))
}

fn volume_path(id: &str, rest: &str) -> String {
    format!("/storage/volumes/{}{rest}", path_segment(id))
}
