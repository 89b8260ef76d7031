//! Requests.

use std::collections::BTreeMap;

use flynn_http::ClientError;
use flynn_types::host::{
    ActiveJob, Command, DrainRequest, HostStats, HostStatus, Job, JobEvent, JobStats, Port, PullCoordinate,
    ResourceCheck, SinkInfo, VolumeInfo,
};
use futures_util::Stream;
use http::Method;
use serde_json::Value;

/// Longest a stop or a replacement may take to be answered.
const SLOW: std::time::Duration = std::time::Duration::from_secs(300);

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

    /// Jobs by id; with `active` only starting and running ones.
    pub async fn jobs(&self, active: bool) -> Result<BTreeMap<String, ActiveJob>, ClientError> {
        self.http.get_json(if active { "/host/jobs?active=true" } else { "/host/jobs" }).await
    }

    pub async fn job(&self, id: &str) -> Result<ActiveJob, ClientError> {
        self.http.get_json(&format!("/host/jobs/{id}")).await
    }

    /// Accepts and starts a job; its `id` must be set. Returns before it runs.
    pub async fn add_job(&self, job: &Job) -> Result<(), ClientError> {
        self.http.put_json(Method::PUT, &format!("/host/jobs/{}", job.id), job).await
    }

    /// Stops a job and waits for its end.
    pub async fn stop_job(&self, id: &str) -> Result<(), ClientError> {
        self.http.clone().with_timeout(SLOW).send(Method::DELETE, &format!("/host/jobs/{id}")).await
    }

    pub async fn signal_job(&self, id: &str, signal: i32) -> Result<(), ClientError> {
        self.http.send(Method::PUT, &format!("/host/jobs/{id}/signal/{signal}")).await
    }

    /// Withdraws the job's services; it goes on running.
    pub async fn deregister_job(&self, id: &str) -> Result<(), ClientError> {
        self.http.send(Method::PUT, &format!("/host/jobs/{id}/discoverd-deregister")).await
    }

    /// Events of all jobs, or of one, from now on. Open the stream before listing, to miss none.
    pub async fn events(
        &self,
        job: Option<&str>,
    ) -> Result<impl Stream<Item = Result<JobEvent, ClientError>> + Send + Unpin + use<>, ClientError> {
        let path = job.map_or("/host/jobs".to_owned(), |id| format!("/host/jobs/{id}"));
        self.http.events(&path).await
    }

    pub async fn status(&self) -> Result<HostStatus, ClientError> {
        self.http.get_json("/host/status").await
    }

    pub async fn stats(&self) -> Result<HostStats, ClientError> {
        self.http.get_json("/host/stats").await
    }

    pub async fn job_stats(&self, id: &str) -> Result<JobStats, ClientError> {
        self.http.get_json(&format!("/host/jobs/{id}/stats")).await
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
        self.http.clone().with_timeout(SLOW).send_json(Method::POST, "/host/update", command).await
    }

    pub async fn sinks(&self) -> Result<Vec<SinkInfo>, ClientError> {
        self.http.get_json("/sinks").await
    }

    pub async fn add_sink(&self, sink: &SinkInfo) -> Result<(), ClientError> {
        self.http.put_json(Method::PUT, &format!("/sinks/{}", sink.id), sink).await
    }

    pub async fn remove_sink(&self, id: &str) -> Result<(), ClientError> {
        self.http.send(Method::DELETE, &format!("/sinks/{id}")).await
    }

    pub async fn volumes(&self) -> Result<Vec<VolumeInfo>, ClientError> {
        self.http.get_json("/storage/volumes").await
    }

    pub async fn volume(&self, id: &str) -> Result<VolumeInfo, ClientError> {
        self.http.get_json(&format!("/storage/volumes/{id}")).await
    }

    pub async fn create_volume(&self, provider: &str, info: Option<&VolumeInfo>) -> Result<VolumeInfo, ClientError> {
        let info = info.cloned().unwrap_or_default();
        self.http.send_json(Method::POST, &format!("/storage/providers/{provider}/volumes"), &info).await
    }

    pub async fn destroy_volume(&self, id: &str) -> Result<(), ClientError> {
        self.http.send(Method::DELETE, &format!("/storage/volumes/{id}")).await
    }

    pub async fn snapshot_volume(&self, id: &str) -> Result<VolumeInfo, ClientError> {
        self.http.send_json(Method::PUT, &format!("/storage/volumes/{id}/snapshot"), &Value::Null).await
    }

    /// Fetches a snapshot of another host into the volume.
    pub async fn pull_snapshot(&self, id: &str, from: &PullCoordinate) -> Result<VolumeInfo, ClientError> {
        let client = self.http.clone().with_timeout(SLOW);
        client.send_json(Method::POST, &format!("/storage/volumes/{id}/pull_snapshot"), from).await
    }

    /// Removes layers that no job uses; gives what was removed.
    pub async fn collect_garbage(&self) -> Result<Vec<VolumeInfo>, ClientError> {
        self.http.send_json(Method::POST, "/storage/gc", &Value::Null).await
    }
}
