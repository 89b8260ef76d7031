use flynn_types::host;
use serde_json::{Value, json};

use crate::filter::{Policy, Verdict};

use super::*;
use crate::spec::{Limits, Mount};

fn spec() -> ContainerSpec {
    ContainerSpec {
        job_id: "host1-abc".parse().unwrap(),
        run_dir: "/run/flynn/container/host1-abc".into(),
        rootfs: "/run/flynn/mnt/host1-abc".into(),
        hostname: "abc".into(),
        netns: Some("/run/flynn/container/host1-abc/netns".into()),
        host_pid: false,
        partition: "user".into(),
        limits: Limits::default(),
        mounts: vec![],
        volumes: vec![],
        resolv_conf: Some("/run/flynn/resolv.conf".into()),
        capabilities: None,
        allowed_devices: None,
        created_devices: None,
        writeable_cgroups: false,
        system: false,
        builder: false,
        profiles: vec![],
        init: init::InitConfig::default(),
        disable_log: false,
        spool_limit_bytes: 0,
    }
}

fn host() -> HostFacts {
    HostFacts {
        capabilities: u64::MAX,
        mqueue: true,
        init_binary: "/usr/lib/flynn-init".into(),
        ..HostFacts::default()
    }
}

fn configured(change: impl FnOnce(&mut ContainerSpec)) -> Value {
    let mut spec = spec();
    change(&mut spec);
    config(&spec, &Granted::default(), "/flynn/user/host1-abc", &host()).unwrap()
}

fn capabilities(config: &Value) -> Vec<&str> {
    let sets = &config["process"]["capabilities"];
    for set in ["effective", "inheritable", "permitted", "ambient"] {
        assert_eq!(sets[set], sets["bounding"], "{set}");
    }
    sets["bounding"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

fn mount_at<'a>(config: &'a Value, target: &str) -> &'a Value {
    let mounts = config["mounts"].as_array().unwrap();
    mounts.iter().find(|mount| mount["destination"] == target).unwrap_or_else(|| panic!("no mount at {target}"))
}

#[test]
fn capabilities_follow_the_kind_of_the_job() {
    let has = |change: fn(&mut ContainerSpec), name: &str| capabilities(&configured(change)).contains(&name);
    for (name, change, capability, expected) in [
        ("an app", (|_| {}) as fn(&mut ContainerSpec), "CAP_NET_RAW", false),
        ("an app", |_| {}, "CAP_MKNOD", false),
        ("an app", |_| {}, "CAP_NET_BIND_SERVICE", true),
        ("an app", |_| {}, "CAP_NET_ADMIN", false),
        ("a system job", |spec| spec.system = true, "CAP_NET_RAW", true),
        ("a builder", |spec| spec.builder = true, "CAP_MKNOD", true),
        ("a builder", |spec| spec.builder = true, "CAP_NET_RAW", false),
        ("host networking", |spec| spec.netns = None, "CAP_NET_ADMIN", true),
        ("exactly these", |spec| spec.capabilities = Some(vec!["CAP_BPF".into()]), "CAP_BPF", true),
        ("exactly these", |spec| spec.capabilities = Some(vec!["CAP_BPF".into()]), "CAP_KILL", false),
    ] {
        assert_eq!(has(change, capability), expected, "{name}: {capability}");
    }
    assert!(capabilities(&configured(|spec| spec.capabilities = Some(vec![]))).is_empty());
}

#[test]
fn what_the_host_lacks_is_left_out_and_what_nobody_knows_is_an_error() {
    let mut spec = spec();
    let host = HostFacts { capabilities: !(1 << 5), ..host() }; // without CAP_KILL
    let config = config(&spec, &Granted::default(), "/c", &host).unwrap();
    assert!(!capabilities(&config).contains(&"CAP_KILL"));
    spec.capabilities = Some(vec!["CAP_FLY".into()]);
    let err = super::config(&spec, &Granted::default(), "/c", &host).unwrap_err();
    assert!(err.to_string().starts_with("unknown capability \"CAP_FLY\""), "{err}");
}

