//! What a job may do and use.

use std::path::PathBuf;

use flynn_container::Limits;

use crate::support::{Sandbox, eventually};

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[tokio::test]
async fn a_job_that_runs_out_of_memory_crashes_and_the_reason_is_told() {
    let sandbox = Sandbox::new();
    let mut spec = sandbox.shell("exec tail /dev/zero");
    spec.limits.memory_bytes = 32 << 20;
    let job = sandbox.run(spec).await;
    let ended = job.ended().await;
    assert_eq!(ended.status(), 137);
    assert_eq!(ended.record.oom_kills, 1, "{ended:?}");
    let line = "FATAL: a container process was killed due to lack of available memory";
    assert_eq!(ended.init_log.matches(line).count(), 1, "{}", ended.init_log);
}

#[tokio::test]
async fn a_child_killed_for_lack_of_memory_is_reported_while_the_job_goes_on() {
    let sandbox = Sandbox::new();
    let mut spec = sandbox.shell("tail /dev/zero; echo survived; exec sleep 1000");
    spec.limits.memory_bytes = 32 << 20;
    let job = sandbox.run(spec).await;
    job.wrote("survived").await;
    let run_dir = job.run_dir().to_owned();
    eventually("the line", || {
        let log = crate::support::output(&run_dir, flynn_types::init::spool::INIT);
        if log.contains("lack of available memory") { Ok(()) } else { Err(log) }
    })
    .await;
    job.container.stop().await.unwrap();
    assert_eq!(job.ended().await.record.oom_kills, 1);
}

#[tokio::test]
async fn limits_are_the_jobs() {
    let sandbox = Sandbox::new();
    let mut spec = sandbox.shell("ulimit -Sn; ulimit -Hn; echo ready; exec sleep 1000");
    spec.limits = Limits { memory_bytes: 64 << 20, cpu_shares: Some(512) };
    spec.init.rlimits = vec![("nofile".into(), 100, 200)];
    let job = sandbox.run(spec).await;
    job.wrote("ready").await;
    let id = job.run_dir().file_name().unwrap().to_str().unwrap().to_owned();
    let cgroup = |controller: &str, file: &str| {
        let v1 = PathBuf::from(format!("/sys/fs/cgroup/{controller}/{}/user/{id}/{file}", sandbox.cgroup_root()));
        std::fs::read_to_string(&v1).unwrap_or_else(|err| panic!("{}: {err}", v1.display())).trim().to_owned()
    };
    let is_v2 = PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists();
    if is_v2 {
        assert_eq!(cgroup(".", "memory.max"), (64 << 20).to_string());
        assert_eq!(cgroup(".", "cpu.weight"), "20");
    } else {
        assert_eq!(cgroup("memory", "memory.limit_in_bytes"), (64 << 20).to_string());
        assert_eq!(cgroup("cpu", "cpu.shares"), "512");
    }
    job.container.kill().await.unwrap();
    assert_eq!(lines(&job.ended().await.stdout), ["100", "200", "ready"]);
}

#[tokio::test]
async fn a_job_cannot_do_more_than_it_should() {
    let sandbox = Sandbox::new();
    let script = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
        mount -t tmpfs none /tmp 2>/dev/null && echo mounted
        unshare -m true 2>/dev/null && echo unshared
        mknod /tmp/sda b 8 0 2>/dev/null && echo made a disk
        head -c 1 /proc/kcore 2>/dev/null | grep -q . && echo read the kernel
        echo 1 > /proc/sys/kernel/panic 2>/dev/null && echo wrote a setting
        ls -A /sys/firmware
        echo $$ ; ls /proc/self/fd | wc -l; umask";
    let job = sandbox.run(sandbox.shell(script)).await;
    let ended = job.ended().await;
    let (facts, rest): (Vec<&str>, Vec<&str>) = ended.stdout.lines().partition(|line| line.contains(":\t"));
    // CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_ADMIN (host network)
    // AUDIT_WRITE SETFCAP AUDIT_READ
    let capabilities: u64 = [0, 1, 3, 4, 5, 6, 7, 8, 10, 12, 29, 31, 37].iter().map(|bit| 1_u64 << bit).sum();
    let host_bounding = std::fs::read_to_string("/proc/self/status").unwrap();
    let host_bounding = host_bounding.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap().to_owned();
    let capabilities = capabilities & u64::from_str_radix(&host_bounding, 16).unwrap();
    let expected = [
        format!("CapBnd:\t{capabilities:016x}"),
        format!("CapEff:\t{capabilities:016x}"),
        "NoNewPrivs:\t1".into(),
        "Seccomp:\t2".into(),
    ];
    let mut facts = facts;
    facts.sort_unstable();
    assert_eq!(facts, expected);
    // The script's process, the descriptors 0 to 2 and that of the listing, nothing that was forbidden.
    assert_eq!(rest, ["2", "4", "0022"], "{ended:?}");
}

#[tokio::test]
async fn an_ordinary_user_has_no_rights_but_its_streams() {
    let sandbox = Sandbox::new();
    let mut spec = sandbox.shell(
        "id -u; id -g; id -G; grep CapEff: /proc/self/status; echo again > /dev/stdout; echo wrong > /dev/stderr
         cat /.containerconfig 2>/dev/null && echo read the secrets; pwd",
    );
    (spec.init.uid, spec.init.gid) = (1234, 2345);
    spec.init.work_dir = "/tmp".into();
    let job = sandbox.run(spec).await;
    let ended = job.ended().await;
    assert_eq!(lines(&ended.stdout), ["1234", "2345", "2345", "CapEff:\t0000000000000000", "again", "/tmp"]);
    assert_eq!(ended.stderr, "wrong\n");
}

#[tokio::test]
async fn a_container_without_capabilities_runs() {
    let sandbox = Sandbox::new();
    let mut spec = sandbox.shell("grep CapBnd: /proc/self/status");
    spec.capabilities = Some(Vec::new());
    let job = sandbox.run(spec).await;
    assert_eq!(job.ended().await.stdout, "CapBnd:\t0000000000000000\n");
}

#[tokio::test]
async fn the_environment_is_exactly_what_was_given() {
    let sandbox = Sandbox::new();
    let mut spec = sandbox.spec(crate::support::busybox_root(sandbox.path()), &["env"]);
    spec.init.env = [("PATH", "/bin"), ("A", "1"), ("EMPTY", "")].map(|(k, v)| (k.into(), v.into())).into();
    let job = sandbox.run(spec).await;
    assert_eq!(lines(&job.ended().await.stdout), ["A=1", "EMPTY=", "PATH=/bin"]);
}

#[tokio::test]
async fn a_container_with_its_own_network_has_its_own_name() {
    let sandbox = Sandbox::new();
    let mut spec = sandbox.shell("hostname; cat /etc/hosts; tail -n +3 /proc/net/dev | cut -d: -f1");
    let netns = sandbox.path().join("netns-file");
    let _namespace = crate::support::Netns::new(&netns);
    spec.netns = Some(netns);
    spec.init.host_network = false;
    let job = sandbox.run(spec).await;
    let ended = job.ended().await;
    let lines: Vec<_> = ended.stdout.lines().map(str::trim).collect();
    assert_eq!(lines[..2], ["box", "127.0.0.1 localhost box"], "{ended:?}");
    assert_eq!(lines[2..].iter().filter(|name| **name == "lo").count(), 1);
    assert!(!lines.contains(&"eth0"));
}
