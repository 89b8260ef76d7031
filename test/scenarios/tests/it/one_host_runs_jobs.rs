//! One host: everything that an operator does with jobs, volumes and tags, by the commands and the API.

use std::io::Write as _;
use std::process::Stdio;

use flynn_harness::{Cluster, ClusterOptions, wait_until};
use flynn_scenarios::{Node, SETTLING, block_on, busybox_file, cluster, shell, with_volume};
use flynn_types::host::{JobEventKind, JobStatus};
use futures_util::StreamExt as _;

fn one_host() -> Cluster {
    cluster(ClusterOptions::default()).unwrap()
}

/// Output, exit status and events of a job that ends, as the API and as each command tell them.
#[test]
fn a_job_runs_and_everything_about_it_is_told() {
    let cluster = one_host();
    let node = Node::of(cluster.host(0));
    let before = node.baseline().unwrap();
    let mut events = block_on(node.api().events(None)).unwrap();
    let job = shell(node.host, "echo to stdout; echo to stderr >&2; exit 3");
    let (ended, output) = node.run_to_end(&job).unwrap();
    assert_eq!((ended.status, ended.exit_status), (JobStatus::Crashed, Some(3)));
    assert_eq!((output.stdout, output.stderr), (vec!["to stdout".to_owned()], vec!["to stderr".to_owned()]));
    assert!(ended.created_at.is_set() && ended.started_at.is_set() && ended.ended_at.is_set());
    assert!(ended.internal_ip.starts_with("100.100."), "{}", ended.internal_ip);
    let kinds = block_on(async {
        let mut kinds = Vec::new();
        while kinds.last() != Some(&JobEventKind::Cleanup) {
            let event = tokio::time::timeout(SETTLING * flynn_patience::factor(), events.next())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            // The last of an earlier job's events may still come.
            if event.job_id == job.id {
                kinds.push(event.event);
            }
        }
        kinds
    });
    assert_eq!(kinds, [JobEventKind::Create, JobEventKind::Start, JobEventKind::Stop, JobEventKind::Cleanup]);

    let log = node.host.output(["flynn-host", "log", &job.id]).unwrap();
    assert_eq!(log.lines().collect::<Vec<_>>(), ["to stdout", "to stderr"], "both streams");
    assert_eq!(node.host.output(["flynn-host", "log", "--split-stderr", &job.id]).unwrap(), "to stdout\n");
    assert!(!node.host.output(["flynn-host", "ps"]).unwrap().contains(&job.id));
    let row = node.host.output(["flynn-host", "ps", "--all"]).unwrap();
    let row = row.lines().find(|line| line.contains(&job.id)).unwrap().to_owned();
    assert!(row.contains("crashed") && row.contains("scenario"), "{row}");
    let inspect = node.host.output(["flynn-host", "inspect", &job.id]).unwrap();
    let status = inspect.lines().find(|line| line.starts_with("ExitStatus")).unwrap();
    assert!(status.ends_with(" 3"), "{inspect}");
    let unknown = node.host.exec(["flynn-host", "inspect", "host1-nothing"]).unwrap();
    assert!(
        !unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("no such job"),
        "{unknown:?}"
    );
    node.wait_no_leaks(&before).unwrap();
    cluster.down().unwrap();
}

#[test]
fn a_running_job_is_listed_signalled_and_stopped() {
    let cluster = one_host();
    let node = Node::of(cluster.host(0));
    let before = node.baseline().unwrap();
    let job = shell(node.host, "trap 'echo got the signal' USR1; echo ready; while :; do sleep 0.1; done");
    let running = node.run(&job).unwrap();
    assert!(running.pid.is_some());
    node.wait_line(&job.id, "that it is ready", |line| line == "ready").unwrap();
    assert!(node.host.output(["flynn-host", "ps"]).unwrap().contains(&job.id));
    let told = node.host.output(["flynn-host", "signal", &job.id, "10"]).unwrap();
    assert!(told.contains("sent signal 10"), "{told}");
    node.wait_line(&job.id, "that the signal came", |line| line == "got the signal").unwrap();

    let sleeper = shell(node.host, "exec sleep 1000");
    node.run(&sleeper).unwrap();
    let told = node.host.output(["flynn-host", "stop", &sleeper.id, &job.id]).unwrap();
    assert_eq!(told, format!("{} stopped\n{} stopped\n", sleeper.id, job.id));
    for id in [&sleeper.id, &job.id] {
        let ended = node.wait_end(id, SETTLING).unwrap();
        assert_ne!(ended.status, JobStatus::Failed, "{:?}", ended.error);
    }
    let again = node.host.exec(["flynn-host", "stop", &sleeper.id]).unwrap();
    let told = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(!again.status.success() && told.contains("already stopped"), "{again:?}");
    node.wait_no_leaks(&before).unwrap();
    cluster.down().unwrap();
}

