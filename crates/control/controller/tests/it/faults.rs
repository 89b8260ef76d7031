//! What the API makes of a database that fails: clients hear that they may ask again, nothing is half done, and when the
//! database is back nobody has to help.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use flynn_test_postgres::{Database, Limits, OwnServer};
use flynn_types::controller::{App, Event};
use flynn_types::error::ApiError;
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio::net::{TcpListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::fixture::{Answer, Controller};

async fn controller(options: PgConnectOptions) -> Controller {
    let controller =
        Controller::start_in(Database::at(options), None, |config| config.request_limit = Duration::from_secs(15))
            .await;
    controller.app("first").await;
    controller
}

/// 503, and to be asked again.
#[track_caller]
fn may_be_asked_again(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text());
    let error: ApiError = serde_json::from_slice(&answer.body).expect("an error in JSON");
    assert!(error.retry, "{}", error.message);
    error.message
}

/// Waits until an app can be created.
async fn recovers(controller: &Controller, name: &str) {
    let deadline = Instant::now() + flynn_patience::seconds(120);
    loop {
        let answer = controller.post("/apps", &json!({ "name": name })).await;
        if answer.status == StatusCode::OK {
            return;
        }
        let said = may_be_asked_again(&answer);
        assert!(Instant::now() < deadline, "it does not recover: {said}");
    }
}

/// What was acknowledged is there, and each app with its event.
async fn is_whole(controller: &Controller, acknowledged: &BTreeSet<String>) {
    let apps: Vec<App> = controller.get("/apps").await.json();
    let names: BTreeSet<_> = apps.iter().map(|app| app.name.clone()).collect();
    let lost: Vec<_> = acknowledged.difference(&names).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let mut told = BTreeMap::<String, usize>::new();
    for event in controller.events("app").await {
        *told.entry(event.object_id).or_default() += 1;
    }
    let expected: BTreeMap<_, _> = apps.into_iter().map(|app| (app.id, 1)).collect();
    assert_eq!(told, expected, "each app has one event, and each event an app");
}

#[tokio::test]
async fn a_server_that_is_killed_under_writes_loses_none_that_was_acknowledged() {
    let mut server = OwnServer::start(Limits::default()).await;
    let controller = Arc::new(controller(server.options()).await);
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let stop = CancellationToken::new();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (controller, acknowledged, stop) = (Arc::clone(&controller), Arc::clone(&acknowledged), stop.clone());
            tokio::spawn(async move {
                for number in 0.. {
                    if stop.is_cancelled() {
                        break;
                    }
                    let name = format!("app-{writer}-{number}");
                    let answer = controller.post("/apps", &json!({ "name": name })).await;
                    if answer.status == StatusCode::OK {
                        acknowledged.lock().unwrap().insert(name);
                    } else {
                        may_be_asked_again(&answer);
                    }
                }
            })
        })
        .collect();
    let written = async |number: usize| {
        let deadline = Instant::now() + flynn_patience::seconds(120);
        let goal = acknowledged.lock().unwrap().len() + number;
        while acknowledged.lock().unwrap().len() < goal {
            assert!(Instant::now() < deadline, "nothing is written any more");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    for _ in 0..3 {
        written(20).await;
        server.kill().await;
        server.start_again().await;
    }
    written(20).await;
    stop.cancel();
    for writer in writers {
        writer.await.unwrap();
    }
    let acknowledged = acknowledged.lock().unwrap().clone();
    is_whole(&controller, &acknowledged).await;
}

#[tokio::test]
async fn a_full_disk_is_told_and_writes_go_on_when_there_is_space() {
    let mut server = OwnServer::start(Limits { disk_mb: Some(160), ..Limits::default() }).await;
    let controller = controller(server.options()).await;
    server.fill_disk().await;
    let mut acknowledged = BTreeSet::from(["first".to_owned()]);
    // Nothing that could be made smaller.
    let large = || (0..10_000).map(|_| uuid::Uuid::new_v4().to_string()).collect::<String>();
    let said = loop {
        let name = format!("app-{}", acknowledged.len());
        let answer = controller.post("/apps", &json!({ "name": name, "meta": { "large": large() } })).await;
        if answer.status != StatusCode::OK {
            break may_be_asked_again(&answer);
        }
        acknowledged.insert(name);
        assert!(acknowledged.len() < 100, "the disk is not full");
    };
    assert!(said.starts_with("the database"), "{said}");
    server.free_disk().await;
    server.start_again().await; // one that could not write its log has ended
    recovers(&controller, "last").await;
    acknowledged.insert("last".to_owned());
    is_whole(&controller, &acknowledged).await;
}

#[tokio::test]
async fn when_no_connections_are_left_clients_hear_that_they_may_ask_again() {
    let server = OwnServer::start(Limits { connections: 12, ..Limits::default() }).await;
    let controller = controller(server.options()).await;
    let mut others = vec![PgConnection::connect_with(&server.options()).await.unwrap()];
    let deadline = Instant::now() + flynn_patience::seconds(60);
    // Whatever becomes free is taken, until the API has none.
    let of_api = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'controller'";
    while sqlx::query_scalar::<_, i64>(of_api).fetch_one(&mut others[0]).await.unwrap() > 0 {
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'controller'";
        others[0].execute(cut).await.unwrap();
        while let Ok(other) = PgConnection::connect_with(&server.options()).await {
            others.push(other);
        }
        assert!(Instant::now() < deadline, "the API still has connections");
    }
    let said = may_be_asked_again(&controller.post("/apps", &json!({ "name": "refused" })).await);
    assert!(said.contains("database"), "{said}");
    drop(others);
    recovers(&controller, "last").await;
    is_whole(&controller, &BTreeSet::from(["first".to_owned(), "last".to_owned()])).await;
}

/// Lets the whole server take no writes, or takes that back.
async fn read_only(server: &OwnServer, on: bool) {
    let options = server.options().options([("default_transaction_read_only", "off")]);
    let mut sql = PgConnection::connect_with(&options).await.unwrap();
    let statement = format!("ALTER SYSTEM SET default_transaction_read_only = {}", if on { "on" } else { "off" });
    sql.execute(AssertSqlSafe(statement)).await.unwrap();
    sql.execute("SELECT pg_reload_conf()").await.unwrap();
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_waited_for_and_then_told_of() {
    let server = OwnServer::start(Limits::default()).await;
    let controller = controller(server.options()).await;
    read_only(&server, true).await;
    let answers = futures_util::future::join_all((0..5).map(|number| {
        let controller = &controller;
        async move { controller.post("/apps", &json!({ "name": format!("refused-{number}") })).await }
    }));
    // The first may have got through before the server read its settings.
    let (refused, rest): (Vec<_>, Vec<_>) =
        answers.await.into_iter().partition(|answer| answer.status == StatusCode::SERVICE_UNAVAILABLE);
    assert!(rest.iter().all(|answer| answer.status == StatusCode::OK), "{}", rest[0].text());
    refused.iter().for_each(|answer| drop(may_be_asked_again(answer)));
    assert!(!refused.is_empty());
    read_only(&server, false).await;
    recovers(&controller, "last").await;
    is_whole(&controller, &BTreeSet::from(["first".to_owned(), "last".to_owned()])).await;
}

/// The way to a server, which may lose everything without a word.
struct Way {
    port: u16,
    lost: Arc<Mutex<CancellationToken>>,
    _forwarding: AbortOnDropHandle<()>,
}

impl Way {
    async fn to(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let lost = Arc::new(Mutex::new(CancellationToken::new()));
        let known = Arc::clone(&lost);
        let forwarding = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let (lost, socket) = (known.lock().unwrap().clone(), socket.clone());
                connections.spawn(async move {
                    let forward = async {
                        let mut server = UnixStream::connect(socket).await.ok()?;
                        tokio::io::copy_bidirectional(&mut client, &mut server).await.ok()
                    };
                    if lost.run_until_cancelled(forward).await.is_none() {
                        std::future::pending::<()>().await; // it stays open, and nothing comes
                    }
                });
            }
        });
        Self { port, lost, _forwarding: AbortOnDropHandle::new(forwarding) }
    }

    /// From now on nothing arrives, and no end of a connection either.
    fn lose(&self) {
        self.lost.lock().unwrap().cancel();
    }

    /// New connections get through again.
    fn find(&self) {
        *self.lost.lock().unwrap() = CancellationToken::new();
    }
}

