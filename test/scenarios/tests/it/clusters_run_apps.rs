//! A bootstrapped cluster: apps are created, routed, scaled, deployed, rolled back, read and deleted through the API.

use flynn_harness::{ClusterOptions, wait_until};
use flynn_scenarios::{CHANGE, Node, Platform, block_on, server, under_load};
use flynn_types::controller::{App, Release};
use http::{Method, StatusCode};
use serde_json::Value;

/// Deploys a release under load, without a failed request.
fn deploy(platform: &Platform, app: &App, release: &Release) {
    let (status, load) = under_load(platform, &app.name, || {
        let begun = platform.begin_deploy(app, release).unwrap();
        platform.wait_deployed(&begun, CHANGE * 2).unwrap()
    });
    assert_eq!(status, "complete");
    assert!(load.answered > 10 && load.failed.is_empty(), "{load:?}");
}

#[test]
fn one_node_is_bootstrapped_and_runs_an_app_from_its_first_release_to_its_end() {
    let platform = Platform::up(ClusterOptions::default()).unwrap();
    let node = Node::of(platform.cluster.host(0));

    // Once more: nothing is left to do, and nothing is done.
    let jobs = || block_on(node.api().jobs(true)).unwrap().into_keys().collect::<Vec<_>>();
    let before = jobs();
    let printed = platform.bootstrap().unwrap();
    assert!(printed.contains("flynn cluster add -p "), "{printed}");
    assert_eq!(jobs(), before, "a second bootstrap starts nothing");
    let line = node.host.output(["flynn-host", "cli-add-command"]).unwrap();
    assert!(printed.contains(line.trim()), "{line} is not in {printed}");

    let app = platform.create_app("shop").unwrap();
    let one = platform.release(&app, &server("one")).unwrap();
    platform.set_release(&app, &one).unwrap();
    platform.scale(&app, &one, "web", 1).unwrap();
    platform.wait_answer("shop", "one", CHANGE).unwrap();
    platform.scale(&app, &one, "web", 3).unwrap();
    assert_eq!(platform.up_jobs(&app, &one).unwrap(), 3);

    let two = platform.release(&app, &server("two")).unwrap();
    deploy(&platform, &app, &two);
    platform.wait_answer("shop", "two", CHANGE).unwrap();
    let up = |release| platform.up_jobs(&app, release).unwrap();
    assert_eq!((up(&one), up(&two)), (0, 3));

    // Back.
    deploy(&platform, &app, &one);
    platform.wait_answer("shop", "one", CHANGE).unwrap();

    let log = platform.api(Method::GET, &format!("/apps/{}/log?lines=100", app.id), None).unwrap();
    assert_eq!(log.status, StatusCode::OK);
    assert!(log.text().contains("serving one") && log.text().contains("serving two"), "{}", log.text());

    platform.call(Method::DELETE, &format!("/apps/{}", app.id), Value::Null).unwrap();
    wait_until(CHANGE, "the app is gone", || {
        let status =
            platform.api(Method::GET, &format!("/apps/{}", app.id), None).map_err(|err| err.to_string())?.status;
        if status == StatusCode::NOT_FOUND { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
    wait_until(CHANGE, "nothing of the app is left", || {
        let active = block_on(node.api().jobs(true)).map_err(|err| err.to_string())?;
        let left: Vec<_> = active.into_values().filter(|job| job.job.meta("flynn-controller.app") == app.id).collect();
        let route = platform.get("shop", "/").map_err(|err| err.to_string())?.status;
        if left.is_empty() && route == StatusCode::NOT_FOUND { Ok(()) } else { Err(format!("{route}, {left:?}")) }
    })
    .unwrap();
}
