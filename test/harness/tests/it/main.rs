//! The harness itself: hosts that run busybox's web server as their daemon.

use std::time::Duration;

use flynn_harness::{Cluster, ClusterOptions, Daemon, Effect, HostState, Ready, Tampering, wait_until};

const PORT: u16 = 8080;

/// A daemon that answers HTTP, in the fashion of a real one: it keeps a file on its disk.
fn web_server() -> Daemon {
    let script = "echo started >> {dir}/state/starts; echo {id} > {dir}/state/id; \
                  exec busybox httpd -f -p {ip}:8080 -h {dir}/state";
    Daemon {
        command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        ready: Ready::Http { port: PORT, path: "/id".to_owned() },
        patience: Duration::from_secs(20),
        ..Daemon::default()
    }
}

fn options(hosts: usize) -> ClusterOptions {
    ClusterOptions { hosts, daemon: web_server(), ..ClusterOptions::default() }
}

/// Whether one host gets an answer of another's web server.
fn hears(cluster: &Cluster, from: usize, to: usize) -> bool {
    let (url, limit) = (format!("http://{}:{PORT}/id", cluster.host(to).ip()), flynn_patience::factor().to_string());
    cluster.host(from).exec(["curl", "-sf", "--max-time", &limit, &url]).unwrap().status.success()
}

#[test]
fn hosts_hear_each_other_unless_they_are_cut_off() {
    let cluster = Cluster::up(options(3)).unwrap();
    let heard = |expected: [bool; 4], what: &str| {
        let pairs = [(0, 1), (1, 0), (1, 2), (2, 0)];
        assert_eq!(pairs.map(|(from, to)| hears(&cluster, from, to)), expected, "{what}");
    };
    heard([true, true, true, true], "at first");
    cluster.host(2).cut().unwrap();
    heard([true, true, false, false], "host 2 is cut off");
    assert_eq!(cluster.host(2).probe(PORT, "/id").unwrap(), 200, "the test still reaches it");
    cluster.host(2).heal().unwrap();
    cluster.partition(&[&[0], &[1, 2]]).unwrap();
    heard([false, false, true, false], "host 0 alone");
    cluster.heal().unwrap();
    cluster.cut_one_way(0, 1).unwrap();
    // Without the answers of the other side no connection comes about.
    heard([false, false, true, true], "one way");
    cluster.heal().unwrap();
    heard([true, true, true, true], "at last");
    cluster.down().unwrap();
}

#[test]
fn a_loss_of_power_keeps_what_was_synced() {
    let cluster = Cluster::up(ClusterOptions { disk_bytes: Some(64 << 20), ..options(1) }).unwrap();
    let host = cluster.host(0);
    let state = host.dir().join("state");
    let write = "cd $0; echo kept > synced; sync synced .; echo lost > unsynced";
    host.output(["sh", "-c", write, &state.display().to_string()]).unwrap();
    host.lose_power().unwrap();
    host.start().unwrap();
    let found = host.output(["ls", &state.display().to_string()]).unwrap();
    assert!(found.contains("synced\n") && !found.contains("unsynced"), "{found}");
    cluster.down().unwrap();
}

#[test]
fn system_calls_of_a_daemon_fail_and_kill_when_told() {
    let cluster = Cluster::up(options(1)).unwrap();
    let host = cluster.host(0);
    let tampering =
        |calls: [&str; 2], effect| Tampering { calls: calls.map(str::to_owned).into(), file: None, effect, nth: None };
    let tampered = host.tamper(&tampering(["open", "openat"], Effect::Fail("EACCES"))).unwrap();
    assert_eq!(host.probe(PORT, "/id").unwrap(), 404);
    assert!(tampered.calls().iter().any(|call| call.injected), "{:?}", tampered.calls());
    drop(tampered);
    assert_eq!(host.probe(PORT, "/id").unwrap(), 200);
    host.stop_daemon().unwrap();
    let tampered = host.launch_daemon_tampered(&tampering(["bind", "listen"], Effect::Kill)).unwrap();
    wait_until(Duration::from_secs(10), "the daemon is killed", || match host.state() {
        HostState::DaemonEnded(how) if how.contains("SIGKILL") => Ok(()),
        other => Err(other),
    })
    .unwrap();
    drop(tampered);
    host.start_daemon().unwrap();
    cluster.down().unwrap();
}

