//! Changes of the cluster's domain (spec scheduler-and-deployer section 14.4).

use std::collections::{BTreeMap, BTreeSet};

use flynn_types::controller::{App, DomainMigration, DomainMigrationEvent, Event, Release};
use flynn_types::router::Route;
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cluster::{Cluster, Scheduler, data, until};

const OLD: &str = "old.example";
const NEW: &str = "new.example";

/// An app of the platform that runs, with these variables.
async fn system_app(cluster: &Cluster, name: &str, env: &Value) -> App {
    let app = json!({ "name": name, "meta": { "flynn-system-app": "true" } });
    let app: App = cluster.send(Method::POST, "/apps", &app).await;
    let bare = cluster.release(&app, &["web"]).await;
    let release = json!({ "app_id": app.id, "artifacts": bare.artifact_ids, "env": env, "processes": { "web": { "args": ["a"] } } });
    let release: Release = cluster.send(Method::POST, "/releases", &release).await;
    cluster.deploy(&app, &release).await;
    cluster.scale(&app, &release, &[("web", 1)]).await;
    app
}

async fn env(cluster: &Cluster, app: &str) -> BTreeMap<String, String> {
    cluster.get::<Release>(&format!("/apps/{app}/release")).await.env
}

async fn domains(cluster: &Cluster) -> BTreeSet<String> {
    cluster
        .get::<Vec<Route>>("/routes")
        .await
        .into_iter()
        .map(|route| format!("{}{}", route.domain, route.path))
        .collect()
}

async fn events(cluster: &Cluster, id: &str) -> Vec<DomainMigrationEvent> {
    let path = format!("/events?object_types=domain_migration&object_id={id}");
    let mut events: Vec<Event> = cluster.get(&path).await;
    events.reverse();
    events.iter().map(data).collect()
}

async fn done(cluster: &Cluster, id: &str) -> DomainMigration {
    until("the domain is changed", async || {
        let last = events(cluster, id).await.pop()?;
        assert_eq!(last.error, "");
        last.domain_migration.filter(|migration| migration.finished_at.is_some())
    })
    .await
}