/// `flynn-host run` without a terminal: what is piped in comes out, and the job's exit status is the command's.
#[test]
fn a_job_is_run_in_a_pipe() {
    let cluster = one_host();
    let host = cluster.host(0);
    let mut command = host.command_in("flynn-host").unwrap();
    command.arg("run").arg(busybox_file()).args(["/bin/sh", "-c", "cat; echo warning >&2; exit 7"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // More than pipes and frames hold.
    let input: String = (0..20_000).map(|number| format!("line {number}\n")).collect();
    let mut stdin = child.stdin.take().unwrap();
    let sent = input.clone();
    let writer = std::thread::spawn(move || stdin.write_all(sent.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == input.as_bytes(), "{} of {} bytes came back", output.stdout.len(), input.len());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "warning\n");
    cluster.down().unwrap();
}

/// Volumes keep what jobs write, are refused to a second job meanwhile, and go when told to.
#[test]
fn volumes_and_tags_live_as_long_as_they_should() {
    let cluster = one_host();
    let node = Node::of(cluster.host(0));
    let told = node.host.output(["flynn-host", "volume", "create", &node.host.id()]).unwrap();
    let volume = told.strip_prefix("created volume ").and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
    let list = || node.host.output(["flynn-host", "volume", "list"]).unwrap();
    assert!(list().lines().any(|line| line.starts_with(&volume) && line.contains("data")), "{}", list());
    let writer = with_volume(shell(node.host, "echo kept > /data/file; exec sleep 1000"), &volume);
    node.run(&writer).unwrap();
    let second = with_volume(shell(node.host, "true"), &volume);
    let err = format!("{:#}", node.add(&second).unwrap_err());
    assert!(err.contains("volumes in use") && err.contains(&volume), "{err}");
    assert!(!node.host.exec(["flynn-host", "volume", "delete", &volume]).unwrap().status.success(), "it is in use");
    node.stop(&writer.id).unwrap();
    let reader = with_volume(shell(node.host, "cat /data/file"), &volume);
    assert_eq!(node.run_to_end(&reader).unwrap().1.stdout, ["kept"]);

    node.host.output(["flynn-host", "tags", "set", &node.host.id(), "disk=ssd", "rack=a"]).unwrap();
    node.host.output(["flynn-host", "tags", "del", &node.host.id(), "rack"]).unwrap();
    node.host.restart_daemon().unwrap();
    assert_eq!(node.status().unwrap().tags.into_iter().collect::<Vec<_>>(), [("disk".to_owned(), "ssd".to_owned())]);
    wait_until(SETTLING, "the tag is published", || {
        let tags = node.host.output(["flynn-host", "tags"]).map_err(|err| format!("{err:#}"))?;
        if tags.contains("disk=ssd") && !tags.contains("rack") { Ok(()) } else { Err(tags) }
    })
    .unwrap();
    assert!(list().contains(&volume), "{}", list());
    let told = node.host.output(["flynn-host", "volume", "delete", &volume]).unwrap();
    assert_eq!(told, format!("{volume} deleted\n"));
    assert!(!list().contains(&volume));
    let gone = node.host.exec(["flynn-host", "volume", "delete", &volume]).unwrap();
    assert!(!gone.status.success() && String::from_utf8_lossy(&gone.stdout).contains("volume not found"), "{gone:?}");
    cluster.down().unwrap();
}

/// Jobs that cannot run say what is wrong, in the API and in `ps`, and leave nothing behind.
#[test]
fn a_job_that_cannot_run_says_why() {
    let cluster = one_host();
    let node = Node::of(cluster.host(0));
    let before = node.baseline().unwrap();
    let mut command = shell(node.host, "");
    command.config.args = vec!["/bin/nope".to_owned()];
    let mut missing = shell(node.host, "true");
    missing.mountspecs[0].id = "0".repeat(64);
    missing.mountspecs[0].url = "file:///nonexistent/layer.squashfs".to_owned();
    let mut wrong = shell(node.host, "true");
    wrong.mountspecs[0].id = "f".repeat(64);
    wrong.mountspecs[0].hashes.values_mut().for_each(|hash| *hash = "f".repeat(hash.len()));
    let mut volume = with_volume(shell(node.host, "true"), "nothing");
    volume.config.volumes[0].volume = "aaaaaaaa-0000-4000-8000-000000000000".to_owned();
    let mut partition = shell(node.host, "true");
    partition.partition = "nonexistent".to_owned();
    for (job, words) in [
        (command, &["/bin/nope"][..]),
        (missing, &["error getting squashfs layer from", "/nonexistent/layer.squashfs"]),
        (wrong, &["error getting squashfs layer from", "verify"]),
        (volume, &["required volume aaaaaaaa-0000-4000-8000-000000000000"]),
        (partition, &["invalid job partition \"nonexistent\""]),
    ] {
        node.add(&job).unwrap();
        let ended = node.wait_end(&job.id, SETTLING).unwrap();
        let reason = ended.error.unwrap_or_default();
        assert_eq!(ended.status, JobStatus::Failed, "{words:?}");
        assert!(words.iter().all(|word| reason.contains(word)), "{reason:?} lacks {words:?}");
        let ps = node.host.output(["flynn-host", "ps", "-a"]).unwrap();
        assert!(ps.lines().any(|line| line.contains(&job.id) && line.contains("failed")), "{ps}");
    }
    node.wait_no_leaks(&before).unwrap();
    cluster.down().unwrap();
}
