//! Accepting, listing and stopping jobs.

use std::sync::Arc;

use async_trait::async_trait;
use flynn_types::host::{JobEventKind, JobStatus, VolumeBinding, VolumeInfo};
use flynn_volume::{LayerBody, LayerSource};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::{Dir, Options, TestHost, job, kinds, waiting_job};

#[tokio::test]
async fn an_accepted_job_is_told_of_and_shown_before_it_runs() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let mut all = host.client.events(None).await.unwrap();
    let mut own = host.client.events(Some("host1-1")).await.unwrap();
    let put = host.json("PUT", "/host/jobs/host1-1", &serde_json::to_value(waiting_job("")).unwrap()).await;
    assert_eq!((put.status, put.text().as_str()), (200, "{}"));
    assert_eq!(kinds(&mut all, 1).await, [JobEventKind::Create]);
    assert_eq!(kinds(&mut own, 1).await, [JobEventKind::Create]);
    let shown = host.get("/host/jobs/host1-1").await.json();
    assert!(shown.get("status").is_none(), "{shown}");
    assert_eq!(shown["job"]["id"], "host1-1");
    let waits = host.job_when("host1-1", |job| job.waiting_for.is_some()).await;
    assert_eq!(waits.waiting_for.as_deref(), Some("network"));

    let again = host.json("PUT", "/host/jobs/host1-1", &serde_json::to_value(job("")).unwrap()).await;
    assert_eq!(again.error(), (409, "conflict".into(), "job already exists".into()));
    let other = host.json("PUT", "/host/jobs/host1-2", &serde_json::to_value(job("host1-3")).unwrap()).await;
    assert_eq!((other.error().0, other.json()["detail"]["field"].as_str()), (400, Some("id")));
    assert_eq!(
        host.get("/host/jobs/host1-2").await.error(),
        (404, "object_not_found".into(), "host: unknown job".into())
    );
    host.leave().await;
}

#[tokio::test]
async fn a_job_that_cannot_run_as_asked_fails_and_says_why() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let mut events = host.client.events(None).await.unwrap();
    let mut odd = job("host1-1");
    odd.partition = "nonexistent".into();
    host.client.add_job(&odd).await.unwrap();
    let expected = [JobEventKind::Create, JobEventKind::Error, JobEventKind::Cleanup];
    assert_eq!(kinds(&mut events, 3).await, expected);
    let failed = host.ended("host1-1").await;
    assert_eq!(
        (failed.status, failed.error.as_deref()),
        (JobStatus::Failed, Some("host: invalid job partition \"nonexistent\""))
    );
    assert!(failed.ended_at.is_set());
    let again = host.json("PUT", "/host/jobs/host1-1", &serde_json::to_value(job("")).unwrap()).await;
    assert_eq!(again.error().2, "job already exists", "also when it has ended");
    host.leave().await;
}

#[tokio::test]
async fn a_starting_job_is_stopped_at_once() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let mut events = host.client.events(None).await.unwrap();
    host.client.add_job(&waiting_job("host1-1")).await.unwrap();
    host.client.stop_job("host1-1").await.unwrap();
    assert_eq!(kinds(&mut events, 3).await, [JobEventKind::Create, JobEventKind::Stop, JobEventKind::Cleanup]);
    let job = host.get("/host/jobs/host1-1").await.json();
    assert_eq!((&job["status"], &job["exit_status"]), (&json!(2), &json!(0)));
    let again = host.raw("DELETE", "/host/jobs/host1-1", &[], b"").await;
    assert_eq!(again.error(), (409, "conflict".into(), "host: job is already stopped".into()));
    let unknown = host.raw("DELETE", "/host/jobs/host1-2", &[], b"").await;
    assert_eq!(unknown.error(), (404, "object_not_found".into(), "host: unknown job".into()));
    host.leave().await;
}

#[tokio::test]
async fn signals_need_a_running_job_and_a_number() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    host.client.add_job(&waiting_job("host1-1")).await.unwrap();
    for (path, status, message) in [
        ("/host/jobs/host1-1/signal/TERM", 400, "sig must be an integer"),
        ("/host/jobs/host1-1/signal/-9", 400, "sig must be the number of a signal"),
        ("/host/jobs/host1-1/signal/15", 409, "unknown container"),
        ("/host/jobs/host1-2/signal/15", 404, "host: unknown job"),
        ("/host/jobs/host1-1/discoverd-deregister", 409, "unknown container"),
        ("/host/jobs/host1-2/discoverd-deregister", 404, "host: unknown job"),
    ] {
        let (got, _, text) = host.raw("PUT", path, &[], b"").await.error();
        assert_eq!((got, text.as_str()), (status, message), "{path}");
    }
    host.leave().await;
}

