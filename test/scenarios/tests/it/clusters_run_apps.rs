//! A bootstrapped cluster: apps are created, routed, scaled, deployed, rolled back, read and deleted through the API.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use flynn_harness::{ClusterOptions, wait_until};
use flynn_scenarios::{CHANGE, Node, Platform, block_on};
use flynn_types::controller::{App, Deployment, JobState, Release};
use http::{Method, StatusCode};
use serde_json::{Value, json};

/// A web server whose answer is this text.
fn server(text: &str) -> String {
    format!("mkdir /www && echo {text} > /www/index.html && echo serving {text} && exec httpd -f -p 8080 -h /www")
}

fn answers(platform: &Platform, name: &str, text: &str) {
    wait_until(CHANGE, &format!("{name} answers {text}"), || {
        let answer = platform.get(name, "/").map_err(|err| format!("{err:#}"))?;
        let seen = (answer.status, answer.text().trim().to_owned());
        if seen == (StatusCode::OK, text.to_owned()) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .unwrap();
}

fn up(platform: &Platform, app: &App, release: &Release) -> usize {
    let jobs = platform.jobs(app).unwrap();
    jobs.iter().filter(|job| job.release_id == release.id && job.state == Some(JobState::Up)).count()
}

/// Deploys a release and waits for the end of the deployment.
fn deploy(platform: &Platform, app: &App, release: &Release) {
    let path = format!("/apps/{}/deploy", app.id);
    let begun = platform.call(Method::POST, &path, json!({"id": release.id})).unwrap();
    let begun: Deployment = serde_json::from_value(begun).unwrap();
    wait_until(CHANGE * 2, "the deployment ends", || {
        let now = platform.call(Method::GET, &format!("/deployments/{}", begun.id), Value::Null);
        let now = now.map_err(|err| format!("{err:#}"))?;
        match now["status"].as_str() {
            Some("complete") => Ok(()),
            status => Err(format!("{status:?}: {now}")),
        }
    })
    .unwrap();
}

/// Asks the app all the time while something is done; gives how many answers there were.
fn under_load<T: Send>(platform: &Platform, name: &str, work: impl FnOnce() -> T + Send) -> (T, usize) {
    let (ended, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let done = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    while !ended.load(Ordering::Relaxed) {
                        let answer = platform.get(name, "/").unwrap();
                        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
                        answered.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(10)); // a rate, not a wait
                    }
                })
            })
            .collect();
        let done = work();
        ended.store(true, Ordering::Relaxed);
        for asker in askers {
            asker.join().expect("every request was answered");
        }
        done
    });
    (done, answered.into_inner())
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
    answers(&platform, "shop", "one");
    platform.scale(&app, &one, "web", 3).unwrap();
    assert_eq!(up(&platform, &app, &one), 3);

    let two = platform.release(&app, &server("two")).unwrap();
    let ((), asked) = under_load(&platform, "shop", || deploy(&platform, &app, &two));
    assert!(asked > 10, "only {asked} requests were made");
    answers(&platform, "shop", "two");
    assert_eq!((up(&platform, &app, &one), up(&platform, &app, &two)), (0, 3));

    // Back.
    let ((), _) = under_load(&platform, "shop", || deploy(&platform, &app, &one));
    answers(&platform, "shop", "one");

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