#[test]
fn a_power_cut_takes_everything_but_the_disk() {
    let cluster = Cluster::up(options(2)).unwrap();
    let host = cluster.host(0);
    host.output([
        "sh",
        "-c",
        "(mkdir -p /run/volatile && mount -t tmpfs none /run/volatile && setsid sleep 1000) >/dev/null 2>&1 &",
    ])
    .unwrap();
    wait_until(Duration::from_secs(5), "the mount is there", || {
        let mounts = host.inventory().unwrap().mounts;
        if mounts.contains("/run/volatile") { Ok(()) } else { Err(mounts) }
    })
    .unwrap();
    cluster.kill_all().unwrap();
    assert_eq!(host.state(), HostState::Down);
    assert!(host.probe(PORT, "/id").is_err());
    cluster.start_in_order(&[1, 0]).unwrap();
    let inventory = host.inventory().unwrap();
    assert!(!inventory.mounts.contains("/run/volatile"));
    assert!(inventory.processes.is_empty(), "{inventory:?}");
    assert_eq!(std::fs::read_to_string(host.dir().join("state/starts")).unwrap(), "started\nstarted\n");
    assert!(hears(&cluster, 0, 1) && hears(&cluster, 1, 0));
    cluster.down().unwrap();
}

#[test]
fn a_daemon_dies_freezes_and_returns_while_the_rest_of_the_host_goes_on() {
    let cluster = Cluster::up(options(1)).unwrap();
    let host = cluster.host(0);
    let before = host.inventory().unwrap();
    host.output(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &"]).unwrap();
    host.freeze().unwrap();
    assert!(host.probe(PORT, "/id").is_err(), "a frozen daemon answers nothing");
    host.thaw().unwrap();
    assert_eq!(host.probe(PORT, "/id").unwrap(), 200);
    host.kill_daemon().unwrap();
    wait_until(Duration::from_secs(5), "the end is noted", || match host.state() {
        HostState::DaemonEnded(how) if how.contains("SIGKILL") => Ok(()),
        other => Err(other),
    })
    .unwrap();
    host.start_daemon().unwrap();
    let more = host.inventory().unwrap().beyond(&before);
    assert!(more.len() == 1 && more[0].ends_with("sleep 1000"), "{more:?}");
    cluster.down().unwrap();
}

#[test]
fn a_daemon_that_does_not_start_is_told_with_its_output() {
    let mut options = options(1);
    options.daemon.command = ["/bin/sh", "-c", "echo no such luck; exit 3"].map(str::to_owned).into();
    let err = format!("{:#}", Cluster::up(options).unwrap_err());
    assert!(err.contains("exit status 3") && err.contains("no such luck"), "{err}");
}

#[test]
fn addresses_change_and_urls_stay() {
    let cluster = Cluster::up(options(2)).unwrap();
    let url = cluster.host(0).url(PORT).unwrap();
    cluster.kill_all().unwrap();
    let new = [[10, 99, 0, 101], [10, 99, 0, 102]].map(Into::into);
    cluster.change_addresses(&new).unwrap();
    cluster.start_in_order(&[0, 1]).unwrap();
    assert_eq!(cluster.host(0).ip(), new[0]);
    assert_eq!(cluster.host(0).url(PORT).unwrap(), url);
    assert!(hears(&cluster, 1, 0));
    cluster.down().unwrap();
}

#[test]
fn a_disk_can_be_full() {
    let cluster = Cluster::up(ClusterOptions { disk_bytes: Some(16 << 20), ..options(1) }).unwrap();
    let host = cluster.host(0);
    let state = host.dir().join("state");
    let fill = format!("dd if=/dev/zero of={}/fill bs=1M count=64", state.display());
    let output = host.exec(["sh", "-c", &fill]).unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{output:?}");
    host.kill().unwrap();
    host.start().unwrap();
    let list = host.output(["ls", &state.display().to_string()]).unwrap();
    assert!(list.contains("fill") && list.contains("starts"), "the disk outlives the power cut: {list}");
    cluster.down().unwrap();
}

#[test]
fn a_wall_clock_moves_for_the_daemon_alone() {
    let mut options = options(1);
    options.movable_clock = true;
    let script = "mkdir -p {dir}/state/cgi-bin; printf '#!/bin/sh\\necho\\ndate +%%s\\n' > {dir}/state/cgi-bin/now; \
                  chmod +x {dir}/state/cgi-bin/now; echo > {dir}/state/id; exec busybox httpd -f -p {ip}:8080 -h {dir}/state";
    options.daemon.command = ["/bin/sh", "-c", script].map(str::to_owned).into();
    let cluster = Cluster::up(options).unwrap();
    let host = cluster.host(0);
    // The answer of a program that the daemon runs, `date`.
    let now = || -> u64 {
        let output = std::process::Command::new("curl")
            .args(["-sf", &format!("{}/cgi-bin/now", host.url(PORT).unwrap())])
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap().trim().parse().unwrap()
    };
    let truth = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now().abs_diff(truth()) < 30);
    host.shift_clock(86_400).unwrap();
    assert!(now().abs_diff(truth() + 86_400) < 30, "a day ahead");
    host.shift_clock(-3600).unwrap();
    assert!(now().abs_diff(truth() - 3600) < 30, "an hour behind");
    cluster.down().unwrap();
}

