//! Three hosts: one list, names and addresses that work across hosts, logs that follow jobs elsewhere.

use std::process::Stdio;

use flynn_harness::{ClusterOptions, wait_until};
use flynn_scenarios::{Audit, Node, SETTLING, block_on, cluster, counting, numbered, shell, with_service};
use flynn_types::host::JobStatus;

/// A service on one host is found by name from a container on another, and answers; the daemon's death is not noticed.
#[test]
fn a_service_is_found_by_name_on_another_host_and_outlives_its_daemon() {
    let cluster = cluster(ClusterOptions { hosts: 3, ..ClusterOptions::default() }).unwrap();
    let nodes: Vec<_> = cluster.hosts().map(Node::of).collect();
    let before = nodes[0].baseline().unwrap();
    for node in &nodes {
        wait_until(SETTLING, "the list shows three hosts and one leader", || {
            let list = node.host.output(["flynn-host", "list"]).map_err(|err| format!("{err:#}"))?;
            let count = |word: &str| list.lines().skip(1).filter(|line| line.contains(word)).count();
            if (count("host"), count("peer"), count("leader")) == (3, 3, 1) { Ok(()) } else { Err(list) }
        })
        .unwrap();
    }

    let script = "mkdir -p /www && echo hello from afar > /www/index.html && exec httpd -f -p 8080 -h /www";
    let web = with_service(shell(nodes[0].host, script), "scenario-web", 8080);
    let running = nodes[0].run(&web).unwrap();
    let found = block_on(nodes[1].discoverd().wait_for_instances("scenario-web", 1, SETTLING)).unwrap();
    assert_eq!(found[0].addr, format!("{}:8080", running.internal_ip));
    let fetch = |node: Node<'_>| {
        // (`wget -T` of Debian's static busybox crashes.)
        let script = "timeout 5 wget -q -O - http://scenario-web.discoverd:8080/";
        let client = shell(node.host, script);
        node.run_to_end(&client).unwrap()
    };
    for node in &nodes {
        let (ended, output) = fetch(*node);
        assert_eq!(
            (ended.status, output.stdout),
            (JobStatus::Done, vec!["hello from afar".to_owned()]),
            "{:?}",
            output.stderr
        );
    }

    let audit = Audit::of("scenario-web", [nodes[1], nodes[2]]);
    nodes[0].host.restart_daemon().unwrap();
    let after = nodes[0].job(&web.id).unwrap();
    assert_eq!((after.status, after.pid, &after.internal_ip), (JobStatus::Running, running.pid, &running.internal_ip));
    assert_eq!(fetch(nodes[1]).1.stdout, ["hello from afar"]);
    assert_eq!(audit.downs(), Vec::<String>::new());
    nodes[0].stop(&web.id).unwrap();
    wait_until(SETTLING, "the service has no instance", || {
        let left = block_on(nodes[2].discoverd().instances("scenario-web")).map_err(|err| err.to_string())?;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .unwrap();
    nodes[0].wait_no_leaks(&before).unwrap();
    cluster.down().unwrap();
}

/// `flynn-host log -f` on a host shows every line of a job of another host once, and ends with the job; what the job
/// wrote while its daemon was dead is there too.
#[test]
fn a_log_is_followed_from_another_host() {
    let cluster = cluster(ClusterOptions { hosts: 3, ..ClusterOptions::default() }).unwrap();
    let (near, far) = (Node::of(cluster.host(0)), Node::of(cluster.host(2)));
    let job = counting(near.host, 150, "0.02", 0);
    near.run(&job).unwrap();
    let follow = far.host.command_in("flynn-host").unwrap().args(["log", "-f", &job.id]).stdin(Stdio::null()).output();
    let followed = follow.unwrap();
    assert!(followed.status.success(), "{}", String::from_utf8_lossy(&followed.stderr));
    let lines: Vec<_> = String::from_utf8(followed.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(numbered(&lines), Ok(150));

    let job = counting(near.host, 150, "0.02", 0);
    let running = near.run(&job).unwrap();
    near.wait_line(&job.id, "its tenth line", |line| line == "line 10").unwrap();
    near.host.kill_daemon().unwrap();
    near.host.start_daemon().unwrap();
    let ended = near.wait_end(&job.id, SETTLING).unwrap();
    assert_eq!((ended.status, ended.exit_status, ended.job.id), (JobStatus::Done, Some(0), running.job.id));
    assert_eq!(numbered(&near.output(&job.id).unwrap().stdout), Ok(150));
    cluster.down().unwrap();
}
