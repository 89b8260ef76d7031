use axum::http::Method;
use flynn_types::controller::{ClusterBackup, DomainMigration, Sink, Volume};
use serde_json::{Value, json};

use crate::fixture::{Controller, KEY, authorization, data};

const VOLUME: &str = "22222222-0d4b-4b7c-8d0f-3c1b7e0a1d11";

#[tokio::test]
async fn v1_v2_volumes_follow_what_the_scheduler_says() {
    let controller = Controller::start().await;
    let app = controller.app("shop").await;
    controller.app("other").await;
    let put = async |state: &str, job: Option<&str>| {
        let volume = json!({ "id": VOLUME, "host_id": "host1", "type": "data", "state": state, "app": app.id, "job": job, "path": "/data" });
        controller.put("/volumes/ignored", &volume).await
    };
    let mut stream = controller.stream::<Value>("/volumes?since=1970-01-01T00:00:00Z").await;
    assert_eq!(stream.next().await, json!({ "id": "", "host_id": "", "type": "", "state": "" }));
    put("pending", None).await.json::<Volume>();
    let created: Volume = put("created", Some(VOLUME)).await.json();
    assert_eq!(
        (created.state.as_str(), created.job_id.as_deref(), created.path.as_str()),
        ("created", Some(VOLUME), "/data")
    );
    for expected in ["pending", "created"] {
        assert_eq!(stream.next().await["state"], expected);
    }
    assert_eq!(controller.get("/volumes").await.json::<Vec<Volume>>(), std::slice::from_ref(&created));
    assert_eq!(controller.get(&format!("/apps/shop/volumes/{VOLUME}")).await.json::<Volume>(), created);
    controller.get(&format!("/apps/other/volumes/{VOLUME}")).await.not_found();
    let states = "state Enum error. The data must be equal to one of these values [pending created destroyed].";
    put("gone", None).await.error(400, states);
    controller.put(&format!("/apps/other/volumes/{VOLUME}/decommission"), &json!({})).await.not_found();
    let decommissioned: Volume =
        controller.put(&format!("/apps/shop/volumes/{VOLUME}/decommission"), &json!({})).await.json();
    assert!(decommissioned.decommissioned_at.is_some() && decommissioned.host_id == "host1");
    assert!(stream.next().await["decommissioned_at"].is_string());
}

#[tokio::test]
async fn n1_to_n3_sinks_come_and_go() {
    let controller = Controller::start().await;
    let post = async |sink: Value| controller.post("/sinks", &sink).await;
    let kinds = "kind Enum error. The data must be equal to one of these values [syslog].";
    post(json!({ "kind": "file", "config": {} })).await.error(400, kinds);
    post(json!({ "kind": "syslog" })).await.error(400, "config must be the sink's configuration, an object");
    let first: Sink = post(json!({ "kind": "syslog", "config": { "url": "syslog://a:1" } })).await.json();
    let second: Sink = post(json!({ "kind": "syslog", "config": { "url": "syslog://b:1" } })).await.json();
    let mut stream = controller.stream::<Value>("/sinks?since=1970-01-01T00:00:00Z").await;
    for id in [&second.id, &first.id, &String::new()] {
        assert_eq!(stream.next().await["id"], **id);
    }
    // W16: also one that is older than the newest.
    let deleted: Sink = controller.delete(&format!("/sinks/{}", first.id)).await.json();
    assert!(deleted.config.is_some());
    let told = stream.next().await;
    assert_eq!((told["id"].as_str(), told.get("config")), (Some(&*first.id), None));
    for request in [
        controller.get(&format!("/sinks/{}", first.id)).await,
        controller.delete(&format!("/sinks/{}", first.id)).await,
    ] {
        request.not_found();
    }
    assert_eq!(controller.get("/sinks").await.json::<Vec<Sink>>().len(), 1);
    assert_eq!(controller.get(&format!("/sinks/{}", second.id)).await.json::<Sink>().id, second.id);
}

