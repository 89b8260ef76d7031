//! Releases that are no good: each deployment fails with a reason in words, and what ran before goes on.

use flynn_harness::ClusterOptions;
use flynn_scenarios::{CHANGE, Platform, busybox, server};
use flynn_types::controller::{App, Release};
use flynn_types::image::Artifact;
use http::Method;
use serde_json::{Value, json};

/// Seconds in which a deployment must come up.
const DEPLOY_TIMEOUT: u32 = 10;

/// An app whose first release answers `good`.
fn app(platform: &Platform, name: &str) -> App {
    let app = platform.create_app(name).unwrap();
    platform.call(Method::POST, &format!("/apps/{}", app.id), json!({"deploy_timeout": DEPLOY_TIMEOUT})).unwrap();
    let good = platform.release(&app, &server("good")).unwrap();
    platform.set_release(&app, &good).unwrap();
    platform.scale(&app, &good, "web", 1).unwrap();
    platform.wait_answer(name, "good", CHANGE).unwrap();
    app
}

/// Deploys a release that fails; gives the reason that the deployment's last event tells.
fn reason(platform: &Platform, app: &App, bad: &Release) -> String {
    let deployment = platform.begin_deploy(app, bad).unwrap();
    let status = platform.wait_deployed(&deployment, CHANGE * 2).unwrap();
    let path = format!("/events?app_id={}&object_types=deployment&object_id={}", app.id, deployment.id);
    let events = platform.call(Method::GET, &path, Value::Null).unwrap();
    let errors = events.as_array().unwrap().iter().filter_map(|event| event["data"]["error"].as_str());
    let errors: Vec<_> = errors.filter(|error| !error.is_empty()).collect();
    assert_eq!((status.as_str(), errors.len()), ("failed", 1), "{events}");
    platform.wait_answer(&app.name, "good", CHANGE).unwrap();
    errors[0].to_owned()
}

/// The busybox image with a layer that is nowhere.
fn without_layer() -> Artifact {
    let mut image = busybox().clone();
    let mut manifest = image.manifest.take().unwrap();
    let layer = &mut manifest.rootfs[0].layers[0];
    layer.id = "00".repeat(32);
    layer.hashes = [("sha512_256".to_owned(), layer.id.clone())].into();
    image.hashes = [("sha512_256".to_owned(), manifest.id())].into();
    image.size = i64::try_from(manifest.canonical_json().len()).unwrap();
    image.uri = format!("https://example.com/{}", manifest.id());
    image.layer_url_template = "http://blobstore.discoverd/gone/{id}.squashfs".into();
    image.manifest = Some(manifest);
    image
}

/// Deploys a bad release of a new app; the reason must have these words.
#[expect(clippy::print_stderr, reason = "the reasons are a result")]
fn fails(platform: &Platform, name: &str, bad: impl FnOnce(&App) -> Release, words: &[&str]) {
    let app = app(platform, name);
    let reason = reason(platform, &app, &bad(&app));
    eprintln!("{name}: {reason}\n");
    for word in words {
        assert!(reason.contains(word), "{name}: {word:?} is not in {reason:?}");
    }
}

#[test]
fn each_kind_of_bad_release_fails_with_its_reason_and_leaves_the_good_one_running() {
    let platform = Platform::up(ClusterOptions::default()).unwrap();
    let crashes = |app: &App| platform.release(app, "echo cannot find the configuration; exit 3").unwrap();
    fails(&platform, "crashes", crashes, &["exited with status 3", "cannot find the configuration"]);
    let silent = |app: &App| platform.release(app, "sleep 1000").unwrap();
    fails(&platform, "silent", silent, &["timed out", "web job is starting", "does it listen on its port"]);
    let gone = |app: &App| platform.release_of(app, &without_layer(), Platform::web(app, "sleep 1000")).unwrap();
    fails(&platform, "gone", gone, &["blobstore.discoverd/gone"]);
    let greedy = |app: &App| {
        let mut web = Platform::web(app, &server("bad"));
        web["resources"] = json!({"memory": {"request": 1_i64 << 50, "limit": 1_i64 << 50}});
        platform.release_of(app, busybox(), web).unwrap()
    };
    fails(&platform, "greedy", greedy, &["memory", "largest host"]);
    let picky = |app: &App| {
        let bad = platform.release(app, &server("bad")).unwrap();
        let path = format!("/apps/{}/formations/{}", app.id, bad.id);
        platform.call(Method::PUT, &path, json!({"tags": {"web": {"disk": "nvme"}}})).unwrap();
        bad
    };
    fails(&platform, "picky", picky, &["no host has tag disk=nvme"]);
}
