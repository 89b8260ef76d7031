//! Starting, output, ending.

use flynn_container::{CallError, StartError};
use flynn_types::init::{InitState, files, spool};

use crate::support::{Sandbox, eventually, gone, within};

#[tokio::test]
async fn output_and_status_are_those_of_the_job() {
    let sandbox = Sandbox::new();
    let job = sandbox.run(sandbox.shell("echo out; echo err >&2; printf unfinished; exit 3")).await;
    let ended = job.ended().await;
    assert_eq!((ended.status(), ended.stdout.as_str(), ended.stderr.as_str()), (3, "out\nunfinished", "err\n"));
    assert_eq!(ended.record.oom_kills, 0);
}

#[tokio::test]
async fn a_job_waits_until_it_is_resumed() {
    let sandbox = Sandbox::new();
    let job = sandbox.create(sandbox.shell("echo ran")).await;
    assert_eq!(*job.container.state().borrow(), InitState::Initial);
    let children = format!("/proc/{0}/task/{0}/children", job.container.pid());
    assert_eq!(std::fs::read_to_string(children).unwrap(), "");
    job.container.resume().await.unwrap();
    assert_eq!(job.ended().await.stdout, "ran\n");
}

#[tokio::test]
async fn an_image_may_consist_of_one_static_program() {
    let sandbox = Sandbox::new();
    let root = sandbox.path().join("scratch");
    std::fs::create_dir(&root).unwrap();
    std::fs::copy("/bin/busybox", root.join("busybox")).unwrap();
    let job = sandbox.run(sandbox.spec(root, &["/busybox", "echo", "hello"])).await;
    let ended = job.ended().await;
    assert_eq!((ended.status(), ended.stdout.as_str()), (0, "hello\n"), "{ended:?}");
}

#[tokio::test]
async fn a_crash_by_a_signal_is_reported_as_a_shell_does() {
    let sandbox = Sandbox::new();
    for (script, status) in [("kill -SEGV $$", 139), ("kill -KILL $$", 137), ("kill -TERM $$", 0)] {
        let job = sandbox.run(sandbox.shell(script)).await;
        assert_eq!(job.ended().await.status(), status, "{script}");
    }
}

#[tokio::test]
async fn a_stop_lets_the_job_finish_and_a_kill_does_not() {
    let sandbox = Sandbox::new();
    let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 1 & wait $!; done";
    let job = sandbox.run(sandbox.shell(script)).await;
    job.wrote("ready").await;
    job.container.stop().await.unwrap();
    let ended = job.ended().await;
    assert_eq!((ended.status(), ended.stdout.as_str()), (7, "ready\nbye\n"));

    let job = sandbox.run(sandbox.shell(script)).await;
    job.wrote("ready").await;
    job.container.kill().await.unwrap();
    let ended = job.ended().await;
    assert_eq!((ended.status(), ended.stdout.as_str()), (0, "ready\n"));
}

#[tokio::test]
async fn a_job_that_was_never_resumed_can_be_killed() {
    let sandbox = Sandbox::new();
    let job = sandbox.create(sandbox.shell("echo ran")).await;
    job.container.kill().await.unwrap();
    let ended = job.ended().await;
    assert_eq!((ended.status(), ended.stdout.as_str()), (0, ""));
}

#[tokio::test]
async fn signals_reach_the_main_process_only() {
    let sandbox = Sandbox::new();
    let script = "trap 'echo got usr1' USR1
        (trap 'echo child got usr1' USR1; while :; do sleep 1 & wait $!; done) &
        echo ready; while :; do sleep 1 & wait $!; done";
    let job = sandbox.run(sandbox.shell(script)).await;
    job.wrote("ready").await;
    job.container.signal(10).await.unwrap();
    job.wrote("got usr1").await;
    job.container.kill().await.unwrap();
    let ended = job.ended().await;
    assert!(!ended.stdout.contains("child"), "{ended:?}");
    let refused = job.container.signal(10).await.unwrap_err();
    assert!(matches!(refused, CallError::Refused(_) | CallError::Disconnected), "{refused}");
}