#[test]
fn what_is_left_is_named() {
    let cluster = Cluster::up(options(1)).unwrap();
    let dir = cluster.dir();
    let point = dir.join("left");
    std::fs::create_dir(&point).unwrap();
    let mount = |program: &str, args: &[&std::ffi::OsStr]| {
        assert!(std::process::Command::new(program).args(args).status().unwrap().success());
    };
    mount("mount", &["-t".as_ref(), "tmpfs".as_ref(), "none".as_ref(), point.as_os_str()]);
    let err = cluster.down().unwrap_err().to_string();
    mount("umount", &[point.as_os_str()]);
    assert!(err.contains(&format!("mount {}", point.display())), "{err}");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn nothing_outlives_a_killed_test() {
    // The owner is another process, which is killed: this test, run again with a folder to put the cluster in.
    const FOLDER: &str = "FLYNN_HARNESS_TEST_OWNER";
    if let Some(dir) = std::env::var_os(FOLDER) {
        let cluster = Cluster::up(ClusterOptions { dir: Some(dir.into()), ..options(2) }).unwrap();
        std::fs::write(cluster.dir().join("is-up"), "").unwrap();
        loop {
            std::thread::park();
        }
    }
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("cluster");
    let mut owner = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "nothing_outlives_a_killed_test", "--nocapture"])
        .env(FOLDER, &dir)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let up = wait_until(Duration::from_secs(30), "the owner's cluster is up", || {
        dir.join("is-up").exists().then_some(()).ok_or_else(|| owner.try_wait())
    });
    owner.kill().unwrap();
    owner.wait().unwrap();
    up.unwrap();
    wait_until(Duration::from_secs(20), "the cluster is gone with its owner", || {
        if dir.exists() {
            Err(std::fs::read_dir(&dir).map(|entries| entries.flatten().map(|e| e.file_name()).collect::<Vec<_>>()))
        } else {
            Ok(())
        }
    })
    .unwrap();
}