#[test]
fn namespaces_are_private_unless_asked_otherwise() {
    let kinds = |config: &Value| -> Vec<String> {
        let namespaces = config["linux"]["namespaces"].as_array().unwrap();
        namespaces.iter().map(|namespace| namespace["type"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(kinds(&configured(|_| {})), ["mount", "uts", "ipc", "pid", "network"]);
    assert_eq!(kinds(&configured(|spec| spec.host_pid = true)), ["mount", "uts", "ipc", "network"]);
    let shared = configured(|spec| spec.netns = None);
    assert_eq!(kinds(&shared), ["mount", "uts", "ipc", "pid"]);
    assert!(shared.get("hostname").is_none(), "the host's name stays with host networking");
}

#[test]
fn the_filter_holds_all_but_administrators() {
    let filter = |change: fn(&mut ContainerSpec)| {
        let mut spec = spec();
        change(&mut spec);
        filter(&spec, &Granted::default(), &host()).unwrap()
    };
    let rules = |policy: &Policy, name: &str| -> Vec<Verdict> {
        policy.rules.iter().filter(|rule| rule.name == name).map(|rule| rule.verdict).collect()
    };
    let app = filter(|_| {}).unwrap();
    for (name, verdict) in [("openat", Verdict::Allow), ("mount", Verdict::Errno(1)), ("chroot", Verdict::Errno(1))] {
        assert_eq!(rules(&app, name), [verdict], "{name}");
    }
    assert_eq!(rules(&app, "no_such_call"), []);
    let builder = filter(|spec| spec.builder = true).unwrap();
    assert_eq!((rules(&builder, "mount"), rules(&builder, "chroot")), (vec![Verdict::Allow], vec![Verdict::Allow]));
    assert!(filter(|spec| spec.capabilities = Some(vec!["CAP_SYS_ADMIN".into()])).is_none());
    for policy in [&app, &builder] {
        for rule in &policy.rules {
            assert!(rules(policy, rule.name).windows(2).all(|pair| pair[0] == pair[1]), "{} twice", rule.name);
        }
    }
}

#[test]
fn devices_of_others_are_denied() {
    let lines = |change: fn(&mut ContainerSpec)| -> Vec<String> {
        let mut spec = spec();
        change(&mut spec);
        device_rules(&spec, &Granted::default()).iter().map(DeviceRule::line).collect()
    };
    let app = lines(|_| {});
    assert!(app.contains(&"c 1:3 rwm".into()) && app.contains(&"c 136:* rwm".into()), "{app:?}");
    assert!(!app.iter().any(|line| line.contains("10:200") || line.starts_with("b") || line == "c *:* m"), "{app:?}");
    let system = lines(|spec| spec.system = true);
    assert!(system.contains(&"b *:* m".into()) && system.contains(&"c 10:200 rwm".into()), "{system:?}");
    let own = lines(|spec| {
        let fuse = host::Device {
            kind: 'c'.into(),
            major: 10,
            minor: 229,
            permissions: "rw".into(),
            allow: true,
            ..host::Device::default()
        };
        let denied = host::Device { allow: false, minor: 1, ..fuse.clone() };
        spec.allowed_devices = Some(vec![fuse, denied]);
    });
    assert!(own.contains(&"c 10:229 rw".into()) && !own.iter().any(|line| line.contains("10:1 ")), "{own:?}");
}

#[test]
fn created_devices_stay_in_dev() {
    let mut spec = spec();
    let device = |path: &str| host::Device {
        kind: 'c'.into(),
        path: path.into(),
        major: 1,
        minor: 3,
        ..host::Device::default()
    };
    for bad in ["/etc/null", "/dev/../etc/null", "dev/null"] {
        spec.created_devices = Some(vec![device(bad)]);
        let err = config(&spec, &Granted::default(), "/c", &host()).unwrap_err();
        assert_eq!(err, InvalidSpec::DevicePath(bad.into()));
    }
}

#[test]
fn mounts_of_jobs_are_bound_without_set_id_programs_and_devices() {
    let config = configured(|spec| {
        spec.mounts = vec![
            host::Mount {
                location: "/data".into(),
                target: "/srv/data".into(),
                writeable: true,
                ..host::Mount::default()
            },
            host::Mount { location: "/conf".into(), target: "/srv/conf".into(), ..host::Mount::default() },
            host::Mount {
                location: "/scratch".into(),
                target: "tmpfs".into(),
                writeable: true,
                device: "tmpfs".into(),
                data: "size=1m,mode=700".into(),
                flags: 2 | 4,
            },
        ];
        spec.volumes = vec![Mount { source: "/vol/1".into(), target: "/var/lib/db".into(), writeable: true }];
    });
    assert_eq!(mount_at(&config, "/data")["options"], json!(["rbind", "rnosuid", "rnodev"]));
    assert_eq!(mount_at(&config, "/conf")["options"], json!(["rbind", "rnosuid", "rnodev", "rro"]));
    assert_eq!(mount_at(&config, "/scratch")["options"], json!(["nosuid", "nodev", "size=1m", "mode=700"]));
    assert_eq!(mount_at(&config, "/scratch")["type"], "tmpfs");
    assert_eq!(mount_at(&config, "/var/lib/db")["source"], "/vol/1");
    let order: Vec<&str> =
        config["mounts"].as_array().unwrap().iter().map(|m| m["destination"].as_str().unwrap()).collect();
    assert_eq!(order[order.len() - 4..], ["/data", "/conf", "/scratch", "/var/lib/db"]);
}

#[test]
fn mounts_need_an_absolute_place() {
    let mut spec = spec();
    spec.volumes = vec![Mount { source: "/vol/1".into(), target: "data".into(), writeable: true }];
    let err = config(&spec, &Granted::default(), "/c", &host()).unwrap_err();
    assert_eq!(err, InvalidSpec::MountLocation("data".into()));
}

#[test]
fn cgroups_are_the_containers_own_and_read_only() {
    let facts = HostFacts {
        cgroup_mounts: vec![
            CgroupMount {
                source: "/sys/fs/cgroup/memory/flynn/user/a".into(),
                name: "memory".into(),
                always_read_only: false,
            },
            CgroupMount {
                source: "/sys/fs/cgroup/devices/flynn/user/a".into(),
                name: "devices".into(),
                always_read_only: true,
            },
        ],
        ..host()
    };
    for (writeable, memory, listed) in [(false, "ro", true), (true, "rw", false)] {
        let mut spec = spec();
        spec.writeable_cgroups = writeable;
        let config = config(&spec, &Granted::default(), "/c", &facts).unwrap();
        let access = |name: &str| mount_at(&config, &format!("/sys/fs/cgroup/{name}"))["options"][4].clone();
        assert_eq!((access("memory"), access("devices")), (json!(memory), json!("ro")));
        let readonly = config["linux"]["readonlyPaths"].as_array().unwrap();
        assert_eq!(readonly.contains(&json!("/sys/fs/cgroup")), listed);
    }
}

#[test]
fn builders_are_not_confined_by_apparmor() {
    let facts = HostFacts { apparmor: true, ..host() };
    let mut spec = spec();
    let profile = |spec: &ContainerSpec| {
        config(spec, &Granted::default(), "/c", &facts).unwrap()["process"]["apparmorProfile"].clone()
    };
    assert_eq!(profile(&spec), "flynn-default");
    spec.builder = true;
    assert!(profile(&spec).is_null());
}