#[tokio::test]
async fn a_volume_is_one_active_jobs() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    for id in ["a", "b"] {
        host.client
            .create_volume("default", Some(&VolumeInfo { id: id.into(), ..VolumeInfo::default() }))
            .await
            .unwrap();
    }
    let with = |id: &str, volumes: &[&str]| {
        let mut job = waiting_job(id);
        job.config.volumes = volumes
            .iter()
            .map(|volume| VolumeBinding {
                volume: (*volume).into(),
                target: "/data".into(),
                ..VolumeBinding::default()
            })
            .collect();
        job
    };
    host.client.add_job(&with("host1-1", &["a", "b"])).await.unwrap();
    let second = serde_json::to_value(with("", &["b", "a"])).unwrap();
    let refused = host.json("PUT", "/host/jobs/host1-2", &second).await;
    assert_eq!(refused.error(), (409, "conflict".into(), "volumes in use: b, a".into()));
    let busy = host.raw("DELETE", "/storage/volumes/a", &[], b"").await;
    assert_eq!(busy.error(), (409, "conflict".into(), "volume a is used by job host1-1".into()));
    host.client.stop_job("host1-1").await.unwrap();
    host.ended("host1-1").await;
    assert_eq!(host.json("PUT", "/host/jobs/host1-2", &second).await.status, 200);
    host.leave().await;
}

#[tokio::test]
async fn only_the_newest_ended_jobs_are_listed_and_older_ones_are_still_found() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    for n in 0..26 {
        let mut odd = job(&format!("host1-{n}"));
        odd.partition = "nonexistent".into();
        let mut events = host.client.events(Some(&odd.id)).await.unwrap();
        host.client.add_job(&odd).await.unwrap();
        kinds(&mut events, 3).await;
    }
    host.client.add_job(&waiting_job("host1-active")).await.unwrap();
    let listed = host.client.jobs(false).await.unwrap();
    assert_eq!(listed.len(), 26);
    assert!(!listed.contains_key("host1-0"));
    assert_eq!(host.client.job("host1-0").await.unwrap().status, JobStatus::Failed);
    assert_eq!(host.client.jobs(true).await.unwrap().into_keys().collect::<Vec<_>>(), ["host1-active"]);
    let again = host.json("PUT", "/host/jobs/host1-0", &serde_json::to_value(job("")).unwrap()).await;
    assert_eq!(again.error().2, "job already exists", "no record is overwritten");
    let stopped = host.raw("DELETE", "/host/jobs/host1-0", &[], b"").await;
    assert_eq!(stopped.error().2, "host: job is already stopped");
    host.leave().await;
}

/// Opens layers once it may.
struct Held(Arc<Semaphore>);

#[async_trait]
impl LayerSource for Held {
    async fn open(&self, url: &str, _: u64) -> std::io::Result<LayerBody> {
        self.0.acquire().await.unwrap().forget();
        Err(std::io::Error::new(std::io::ErrorKind::NotFound, format!("{url} is not there")))
    }
}

#[tokio::test]
async fn starts_are_limited_and_who_only_waits_for_the_network_does_not_count() {
    let (dir, gate) = (Dir::new(), Arc::new(Semaphore::new(0)));
    let layers: Option<Arc<dyn LayerSource>> = Some(Arc::new(Held(Arc::clone(&gate))));
    let host = TestHost::start_with(&dir, Options { max_job_concurrency: 1, layers, ..Options::default() }).await;
    host.client.add_job(&waiting_job("host1-waits")).await.unwrap();
    host.job_when("host1-waits", |job| job.waiting_for.is_some()).await;
    let mut starts = job("host1-starts");
    starts.mountspecs[0].url = "http://somewhere/layer".into();
    host.client.add_job(&starts).await.unwrap();
    let refused = host.json("PUT", "/host/jobs/host1-3", &serde_json::to_value(job("")).unwrap()).await;
    let text = "maximum concurrent AddJob calls running, try again later";
    assert_eq!(refused.error(), (429, "ratelimited".into(), text.into()));
    assert_eq!(refused.json()["retry"], true);
    gate.add_permits(1);
    let failed = host.ended("host1-starts").await;
    assert!(failed.error.unwrap().starts_with("error getting squashfs layer from http://somewhere/layer: "));
    host.client.add_job(&waiting_job("host1-3")).await.unwrap();
    host.leave().await;
}

#[tokio::test]
async fn privileges_are_for_system_jobs_where_that_is_the_policy() {
    let dir = Dir::new();
    let host = TestHost::start_with(&dir, Options { restrict_privileges: true, ..Options::default() }).await;
    let mut ordinary = job("");
    let refused = host.json("PUT", "/host/jobs/host1-1", &serde_json::to_value(&ordinary).unwrap()).await;
    assert_eq!(refused.error().2, "host_network only allowed for system jobs");
    ordinary.metadata.insert("flynn-system-app".into(), "true".into());
    assert_eq!(host.json("PUT", "/host/jobs/host1-1", &serde_json::to_value(&ordinary).unwrap()).await.status, 200);
    host.leave().await;
}

#[tokio::test]
async fn a_host_that_shuts_down_takes_no_jobs() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    host.client.add_job(&waiting_job("host1-1")).await.unwrap();
    host.host.begin_shutdown();
    let refused = host.json("PUT", "/host/jobs/host1-2", &serde_json::to_value(job("")).unwrap()).await;
    assert_eq!((refused.status, refused.text().as_str()), (500, "{}"));
    assert_eq!(host.host.metadata().borrow()["shutdown"], "true");
    host.host.stop_jobs().await;
    assert_eq!(host.ended("host1-1").await.status, JobStatus::Done);
    host.leave().await;
}
