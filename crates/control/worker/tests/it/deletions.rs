//! The end of apps and releases (spec scheduler-and-deployer section 14).

use flynn_types::controller::{App, AppDeletionEvent, AppGarbageCollectionEvent, Event, Release, ReleaseDeletionEvent};
use flynn_types::image::Artifact;
use http::Method;
use serde_json::json;

use crate::cluster::{Cluster, Scheduler, data, until};

impl Cluster {
    /// A release with a slug in the blob store.
    async fn git_release(&self, app: &App, slug: &str) -> Release {
        let manifest = json!({ "_type": "application/vnd.flynn.image.manifest.v1+json" });
        let mut artifacts = Vec::new();
        for name in ["runner", slug] {
            let uri = format!("{}/{name}.json", self.files);
            let meta = json!({ "blobstore": (name == slug).to_string() });
            let artifact = json!({ "type": "flynn", "uri": uri, "manifest": manifest, "meta": meta });
            artifacts.push(self.send::<Artifact>(Method::POST, "/artifacts", &artifact).await.id);
        }
        let release = json!({ "app_id": app.id, "artifacts": artifacts, "meta": { "git": "true" },
            "processes": { "web": {} } });
        self.send(Method::POST, "/releases", &release).await
    }

    async fn told(&self, kind: &str) -> Vec<Event> {
        self.get(&format!("/events?object_types={kind}")).await
    }
}

#[tokio::test]
async fn t41_an_app_goes_with_all_that_it_has_and_its_name_is_free() {
    let cluster = Cluster::start().await;
    let scheduler = Scheduler::start(&cluster);
    let _worker = cluster.worker().await;
    let (app, release) = cluster.running("app", "one-by-one", &[("web", 2)]).await;
    let slug = cluster.git_release(&app, "slug").await;
    let route = json!({ "type": "http", "domain": "app.example.com", "service": "app-web" });
    let _: flynn_types::router::Route = cluster.send(Method::POST, "/apps/app/routes", &route).await;
    cluster.http.send(Method::DELETE, "/apps/app").await.expect("ordered");
    let event = until("the app is gone", async || cluster.told("app_deletion").await.pop()).await;
    let AppDeletionEvent { app_deletion: Some(deleted), error } = data(&event) else { panic!("no data") };
    assert_eq!((error.as_str(), deleted.app_id.as_str(), &event.object_id), ("", &*app.id, &app.id));
    assert_eq!(deleted.deleted_routes.expect("routes").len(), 1);
    let releases: Vec<_> = deleted.deleted_releases.expect("releases").into_iter().map(|release| release.id).collect();
    assert_eq!(releases, [slug.id, release.id]);
    assert_eq!(deleted.deleted_resources, None);
    let files = cluster.deleted.lock().unwrap().clone();
    for file in ["/slug.json".to_owned(), format!("/repos/{}.tar", app.id), format!("/{}-cache.tgz", app.id)] {
        assert!(files.contains(&file), "{file} is not deleted: {files:?}");
    }
    // X4, X5
    until("its jobs are down", async || (scheduler.count("down") == 2).then_some(())).await;
    let again: App = cluster.send(Method::POST, "/apps", &json!({ "name": "app" })).await;
    assert_ne!(again.id, app.id);
    until("the queue is empty", async || cluster.queue().await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn t42_old_releases_go_and_the_files_that_only_they_used() {
    let cluster = Cluster::start().await;
    let _worker = cluster.worker().await;
    let meta = json!({ "name": "app", "meta": { "gc.max_inactive_slug_releases": "3" } });
    let app: App = cluster.send(Method::POST, "/apps", &meta).await;
    let mut releases = Vec::new();
    for slug in ["a", "b", "c", "d", "e", "b"] {
        releases.push(cluster.git_release(&app, slug).await);
    }
    // The newest runs, with the slug of the second.
    let path = format!("/apps/app/formations/{}", releases[5].id);
    let _: serde_json::Value = cluster.send(Method::PUT, &path, &json!({ "processes": { "web": 1 } })).await;
    cluster.http.send(Method::POST, "/apps/app/gc").await.expect("ordered");
    let event = until("it is collected", async || cluster.told("app_garbage_collection").await.pop()).await;
    let AppGarbageCollectionEvent { app_garbage_collection: Some(collected), error } = data(&event) else {
        panic!("no data")
    };
    assert_eq!(
        (error.as_str(), collected.deleted_releases),
        ("", Some(vec![releases[1].id.clone(), releases[0].id.clone()]))
    );
    let events = until("both are told of", async || {
        let events = cluster.told("release_deletion").await;
        (events.len() == 2).then_some(events)
    });
    let mut files = Vec::new();
    for event in events.await {
        let ReleaseDeletionEvent { release_deletion: Some(deleted), error } = data(&event) else { panic!("no data") };
        assert_eq!(error, "");
        files.extend(deleted.deleted_files.unwrap_or_default());
    }
    assert_eq!(files, [format!("{}/a.json", cluster.files)]);
    assert_eq!(*cluster.deleted.lock().unwrap(), ["/a.json"]);
}
