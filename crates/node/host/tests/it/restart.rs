//! What a daemon finds when it starts: jobs of the last one, and what nobody knows.

use std::path::Path;

use flynn_types::host::{ActiveJob, JobStatus, VolumeBinding, VolumeInfo};
use flynn_types::init::{ExitRecord, InitState, SpoolProgress, files};
use serde_json::json;

use crate::support::{Dir, Options, TestHost, job, waiting_job};

/// Makes a job of the last daemon a running one, whose container only this record knows.
fn record_running(state: &Path, id: &str, change: impl FnOnce(&mut ActiveJob)) {
    const JOBS: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("jobs");
    let mut running = ActiveJob { job: waiting_job(id), host_id: "host1".into(), ..ActiveJob::default() };
    (running.status, running.pid) = (JobStatus::Running, Some(1));
    running.created_at = chrono::Utc::now().into();
    change(&mut running);
    let database = redb::Database::create(state).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(JOBS).unwrap().insert(id, serde_json::to_vec(&running).unwrap().as_slice()).unwrap();
    write.commit().unwrap();
}

#[tokio::test]
async fn an_accepted_job_waits_on_under_the_next_daemon() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    host.client.add_job(&waiting_job("host1-1")).await.unwrap();
    host.leave().await;
    let host = TestHost::start(&dir).await;
    let job = host.job_when("host1-1", |job| job.waiting_for.is_some()).await;
    assert_eq!(job.status, JobStatus::Starting);
    host.client.stop_job("host1-1").await.unwrap();
    assert_eq!(host.ended("host1-1").await.status, JobStatus::Done);
    host.leave().await;
}

#[tokio::test]
async fn a_lost_job_fails_alone() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    host.client.add_job(&waiting_job("host1-1")).await.unwrap();
    host.leave().await;
    record_running(&dir.join("state.redb"), "host1-lost", |_| {});
    record_running(&dir.join("state.redb"), "host1-stopped", |job| job.force_stop = true);
    let host = TestHost::start(&dir).await;
    let lost = host.ended("host1-lost").await;
    assert_eq!(lost.status, JobStatus::Failed);
    assert!(lost.error.unwrap().starts_with("failed to connect to container"));
    let stopped = host.ended("host1-stopped").await;
    assert_eq!((stopped.status, stopped.exit_status), (JobStatus::Done, Some(0)));
    assert_eq!(host.client.job("host1-1").await.unwrap().status, JobStatus::Starting);
    host.leave().await;
}

#[tokio::test]
async fn a_job_that_ended_while_no_daemon_was_there_has_its_true_end() {
    let dir = Dir::new();
    TestHost::start(&dir).await.leave().await;
    for (id, status, oom_kills) in [("host1-seven", 7, 0), ("host1-oom", 137, 1)] {
        record_running(&dir.join("state.redb"), id, |_| {});
        let run_dir = dir.join("run/container").join(id);
        std::fs::create_dir_all(run_dir.join(files::SPOOL)).unwrap();
        let record = ExitRecord {
            state: InitState::Exited { status },
            at_micros: 1_700_000_000_000_000,
            oom_kills,
            spool: SpoolProgress { written: 0, closed: true },
        };
        std::fs::write(run_dir.join(files::EXIT), serde_json::to_vec(&record).unwrap()).unwrap();
    }
    let host = TestHost::start(&dir).await;
    let seven = host.ended("host1-seven").await;
    assert_eq!((seven.status, seven.exit_status, seven.error), (JobStatus::Crashed, Some(7), None));
    assert_eq!(serde_json::to_value(seven.ended_at).unwrap(), json!("2023-11-14T22:13:20Z"));
    let oom = host.ended("host1-oom").await;
    assert_eq!((oom.exit_status, oom.error.as_deref()), (Some(137), Some("killed: out of memory")));
    for id in ["host1-seven", "host1-oom"] {
        host.job_when(id, |_| !dir.join("run/container").join(id).exists()).await;
    }
    host.leave().await;
}

#[tokio::test]
async fn what_belongs_to_no_known_job_is_removed() {
    let dir = Dir::new();
    TestHost::start(&dir).await.leave().await;
    let stray = dir.join("run/container/host1-stray");
    std::fs::create_dir_all(&stray).unwrap();
    std::fs::write(stray.join(files::NETNS), "").unwrap();
    rustix::mount::mount_bind("/dev/null", stray.join(files::NETNS)).unwrap();
    let kept = dir.join("run/container/not a job");
    std::fs::create_dir_all(&kept).unwrap();
    let host = TestHost::start(&dir).await;
    let gone = async {
        while stray.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::patience(), gone).await.unwrap();
    assert!(dir.mounts().is_empty(), "{:?}", dir.mounts());
    assert!(kept.exists(), "what cannot be a job's is not ours");
    host.leave().await;
}