/// The controller of the test keeps its domain: it is asked for the way back as by another one.
async fn order_back(cluster: &Cluster) -> String {
    let id = Uuid::new_v4().to_string();
    let insert =
        format!("INSERT INTO domain_migrations (migration_id, old_domain, domain) VALUES ('{id}', '{NEW}', '{OLD}')");
    cluster.sql(&insert).await;
    cluster
        .sql(&format!(r#"INSERT INTO que_jobs (job_class, args) VALUES ('domain_migration', '{{"id":"{id}"}}')"#))
        .await;
    id
}

#[tokio::test]
async fn t43_a_domain_is_changed_there_and_back_although_workers_are_killed() {
    let cluster = Cluster::start_with(|config| config.default_route_domain = OLD.into()).await;
    let scheduler = Scheduler::start(&cluster);
    let certificate = flynn_certificate::issue(&[OLD.to_owned()]).expect("a certificate");
    let controller = json!({ "DEFAULT_ROUTE_DOMAIN": OLD, "CA_CERT": certificate.ca_cert, "OTHER": "kept" });
    system_app(&cluster, "controller", &controller).await;
    system_app(&cluster, "router", &json!({ "TLSCERT": certificate.cert, "TLSKEY": certificate.key })).await;
    cluster.app("shop", "one-by-one").await;
    let own = json!({ "type": "http", "service": "own", "domain": format!("own.{OLD}"),
        "certificate": { "cert": certificate.cert, "key": certificate.key } });
    let _: Route = cluster.send(Method::POST, "/apps/shop/routes", &own).await;
    scheduler.hold();
    let order = json!({ "old_domain": OLD, "domain": NEW });
    let ordered: DomainMigration = cluster.send(Method::PUT, "/domain", &order).await;
    // Killed while the controller's app is deployed, again and again: one release is made of each app.
    for _ in 0..3 {
        let worker = cluster.worker().await;
        until("the controller is deployed", async || {
            let releases: Vec<Release> = cluster.get("/apps/controller/releases").await;
            (releases.len() == 3).then_some(())
        })
        .await;
        worker.kill().await;
    }
    scheduler.allow(1000);
    let worker = cluster.worker().await;
    let migration = done(&cluster, &ordered.id).await;
    let told = events(&cluster, &ordered.id).await;
    assert_eq!(told.len(), 2, "the begin and the end");
    let made = migration.tls_cert.expect("one was made");
    assert_eq!(migration.old_tls_cert.expect("the router's").cert, certificate.cert);
    let controller = env(&cluster, "controller").await;
    assert_eq!((controller["DEFAULT_ROUTE_DOMAIN"].as_str(), &controller["CA_CERT"]), (NEW, &made.ca_cert));
    assert_eq!(controller["OTHER"], "kept");
    let router = env(&cluster, "router").await;
    assert_eq!((&router["TLSCERT"], &router["TLSKEY"]), (&made.cert, &made.key));
    for app in ["controller", "router"] {
        assert_eq!(cluster.get::<Vec<Release>>(&format!("/apps/{app}/releases")).await.len(), 3, "{app}");
    }
    let expected = ["own.old.example/", "shop.old.example/", "own.new.example/", "shop.new.example/"];
    assert_eq!(domains(&cluster).await, expected.map(str::to_owned).into());
    let routes: Vec<Route> = cluster.get("/routes").await;
    let moved = routes.iter().find(|route| route.domain == "own.new.example").expect("made");
    assert_eq!(moved.certificate.as_ref().expect("with a certificate").cert.trim(), made.cert.trim());
    // And back: no route is made that is there.
    let back = order_back(&cluster).await;
    done(&cluster, &back).await;
    assert_eq!(env(&cluster, "controller").await["DEFAULT_ROUTE_DOMAIN"], OLD);
    assert_eq!(domains(&cluster).await.len(), expected.len());
    let first: Option<bool> = sqlx::query_scalar("SELECT bool_and(finished_at IS NOT NULL) FROM domain_migrations")
        .fetch_one(&mut cluster.database.connect().await)
        .await
        .expect("read");
    assert_eq!(first, Some(true));
    worker.stop().await;
}

#[tokio::test]
async fn x18_a_failure_is_told_and_tried_again_and_what_is_done_is_not_repeated() {
    let cluster = Cluster::start_with(|config| config.default_route_domain = OLD.into()).await;
    let _scheduler = Scheduler::start(&cluster);
    let _worker = cluster.worker().await;
    let id = Uuid::new_v4().to_string();
    let insert =
        format!("INSERT INTO domain_migrations (migration_id, old_domain, domain) VALUES ('{id}', '{OLD}', 'ünï')");
    cluster.sql(&insert).await;
    let job = format!(r#"INSERT INTO que_jobs (job_class, args) VALUES ('domain_migration', '{{"id":"{id}"}}')"#);
    cluster.sql(&job).await;
    let error = until("a failure is told", async || events(&cluster, &id).await.pop()).await.error;
    assert!(error.starts_with("make a certificate for ünï"), "{error}");
    cluster.sql(&format!("UPDATE domain_migrations SET domain = '{NEW}' WHERE migration_id = '{id}'")).await;
    let finished = until("it is done at a later try", async || {
        events(&cluster, &id).await.pop()?.domain_migration.filter(|migration| migration.finished_at.is_some())
    })
    .await;
    assert_eq!(finished.domain, NEW);
    let told = events(&cluster, &id).await.len();
    cluster.sql(&job).await;
    until("the queue is empty", async || cluster.queue().await.is_empty().then_some(())).await;
    assert_eq!(events(&cluster, &id).await.len(), told);
}