#[tokio::test]
async fn signals_to_init_are_passed_on() {
    let sandbox = Sandbox::new();
    let job = sandbox.run(sandbox.shell("trap 'exit 9' HUP; echo ready; while :; do sleep 1 & wait $!; done")).await;
    job.wrote("ready").await;
    let pid = rustix::process::Pid::from_raw(job.container.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    assert_eq!(job.ended().await.status(), 9);
}

#[tokio::test]
async fn what_cannot_be_executed_is_explained() {
    let sandbox = Sandbox::new();
    let root = crate::support::busybox_root(sandbox.path());
    std::fs::write(root.join("bin/script"), "#!/bin/nope\n").unwrap();
    std::fs::write(root.join("bin/data"), "data").unwrap();
    for name in ["script", "data"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(root.join("bin").join(name), mode).unwrap();
    }
    for (program, expected) in [
        ("nope", "exec: \"nope\": executable file not found in $PATH"),
        ("/nope", "exec: \"/nope\": no such file or directory"),
        ("script", "exec: \"script\": its interpreter /bin/nope is not in the image"),
        (
            "data",
            "exec: \"data\": exec format error: neither a program for this machine nor a script with a first line like #!/bin/sh",
        ),
    ] {
        let job = sandbox.create(sandbox.spec(root.clone(), &[program])).await;
        let refused = job.container.resume().await.unwrap_err();
        assert_eq!(refused.to_string(), expected);
        assert_eq!(job.ended().await.record.state, InitState::Failed { error: expected.into() });
    }
}

#[tokio::test]
async fn a_configuration_that_init_refuses_fails_the_start() {
    let sandbox = Sandbox::new();
    let mut spec = sandbox.shell("echo ran");
    let service = flynn_types::host::Service { name: String::new(), ..Default::default() };
    spec.init.ports = vec![flynn_types::host::Port { port: 80, proto: "tcp".into(), service: Some(service) }];
    let err = sandbox.runtime.start(spec).await.unwrap_err();
    assert!(matches!(&err, StartError::Init(text) if text == "a port's service has no name"), "{err:?}");
}

#[tokio::test]
async fn stdin_reaches_the_job_and_ends_with_its_writer() {
    use tokio::io::AsyncWriteExt as _;
    let sandbox = Sandbox::new();
    let mut spec = sandbox.shell("cat; echo end");
    spec.init.open_stdin = true;
    let job = sandbox.create(spec).await;
    let stdin = job.container.take_stdin().await.unwrap();
    job.container.resume().await.unwrap();
    let mut stdin = tokio::net::unix::pipe::Sender::from_owned_fd_unchecked(stdin).unwrap();
    stdin.write_all(b"hello\n").await.unwrap();
    job.wrote("hello").await;
    let twice = job.container.take_stdin().await.unwrap_err();
    assert_eq!(twice.to_string(), "the job's stdin was taken already");
    drop(stdin);
    assert_eq!(job.ended().await.stdout, "hello\nend\n");
}

#[tokio::test]
async fn a_job_without_stdin_reads_its_end_at_once() {
    let sandbox = Sandbox::new();
    let job = sandbox.run(sandbox.shell("cat; echo end")).await;
    assert_eq!(job.ended().await.stdout, "end\n");
}

#[tokio::test]
async fn output_that_is_not_logged_goes_to_who_takes_it() {
    use tokio::io::AsyncReadExt as _;
    let sandbox = Sandbox::new();
    let mut spec = sandbox.shell("echo out; echo err >&2");
    spec.disable_log = true;
    let job = sandbox.create(spec).await;
    let [stdout, stderr, _log] = job.container.take_output().await.unwrap();
    assert!(job.container.take_output().await.is_err(), "only once");
    job.container.resume().await.unwrap();
    for (fd, expected) in [(stdout, "out\n"), (stderr, "err\n")] {
        let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd_unchecked(fd).unwrap();
        let mut text = String::new();
        within("output", pipe.read_to_string(&mut text)).await.unwrap();
        assert_eq!(text, expected);
    }
    assert_eq!(job.ended().await.stdout, "");
}

#[tokio::test]
async fn thirty_megabytes_arrive_in_order() {
    let sandbox = Sandbox::new();
    let job = sandbox.run(sandbox.shell("seq 1 4000000")).await;
    let ended = job.ended().await;
    assert_eq!(ended.stdout.len(), 30_888_896);
    assert!(ended.stdout.lines().zip(1..).all(|(line, number)| line.parse() == Ok(number)));
}

#[tokio::test]
async fn output_beyond_the_limit_drops_the_oldest_and_never_holds_the_job_up() {
    let sandbox = Sandbox::new();
    let mut spec = sandbox.shell("seq 1 1000000");
    spec.spool_limit_bytes = 1 << 20;
    let job = sandbox.run(spec).await;
    let ended = job.ended().await;
    assert_eq!(ended.status(), 0);
    assert!(ended.record.spool.written > 6_888_896, "{ended:?}");
    assert!(ended.stdout.len() <= 1 << 20, "{}", ended.stdout.len());
    assert!(ended.stdout.ends_with("\n999999\n1000000\n"));
}

#[tokio::test]
async fn acknowledged_output_leaves_the_disk() {
    let sandbox = Sandbox::new();
    let job = sandbox.run(sandbox.shell("seq 1 2000000; echo all; exec sleep 1000")).await;
    job.wrote("all").await;
    let run_dir = job.run_dir().to_owned();
    let mut spool = job.container.spool();
    within("all output", spool.wait_for(|progress| progress.written > 14_000_000)).await.unwrap();
    let segments = || std::fs::read_dir(run_dir.join(files::SPOOL)).unwrap().count();
    assert!(segments() > 1);
    let written = spool.borrow().written;
    job.container.ack(written).await.unwrap();
    eventually("the deletion", || if segments() <= 1 { Ok(()) } else { Err(segments()) }).await;
    job.container.kill().await.unwrap();
    job.ended().await;
}

#[tokio::test]
async fn orphans_are_reaped_and_end_with_the_job() {
    let sandbox = Sandbox::new();
    // The inner shell leaves a short-lived and a long-lived process behind.
    let script = "sh -c 'true & sleep 1000 & exit 0'; echo ready; read line; exit 5";
    let mut spec = sandbox.shell(script);
    spec.init.open_stdin = true;
    let job = sandbox.create(spec).await;
    let stdin = job.container.take_stdin().await.unwrap();
    job.container.resume().await.unwrap();
    job.wrote("ready").await;
    let init = job.container.pid();
    let children = || -> Vec<i32> {
        let children = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    };
    // The job and the sleeper; no zombie.
    let pids =
        eventually("two children", || if children().len() == 2 { Ok(children()) } else { Err(children()) }).await;
    drop(stdin);
    assert_eq!(job.ended().await.status(), 5);
    for pid in pids {
        gone(pid).await;
    }
}

#[tokio::test]
async fn a_job_in_the_hosts_process_namespace_leaves_no_process_behind() {
    let sandbox = Sandbox::new();
    let mut spec = sandbox.shell("sh -c 'setsid sleep 1000 >/dev/null 2>&1 & exit 0'; echo ready $$; exit 4");
    spec.host_pid = true;
    let job = sandbox.run(spec).await;
    let ended = job.ended().await;
    assert_eq!(ended.status(), 4);
    let pid: i32 = ended.stdout.trim().strip_prefix("ready ").unwrap().parse().unwrap();
    assert!(pid > 2, "{pid}");
}

#[tokio::test]
async fn diagnostics_go_to_the_init_log() {
    let sandbox = Sandbox::new();
    let job = sandbox.run(sandbox.shell("echo ready; exec sleep 1000")).await;
    job.wrote("ready").await;
    let pid = rustix::process::Pid::from_raw(job.container.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::USR2).unwrap();
    let run_dir = job.run_dir().to_owned();
    eventually("diagnostics", || {
        let log = crate::support::output(&run_dir, spool::INIT);
        if log.contains("msg=diagnostics") { Ok(()) } else { Err(log) }
    })
    .await;
    job.container.kill().await.unwrap();
    job.ended().await;
}
