//! Jobs of the busybox image.

use std::time::Duration;

use flynn_harness::Host;
use flynn_types::host::{ContainerConfig, HealthCheck, Job, Port, Service, VolumeBinding, metadata};
use flynn_types::id::{HostId, JobId};

use crate::busybox;

/// A job that runs a shell script. Ends within 2 s when it is stopped, whatever the script does.
pub fn shell(host: Host<'_>, script: &str) -> Job {
    let host: HostId = host.id().parse().expect("hosts of the harness have valid ids");
    Job {
        id: JobId::new(&host, uuid::Uuid::new_v4()).to_string(),
        mountspecs: busybox().mountspecs(),
        metadata: [(metadata::APP, "scenario-app-id"), (metadata::APP_NAME, "scenario"), (metadata::TYPE, "web")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        config: ContainerConfig {
            args: ["/bin/sh", "-c", script].map(str::to_owned).into(),
            stop_timeout: Some(Duration::from_secs(2)),
            ..ContainerConfig::default()
        },
        ..Job::default()
    }
}

/// A job that writes `line 1`, `line 2` … up to `last` with a pause between, then exits with `status`.
pub fn counting(host: Host<'_>, last: u64, pause: &str, status: i32) -> Job {
    let script = format!(
        "i=0; while [ $i -lt {last} ]; do i=$((i+1)); echo line $i; [ -z '{pause}' ] || sleep {pause}; done; exit {status}"
    );
    shell(host, &script)
}

/// The job with a port that is registered as `service` while it accepts connections.
pub fn with_service(mut job: Job, service: &str, port: u16) -> Job {
    let check =
        HealthCheck { kind: "tcp".to_owned(), interval: Some(Duration::from_millis(500)), ..HealthCheck::default() };
    let service = Service { name: service.to_owned(), create: true, check: Some(check) };
    job.config.ports.push(Port { port, proto: "tcp".to_owned(), service: Some(service) });
    job
}

/// The job with a volume at `/data`.
pub fn with_volume(mut job: Job, volume: &str) -> Job {
    let binding =
        VolumeBinding { target: "/data".to_owned(), volume: volume.to_owned(), writeable: true, delete_on_stop: false };
    job.config.volumes.push(binding);
    job
}