#[tokio::test]
async fn b2_the_latest_backup_is_told() {
    let controller = Controller::start().await;
    controller.get("/backup").await.not_found();
    let mut sql = controller.database.connect().await;
    let insert = "INSERT INTO backups (status, sha512, size, updated_at) VALUES
        ('complete', 'ab', 7, now()), ('error', NULL, NULL, now() - interval '1 day')";
    sqlx::query(insert).execute(&mut sql).await.unwrap();
    let backup: ClusterBackup = controller.get("/backup").await.json();
    assert_eq!((backup.sha512.as_str(), backup.size), ("ab", 7));
}

#[tokio::test]
async fn m1_a_change_of_domain_is_ordered() {
    let controller = Controller::start_with(|config| config.default_route_domain = "old.example.com".into()).await;
    let router = controller
        .post("/apps", &json!({ "name": "router", "meta": { "flynn-system-app": "true" } }))
        .await
        .json::<flynn_types::controller::App>();
    let release = json!({ "app_id": router.id, "env": { "TLSCERT": "C", "TLSKEY": "K" } });
    let release: flynn_types::controller::Release = controller.post("/releases", &release).await.json();
    controller.put("/apps/router/release", &json!({ "id": release.id })).await;
    let put =
        async |old: &str, new: &str| controller.put("/domain", &json!({ "old_domain": old, "domain": new })).await;
    let wrong = r#"Can't migrate from "x" when currently using "old.example.com""#;
    put("x", "y").await.error(400, wrong);
    put("old.example.com", "").await.error(400, "domain must be another domain");
    for no_name in ["ünï.example", "a..b", "-a.example", "A.example", &"a.".repeat(127), "a b"] {
        put("old.example.com", no_name).await.error(400, "domain must be a name in DNS, in ASCII and lower case");
    }
    let ordered: DomainMigration = put("old.example.com", "new.example.com").await.json();
    assert_eq!((ordered.finished_at, ordered.old_tls_cert.as_ref().unwrap().key.as_str()), (None, "K"));
    let events = controller.events("domain_migration").await;
    assert_eq!(data(&events[0])["domain_migration"]["id"], ordered.id);
    let mut sql = controller.database.connect().await;
    let (class, args): (String, sqlx::types::Json<DomainMigration>) =
        sqlx::query_as("SELECT job_class, args FROM que_jobs").fetch_one(&mut sql).await.unwrap();
    assert_eq!((class.as_str(), args.0), ("domain_migration", ordered));
}

#[tokio::test]
async fn l1_to_l4_logs_are_passed_on() {
    use axum::extract::{Path, RawQuery};
    let answer = async |Path(channel): Path<String>, RawQuery(query): RawQuery| {
        format!("{{\"msg\":\"{channel}?{}\"}}\n{{\"msg\":\"two\"}}\n", query.unwrap_or_default())
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().route("/log/{channel}", axum::routing::get(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let controller = Controller::start_with(|config| config.log_aggregator = url).await;
    let app = controller.app("shop").await;
    let plain = controller.get("/apps/shop/log?lines=5&process_type=&other=1").await;
    assert_eq!(plain.headers["content-type"], "text/plain");
    assert_eq!(plain.text(), format!("{{\"msg\":\"{}?lines=5&process_type=\"}}\n{{\"msg\":\"two\"}}\n", app.id));
    let authorization = authorization(KEY);
    let headers = [("authorization", &*authorization), ("accept", "text/event-stream")];
    let stream = controller.raw(Method::GET, "/apps/shop/log", &headers, "").await;
    let first = format!("data: {{\"event\":\"message\",\"data\":{{\"msg\":\"{}?\"}}}}\n\n", app.id);
    let rest = "data: {\"event\":\"message\",\"data\":{\"msg\":\"two\"}}\n\ndata: {\"event\":\"eof\"}\n\n";
    assert_eq!(stream.text(), format!("{first}{rest}"));
    controller.get("/apps/shop/log?lines=x").await.error(400, "lines must be a number of lines");
    controller.get("/apps/nobody/log").await.not_found();
}