#[tokio::test]
async fn a_database_whose_host_vanished_without_a_word_is_noticed() {
    let server = OwnServer::start(Limits::default()).await;
    let way = Way::to(server.socket()).await;
    let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(way.port);
    let options = options.username("flynn").database("postgres").ssl_mode(sqlx::postgres::PgSslMode::Disable);
    let controller = controller(options).await;
    let mut stream = controller.stream::<Event>("/events").await;
    // One statement is under way: it waits for a lock.
    let mut other = PgConnection::connect_with(&server.options()).await.unwrap();
    let mut lock = other.begin().await.unwrap();
    lock.execute("LOCK TABLE apps IN ACCESS EXCLUSIVE MODE").await.unwrap();
    // Within its transaction the other one sees activity as it was at first.
    let mut watcher = PgConnection::connect_with(&server.options()).await.unwrap();
    let body = json!({ "name": "waits" });
    let waiting = controller.post("/apps", &body);
    let losing = async {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        let deadline = Instant::now() + flynn_patience::seconds(30);
        while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut watcher).await.unwrap() == 0 {
            assert!(Instant::now() < deadline, "no statement waits for the lock");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        way.lose();
    };
    let (answer, ()) = tokio::join!(waiting, losing);
    may_be_asked_again(&answer);
    lock.rollback().await.unwrap();
    may_be_asked_again(&controller.get("/apps").await);
    // Streams end when nobody knows what they miss.
    let ended = stream.outcome().await.expect("an error first").expect_err("nothing happened");
    assert!(ended.contains("the database cannot be read"), "{ended}");
    way.find();
    recovers(&controller, "last").await;
    let mut stream = controller.stream::<Event>("/events?past=true").await;
    while stream.next().await.object_id != controller.get("/apps/last").await.json::<App>().id {}
}

#[tokio::test]
async fn an_idle_api_holds_few_connections() {
    let server = OwnServer::start(Limits::default()).await;
    let controller = controller(server.options()).await;
    let _stream = controller.stream::<Event>("/events").await;
    futures_util::future::join_all((0..40).map(|_| controller.get("/apps"))).await;
    let mut other = PgConnection::connect_with(&server.options()).await.unwrap();
    let deadline = Instant::now() + flynn_patience::seconds(60);
    loop {
        let of_api = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'controller'";
        let number = sqlx::query_scalar::<_, i64>(of_api).fetch_one(&mut other).await.unwrap();
        if number <= 3 {
            break;
        }
        assert!(Instant::now() < deadline, "{number} connections of an idle API");
        // As a cluster does at its quietest.
        controller.get("/apps/first").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
