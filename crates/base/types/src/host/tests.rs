use super::*;

#[test]
fn an_event_has_the_bytes_that_the_specification_shows() {
    let text = r#"{"event":"start","job_id":"node1-5f0c","job":{"job":{"id":"node1-5f0c","metadata":{"flynn-controller.app_name":"web"},"config":{"args":["/bin/app"]}},"host_id":"node1","internal_ip":"100.100.3.4","pid":4211,"status":1,"created_at":"2026-05-01T10:00:00.1Z","started_at":"2026-05-01T10:00:01Z","ended_at":"0001-01-01T00:00:00Z"}}"#;
    let event: JobEvent = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&event).unwrap(), text);
}

#[test]
fn a_starting_job_has_no_status_and_an_ended_one_keeps_exit_status_zero() {
    let mut job = ActiveJob { host_id: "h".into(), ..ActiveJob::default() };
    let text = serde_json::to_string(&job).unwrap();
    assert_eq!(
        text,
        r#"{"job":{"config":{}},"host_id":"h","created_at":"0001-01-01T00:00:00Z","started_at":"0001-01-01T00:00:00Z","ended_at":"0001-01-01T00:00:00Z"}"#
    );
    job.status = JobStatus::Done;
    job.exit_status = Some(0);
    let value = serde_json::to_value(&job).unwrap();
    assert_eq!((&value["status"], &value["exit_status"]), (&2.into(), &0.into()));
}

#[test]
fn absent_and_empty_capabilities_differ() {
    let absent: ContainerConfig = serde_json::from_str("{}").unwrap();
    let empty: ContainerConfig = serde_json::from_str(r#"{"linux_capabilities":[]}"#).unwrap();
    assert_eq!((absent.linux_capabilities, empty.linux_capabilities.clone()), (None, Some(vec![])));
    assert_eq!(
        serde_json::to_string(&ContainerConfig { linux_capabilities: Some(vec![]), ..Default::default() }).unwrap(),
        r#"{"linux_capabilities":[]}"#
    );
}

#[test]
fn null_maps_and_lists_of_go_read_as_empty() {
    let job: Job = serde_json::from_str(
        r#"{"mountspecs":null,"metadata":null,"resources":null,"config":{"args":null,"env":null,"ports":null}}"#,
    )
    .unwrap();
    assert_eq!(job, Job::default());
}

#[test]
fn durations_are_nanoseconds_and_devices_code_points() {
    let check: HealthCheck = serde_json::from_str(r#"{"type":"http","interval":2000000000,"match":"ok"}"#).unwrap();
    assert_eq!(check.interval, Some(HealthCheck::DEFAULT_INTERVAL));
    assert_eq!(serde_json::to_string(&check).unwrap(), r#"{"type":"http","interval":2000000000,"match":"ok"}"#);
    let device = Device {
        kind: 'c'.into(),
        path: "/dev/null".into(),
        major: 1,
        minor: 3,
        file_mode: 0o666,
        ..Device::default()
    };
    assert_eq!(
        serde_json::to_string(&device).unwrap(),
        r#"{"type":99,"path":"/dev/null","major":1,"minor":3,"permissions":"","file_mode":438,"uid":0,"gid":0,"allow":false}"#
    );
}

#[test]
fn a_sink_keeps_its_configuration_byte_for_byte() {
    let text = r#"{"id":"1","kind":"syslog","config":{"use_ids":false, "url":"syslog://a"}}"#;
    let sink: SinkInfo = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&sink).unwrap(), text);
}

#[test]
fn merging_follows_the_clients_rules() {
    let base = ContainerConfig {
        args: vec!["a".into()],
        env: [("A".into(), "1".into()), ("B".into(), "1".into())].into(),
        uid: Some(1),
        ..ContainerConfig::default()
    };
    let top = ContainerConfig {
        tty: true,
        env: [("B".into(), "2".into())].into(),
        gid: Some(0),
        ..ContainerConfig::default()
    };
    let merged = base.merged(&top);
    assert_eq!(
        (merged.args.as_slice(), merged.tty, merged.uid, merged.gid),
        (["a".to_owned()].as_slice(), true, Some(1), Some(0))
    );
    assert_eq!(merged.env["B"], "2");
}

#[test]
fn host_status_writes_null_flags_and_leaves_out_what_is_not_set() {
    let status = HostStatus {
        id: "h1".into(),
        pid: 1,
        url: "http://10.0.0.1:1113".into(),
        version: "dev".into(),
        ..HostStatus::default()
    };
    assert_eq!(
        serde_json::to_string(&status).unwrap(),
        r#"{"id":"h1","pid":1,"url":"http://10.0.0.1:1113","version":"dev","flags":null}"#
    );
}