#[tokio::test]
async fn a_job_to_be_resurrected_starts_again_as_a_copy_with_its_volumes() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    for id in ["temporary", "other"] {
        host.client
            .create_volume("default", Some(&VolumeInfo { id: id.into(), ..VolumeInfo::default() }))
            .await
            .unwrap();
    }
    host.leave().await;
    let with_volume = |job: &mut ActiveJob, volume: &str| {
        let binding = VolumeBinding {
            volume: volume.into(),
            target: "/data".into(),
            delete_on_stop: true,
            ..VolumeBinding::default()
        };
        job.job.config.volumes = vec![binding];
    };
    record_running(&dir.join("state.redb"), "host1-old", |job| {
        with_volume(job, "temporary");
        job.job.resurrect = true;
        job.internal_ip = "100.100.1.2".into();
        job.job.config.env.insert("FLYNN_JOB_ID".into(), "host1-old".into());
        job.job.config.env.insert("EXTERNAL_IP".into(), "100.100.1.2".into());
    });
    record_running(&dir.join("state.redb"), "host1-mortal", |job| with_volume(job, "other"));
    let host = TestHost::start(&dir).await;
    assert_eq!(host.ended("host1-old").await.status, JobStatus::Failed);
    host.ended("host1-mortal").await;
    host.job_when("host1-mortal", |_| host.volumes.get("other").is_none()).await;
    host.job_when("host1-old", |_| host.host.status().jobs_active == 1).await;
    let active = host.client.jobs(true).await.unwrap();
    let (id, copy) = active.first_key_value().unwrap();
    assert_ne!(id, "host1-old");
    assert_eq!(copy.job.config.env.get("FLYNN_JOB_ID"), Some(id));
    assert_eq!(copy.job.config.env.get("EXTERNAL_IP"), None);
    assert_eq!(copy.job.config.volumes[0].volume, "temporary");
    assert!(host.volumes.get("temporary").is_some());
    host.client.stop_job(id).await.unwrap();
    host.job_when(id, |_| host.volumes.get("temporary").is_none()).await;
    host.leave().await;
}

#[tokio::test]
async fn nothing_is_resurrected_when_told_so() {
    let dir = Dir::new();
    TestHost::start(&dir).await.leave().await;
    record_running(&dir.join("state.redb"), "host1-old", |job| job.job.resurrect = true);
    let host = TestHost::start_with(&dir, Options { resurrect: false, ..Options::default() }).await;
    assert_eq!(host.ended("host1-old").await.status, JobStatus::Failed);
    assert!(host.client.jobs(true).await.unwrap().is_empty());
    host.leave().await;
}

#[tokio::test]
async fn a_full_disk_refuses_jobs_and_is_got_over() {
    let dir = Dir::new();
    let disk = dir.tmpfs("disk", 8 << 20);
    let options = || Options { state: Some(disk.join("state.redb")), ..Options::default() };
    let host = TestHost::start_with(&dir, options()).await;
    host.client.add_job(&waiting_job("host1-1")).await.unwrap();
    // Whatever is left, to the last byte.
    let ballast = disk.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    let full = std::io::copy(&mut std::io::repeat(0), &mut file).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let mut refused = None;
    // The file may have room of its own for some.
    for n in 0..10_000 {
        let mut big = waiting_job("");
        big.config.env.insert("BIG".into(), "x".repeat(100_000));
        let reply = host.json("PUT", &format!("/host/jobs/host1-full{n}"), &serde_json::to_value(big).unwrap()).await;
        if reply.status != 200 {
            refused = Some((n, reply));
            break;
        }
    }
    let (n, reply) = refused.unwrap();
    let (status, code, message) = reply.error();
    assert_eq!((status, code.as_str(), &reply.json()["retry"]), (503, "service_unavailable", &json!(true)));
    assert!(message.starts_with("the job cannot be recorded: "), "{message}");
    assert_eq!(host.get(&format!("/host/jobs/host1-full{n}")).await.status, 404, "what was refused is not there");
    assert_eq!(host.client.job("host1-1").await.unwrap().status, JobStatus::Starting);
    assert_eq!(host.json("POST", "/host/tags", &json!({"a": "x".repeat(100_000)})).await.error().0, 503);

    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    let retried = async {
        while host.client.add_job(&waiting_job("host1-after")).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(crate::support::patience(), retried).await.unwrap();
    host.client.stop_job("host1-1").await.unwrap();
    assert_eq!(host.ended("host1-1").await.status, JobStatus::Done);
    host.leave().await;
    let host = TestHost::start_with(&dir, options()).await;
    assert_eq!(host.client.job("host1-1").await.unwrap().status, JobStatus::Done);
    assert_eq!(host.client.job("host1-after").await.unwrap().status, JobStatus::Starting);
    host.leave().await;
}

#[tokio::test]
async fn a_job_without_a_command_or_with_a_missing_volume_says_so() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let mut no_command = job("host1-1");
    no_command.config.args.clear();
    host.client.add_job(&no_command).await.unwrap();
    assert_eq!(host.ended("host1-1").await.error.unwrap(), "host: no command given: the job's args are empty");
    host.leave().await;
}
