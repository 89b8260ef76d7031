//! Databases for apps.

use flynn_postgres::provider::{ProviderConfig, run};
use flynn_types::discoverd::Instance;
use http::Method;
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::rig::{Cluster, PASSWORD, SERVICE, address, limit};

/// The URL that an app is given, with the leader's name resolved.
fn options(env: &Value) -> PgConnectOptions {
    let text = |name: &str| env[name].as_str().unwrap();
    assert_eq!(text("PGHOST"), "leader.postgres.discoverd");
    let expected = format!(
        "postgres://{}:{}@leader.postgres.discoverd:5432/{}",
        text("PGUSER"),
        text("PGPASSWORD"),
        text("PGDATABASE")
    );
    assert_eq!((text("DATABASE_URL"), text("FLYNN_POSTGRES")), (expected.as_str(), "postgres"));
    for name in ["PGUSER", "PGPASSWORD", "PGDATABASE"] {
        assert!(text(name).len() == 32 && text(name).bytes().all(|byte| b"0123456789abcdef".contains(&byte)));
    }
    let options = PgConnectOptions::new_without_pgpass().host(&address(1).to_string()).port(5432);
    let options = options.username(text("PGUSER")).password(text("PGPASSWORD")).database(text("PGDATABASE"));
    options.ssl_mode(PgSslMode::Disable)
}

/// C11 to C13
#[tokio::test(flavor = "multi_thread")]
async fn apps_get_databases_of_their_own() {
    let cluster = Cluster::new().await;
    let listener = TcpListener::bind((address(9), 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let config = ProviderConfig {
        service: SERVICE.to_owned(),
        password: PASSWORD.to_owned(),
        discovery: cluster.client.clone(),
        instance: Instance::new("http", &addr.to_string(), Default::default()),
    };
    let shutdown = CancellationToken::new();
    let provider = tokio::spawn(run(config, listener, shutdown.clone()));
    let http = flynn_http::Client::new(&format!("http://{addr}"));
    let early = http.send_json::<_, Value>(Method::POST, "/databases", &Value::Null).await.unwrap_err();
    assert_eq!(early.status(), Some(503), "{early}");
    assert!(early.to_string().contains("no leader"), "{early}");

    let node = cluster.start(1, 1, true).await;
    let registered = cluster.client.wait_for_instances("postgres-api", 1, limit()).await.unwrap();
    assert_eq!(registered[0].addr, addr.to_string());
    http.send(Method::GET, "/ping").await.unwrap();
    let one: Value = http.send_json(Method::POST, "/databases", &Value::Null).await.unwrap();
    let two: Value = http.send_json(Method::POST, "/databases", &serde_json::json!({"any": 1})).await.unwrap();
    let id = one["id"].as_str().unwrap();
    let (one, two) = (options(&one["env"]), options(&two["env"]));
    let mut app = PgConnection::connect_with(&one).await.unwrap();
    for sql in [
        "CREATE EXTENSION hstore",
        "CREATE TABLE public.t (id uuid DEFAULT uuid_generate_v4())",
        "SELECT gen_salt('bf')",
    ] {
        app.execute(sql).await.unwrap_or_else(|err| panic!("{sql}: {err}"));
    }
    for database in [two.get_database().unwrap(), "postgres", "template1"] {
        let refused = PgConnection::connect_with(&one.clone().database(database)).await.unwrap_err();
        assert!(refused.to_string().contains("permission denied"), "{database}: {refused}");
    }

    let delete = async |id: &str| http.send(Method::DELETE, &format!("/databases?id={id}")).await;
    for invalid in ["x", ""] {
        let invalid = delete(invalid).await.unwrap_err();
        assert_eq!((invalid.status(), invalid.to_string().as_str()), (Some(400), "id is invalid"));
    }
    // With a connection to it; and again, as after an answer that was lost.
    delete(id).await.unwrap();
    delete(id).await.unwrap();
    assert!(app.execute("SELECT 1").await.is_err());
    assert!(PgConnection::connect_with(&one).await.is_err());
    PgConnection::connect_with(&two).await.unwrap();
    shutdown.cancel();
    provider.await.unwrap().unwrap();
    node.stop().await;
}
