use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;

/// Decodes `text`, writes it again and expects the same bytes.
fn golden<T: Serialize + DeserializeOwned>(text: &str) -> T {
    let value: T = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&value).unwrap(), text);
    value
}

const APP: &str = "6d1f1c1e-0d4b-4b7c-8d0f-3c1b7e0a1d11";
const RELEASE: &str = "b1f6a1de-7f7e-4c68-92a4-0a9d2c3f6e22";

#[test]
fn apps_keep_the_bytes_of_existing_clusters() {
    let app: App = golden(&format!(
        r#"{{"id":"{APP}","name":"shop","meta":{{"flynn-system-app":"true"}},"strategy":"one-by-one","release":"{RELEASE}","deploy_timeout":120,"created_at":"2026-11-23T11:40:47.80004Z","updated_at":"2026-11-23T11:40:47.80004Z"}}"#
    ));
    assert!(app.is_system() && !app.is_critical());
    // `meta` alone is never left out; clients send it as null.
    golden::<App>(r#"{"meta":{}}"#);
    let from_null: App = serde_json::from_str(r#"{"name":"shop","meta":null,"release":null}"#).unwrap();
    assert_eq!(from_null, App { name: "shop".into(), ..App::default() });
}

#[test]
fn names_of_apps_are_words_with_dashes() {
    for name in ["a", "shop", "shop-2", "0", &"a".repeat(100)] {
        assert_eq!(check_app_name(name), Ok(()), "{name}");
    }
    for name in ["", "-", "a-", "-a", "a--b", "A", "a_b", "ä", "a b"] {
        assert_eq!(check_app_name(name), Err(InvalidAppName::Pattern), "{name}");
    }
    assert_eq!(check_app_name(&"a".repeat(101)), Err(InvalidAppName::Length));
}

#[test]
fn releases_keep_the_bytes_of_existing_clusters() {
    let release: Release = golden(&format!(
        r#"{{"id":"{RELEASE}","app_id":"{APP}","artifacts":["a1","a2"],"env":{{"PORT":"80"}},"meta":{{"git":"true"}},"processes":{{"web":{{"args":["/runner/init","start","web"],"ports":[{{"port":0,"proto":"tcp","service":{{"name":"shop-web","create":true,"check":{{"type":"http","interval":5000000000,"threshold":3,"kill_down":true,"start_timeout":60000000000,"path":"/","status":200}}}}}}],"volumes":[{{"path":"/data"}}],"service":"shop-web","resurrect":true,"resources":{{"memory":{{"request":null,"limit":268435456}}}},"cmd":["start"],"entrypoint":["/bin/x"]}},"worker":{{}}}},"created_at":"2026-11-23T11:40:47Z","artifact":"a1"}}"#
    ));
    assert_eq!(release.processes["web"].ports[0].proto, "tcp");
    assert_eq!(serde_json::to_string(&ProcessPort::default()).unwrap(), r#"{"port":0,"proto":""}"#);
}

#[test]
fn older_forms_of_processes_become_today_s() {
    let mut process: ProcessType =
        serde_json::from_str(r#"{"entrypoint":["/e"],"cmd":["a","b"],"data":true}"#).unwrap();
    process.normalize();
    assert_eq!(process.args, ["/e", "a", "b"]);
    assert_eq!(process.volumes, [VolumeReq { path: "/data".into(), delete_on_stop: false }]);
    assert!(!process.deprecated_data);
    let memory = process.resources.0[&crate::resource::ResourceType::Memory];
    assert_eq!((memory.request, memory.limit), (Some(1 << 30), Some(1 << 30)));
    let mut today: ProcessType =
        serde_json::from_str(r#"{"args":["/e"],"volumes":[{"path":"/v"}],"data":true}"#).unwrap();
    today.normalize();
    assert_eq!((today.args.len(), &*today.volumes[0].path), (1, "/v"));
}

#[test]
fn the_initial_list_of_formations_ends_with_an_empty_one() {
    golden::<ExpandedFormation>(r#"{"updated_at":"0001-01-01T00:00:00Z"}"#);
    let text = format!(
        r#"{{"app":{{"id":"{APP}","name":"shop","meta":{{}}}},"release":{{"id":"{RELEASE}"}},"artifacts":[{{"id":"a1","type":"flynn","uri":"http://blobstore.discoverd/a1"}}],"processes":{{"web":2}},"tags":{{"web":{{"ssd":"true"}}}},"updated_at":"2026-11-23T11:40:47Z","deleted":true,"pending_scale_request":{{"id":"s","app":"{APP}","release":"{RELEASE}","state":"pending","new_processes":{{"web":3}},"created_at":"2026-11-23T11:40:47Z","updated_at":null}}}}"#
    );
    golden::<ExpandedFormation>(&text);
    golden::<Formation>(&format!(r#"{{"app":"{APP}","release":"{RELEASE}","processes":{{"web":1}}}}"#));
}

#[test]
fn a_scale_request_tells_nothing_from_zero() {
    let none: ScaleRequest = golden(&format!(
        r#"{{"id":"s","app":"{APP}","release":"{RELEASE}","state":"pending","created_at":null,"updated_at":null}}"#
    ));
    assert_eq!(none.new_processes, None);
    let zero: ScaleRequest = golden(&format!(
        r#"{{"id":"s","app":"{APP}","release":"{RELEASE}","state":"cancelled","old_processes":{{"web":2}},"new_processes":{{}},"created_at":null,"updated_at":null}}"#
    ));
    assert_eq!(zero.new_processes, Some(Processes::new()));
    assert!(serde_json::from_str::<ScaleRequest>(r#"{"id":"s"}"#).is_err(), "the state is required");
    let from_null: ScaleRequest =
        serde_json::from_str(r#"{"state":"complete","new_tags":null,"old_tags":null}"#).unwrap();
    assert_eq!(from_null.state, ScaleRequestState::Complete);
}

#[test]
fn jobs_keep_the_bytes_of_existing_clusters() {
    let job: Job = golden(&format!(
        r#"{{"id":"host1-u","uuid":"u","host_id":"host1","app":"{APP}","release":"{RELEASE}","type":"web","state":"down","args":["x"],"volumes":["v1","v2"],"meta":{{"k":"v"}},"exit_status":1,"host_error":"no layer","run_at":"2026-11-23T11:40:47Z","restarts":3,"created_at":"2026-11-23T11:40:47Z","updated_at":"2026-11-23T11:40:47Z"}}"#
    ));
    assert!(job.state.unwrap().is_terminal());
    golden::<Job>(r#"{"uuid":"","state":"blocked"}"#);
    golden::<NewJob>(&format!(
        r#"{{"release":"{RELEASE}","artifacts":["a"],"release_env":true,"args":["sh"],"env":{{"A":"b"}},"meta":{{"k":"v"}},"tty":true,"tty_columns":80,"tty_lines":24,"disable_log":true,"resources":{{"memory":{{"request":1,"limit":2}}}},"data":true,"partition":"background","profiles":["zfs"],"mounts_from":"web"}}"#
    ));
    let old: NewJob = serde_json::from_str(r#"{"release":"r","cmd":["x"],"entrypoint":["y"],"artifact":"a"}"#).unwrap();
    assert_eq!(old, NewJob { release_id: "r".into(), ..NewJob::default() });
}

#[test]
fn deployments_keep_the_bytes_of_existing_clusters() {
    golden::<Deployment>(&format!(
        r#"{{"id":"d","app":"{APP}","old_release":"o","new_release":"{RELEASE}","strategy":"in-batches","status":"failed","processes":{{"web":2}},"tags":{{"web":{{"a":"b"}}}},"deploy_timeout":120,"deploy_batch_size":2,"created_at":"2026-11-23T11:40:47Z","finished_at":"2026-11-23T11:40:48Z"}}"#
    ));
    golden::<DeploymentEvent>(&format!(
        r#"{{"app":"{APP}","deployment":"d","release":"{RELEASE}","status":"running","job_type":"web","job_state":"up","error":"e"}}"#
    ));
    for (strategy, text) in Strategy::ALL.map(|strategy| (strategy, strategy.as_str())) {
        assert_eq!(serde_json::to_string(&strategy).unwrap(), format!("\"{text}\""));
    }
}

#[test]
fn volumes_and_sinks_end_their_lists_with_an_empty_one() {
    golden::<Volume>(
        r#"{"path":"/data","delete_on_stop":true,"id":"v","host_id":"host1","type":"data","state":"created","app":"a","release":"r","job":"j","job_type":"web","meta":{"k":"v"},"created_at":"2026-11-23T11:40:47Z","updated_at":"2026-11-23T11:40:47Z","decommissioned_at":"2026-11-23T11:40:47Z"}"#,
    );
    assert_eq!(serde_json::to_string(&Sink::default()).unwrap(), r#"{"id":"","kind":""}"#);
    let sink: Sink = golden(r#"{"id":"s","kind":"syslog","config":{"url": "syslog://a:1",  "use_ids":true}}"#);
    assert_eq!(sink.config.unwrap().get(), r#"{"url": "syslog://a:1",  "use_ids":true}"#);
}

#[test]
fn resources_backups_and_migrations_keep_the_bytes_of_existing_clusters() {
    golden::<Provider>(r#"{"id":"p","url":"http://postgres-api.discoverd/databases","name":"postgres"}"#);
    golden::<Resource>(r#"{"id":"r","provider":"p","external_id":"/databases/x","env":{"PGUSER":"u"},"apps":["a"]}"#);
    golden::<ResourceReq>(r#"{"apps":["a"],"config":{"k":[1,null]}}"#);
    golden::<ClusterBackup>(
        r#"{"id":"b","status":"complete","sha512":"ab","size":7,"completed_at":"2026-11-23T11:40:47Z"}"#,
    );
    let migration: DomainMigration = golden(
        r#"{"id":"m","old_tls_cert":{"ca_cert":"a","cert":"b","pin":"c","key":"SECRET"},"old_domain":"x.org","domain":"y.org"}"#,
    );
    assert!(!format!("{migration:?}").contains("SECRET"));
}

#[test]
fn events_carry_their_data_as_it_was_stored() {
    let event: Event = golden(
        r#"{"id":7,"app":"a","object_type":"scale_request_cancelation","object_id":"s","data":{"id":"s",  "b":1},"created_at":"2026-11-23T11:40:47Z"}"#,
    );
    assert_eq!(event.object_type, Some(EventType::ScaleRequestCancelation));
    golden::<AppDeletionEvent>(
        r#"{"app_deletion":{"app":"a","deleted_routes":null,"deleted_resources":null,"deleted_releases":[{"id":"r"}]},"error":""}"#,
    );
    golden::<ReleaseDeletionEvent>(
        r#"{"release_deletion":{"app":"a","release":"r","remaining_apps":["b"],"deleted_files":null},"error":"x"}"#,
    );
    golden::<AppGarbageCollectionEvent>(
        r#"{"app_garbage_collection":{"app_id":"a","deleted_releases":["r"]},"error":""}"#,
    );
    golden::<DomainMigrationEvent>(r#"{"domain_migration":{"id":"m","old_domain":"a","domain":"b"}}"#);
    golden::<Scale>(r#"{"prev_processes":{"web":1},"processes":{},"release":"r"}"#);
    golden::<AppRelease>(r#"{"release":{"id":"r"}}"#);
    assert_eq!(EventType::ALL.len(), 26, "the names of the table event_types, and managed_certificate");
    for kind in EventType::ALL {
        assert_eq!(serde_json::to_string(kind).unwrap(), format!("\"{}\"", kind.as_str()));
    }
}
