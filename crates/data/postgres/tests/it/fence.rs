//! Databases without a cluster: told what to be by hand.

use std::time::Duration;

use flynn_postgres::{Account, At, Postgres, Settings};
use flynn_sirenia::{Database as _, FenceFailure};
use flynn_types::discoverd::Instance;
use flynn_types::sirenia::{ClusterState, Config, IdKey, PeerId, Role};
use sqlx::Executor as _;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, postgres::PgConnectOptions};

use crate::rig::{PASSWORD, address, limit, open_to_all, user};
use crate::writer::Writer;

const KEY: &str = "POSTGRES_ID";

fn instance(last: u8) -> Instance {
    let meta = [(KEY.to_owned(), format!("peer{last}"))].into();
    Instance::new("tcp", &format!("{}:5432", address(last)), meta)
}

fn options(last: u8) -> PgConnectOptions {
    user(&address(last).to_string(), 5432)
}

struct One {
    database: Postgres,
    _volume: tempfile::TempDir,
}

async fn database(last: u8) -> One {
    let volume = tempfile::tempdir().unwrap();
    open_to_all(volume.path());
    let settings = Settings {
        volume: volume.path().join("data"),
        listen: address(last).into(),
        port: 5432,
        password: PASSWORD.to_owned(),
        account: Account::of_server().unwrap(),
    };
    let database = Postgres::open(settings, PeerId(format!("peer{last}")), IdKey(KEY.to_owned())).await.unwrap();
    One { database, _volume: volume }
}

/// Peer 1 leads a generation with peer 2 as its sync, or alone.
fn state(generation: u64, init_wal: &str, singleton: bool) -> ClusterState {
    let sync = (!singleton).then(|| instance(2));
    let init_wal = init_wal.to_owned();
    ClusterState { generation, singleton, init_wal, primary: Some(instance(1)), sync, ..ClusterState::default() }
}

fn leads(state: &ClusterState) -> Config {
    Config { role: Role::Primary, downstream: state.sync.clone(), state: Some(state.clone()), ..Config::default() }
}

fn follows(state: &ClusterState) -> Config {
    Config { role: Role::Sync, upstream: state.primary.clone(), state: Some(state.clone()), ..Config::default() }
}

async fn configure(one: &One, config: &Config) {
    let configuring = async {
        while one.database.configure(config).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(limit(), configuring).await.expect("it is configured");
}

async fn open(one: &One, config: &Config) {
    one.database.caught_up(config).await.unwrap();
    one.database.open().await.unwrap();
}

/// C2, C3: a fenced primary acknowledges nothing, a fenced standby receives nothing, and what was acknowledged is before
/// the position that the fence gives
#[tokio::test(flavor = "multi_thread")]
async fn fences_hold_until_the_next_configuration() {
    let (primary, sync) = (database(1).await, database(2).await);
    let first = state(1, "0/00000000", false);
    configure(&primary, &leads(&first)).await;
    let mut client = PgConnection::connect_with(&options(1)).await.unwrap();
    let refused = client.execute("CREATE TABLE written (n bigint)").await.unwrap_err();
    assert_eq!(refused.as_database_error().and_then(|err| err.code()).as_deref(), Some("25006"));
    configure(&sync, &follows(&first)).await;
    open(&primary, &leads(&first)).await;
    client.execute("CREATE TABLE written (n bigint)").await.unwrap();

    let writer = Writer::start(vec![options(1)]);
    writer.until_more(50).await;
    let far: At = "9@0/0".parse().unwrap();
    assert!(matches!(primary.database.fence(&far).await, Err(FenceFailure::Behind(_))));
    writer.until_more(10).await;
    let end = primary.database.fence(&At::default()).await.unwrap();
    let count = writer.count();
    // The time that a commit of a client waits before it is given up.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(writer.count(), count, "acknowledged in spite of the fence");
    assert_eq!(end.generation, 1);

    // The next generation, with the same sync.
    let second = state(2, &end.to_string(), false);
    configure(&primary, &leads(&second)).await;
    open(&primary, &leads(&second)).await;
    configure(&sync, &follows(&second)).await;
    writer.until_more(50).await;

    // A commit needs the sync.
    let at = sync.database.fence(&end).await.unwrap();
    assert_eq!(at.generation, 2, "it has the record of the generation: {at}");
    let count = writer.count();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(writer.count(), count, "acknowledged without the sync");
    assert_eq!(sync.database.info().await.xlog, at.to_string(), "it receives nothing");
    // Takes over: all that was acknowledged is there.
    let acknowledged = writer.stop().await;
    let alone = ClusterState { primary: Some(instance(2)), ..state(3, &at.to_string(), true) };
    configure(&sync, &leads(&alone)).await;
    sync.database.open().await.unwrap();
    let mut client = PgConnection::connect_with(&options(2)).await.unwrap();
    let present: Vec<i64> = sqlx::query_scalar("SELECT n FROM written").fetch_all(&mut client).await.unwrap();
    let lost: Vec<_> = acknowledged.iter().filter(|number| !present.contains(number)).collect();
    assert!(lost.is_empty(), "{lost:?}");

    // The old primary's log has commits that were never acknowledged: it follows with a copy.
    let at = sync.database.fence(&at).await.unwrap();
    let fourth =
        ClusterState { primary: Some(instance(2)), sync: Some(instance(1)), ..state(4, &at.to_string(), false) };
    configure(&sync, &leads(&fourth)).await;
    configure(&primary, &follows(&fourth)).await;
    tokio::time::timeout(limit(), open(&sync, &leads(&fourth))).await.expect("the old primary has everything");
    client.execute("INSERT INTO written VALUES (0)").await.unwrap();
    assert_eq!(primary.database.fence(&at).await.unwrap().generation, 4);
    let mut client = PgConnection::connect_with(&options(1)).await.unwrap();
    let copied: Vec<i64> =
        sqlx::query_scalar("SELECT n FROM written WHERE n > 0").fetch_all(&mut client).await.unwrap();
    assert_eq!(copied, present);
    for one in [&primary, &sync] {
        one.database.configure(&Config { role: Role::None, ..Config::default() }).await.unwrap();
    }
}

/// The way from a singleton to a cluster begins with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_singleton_acknowledges_nothing_more() {
    let one = database(1).await;
    let alone = state(1, "0/00000000", true);
    configure(&one, &leads(&alone)).await;
    one.database.open().await.unwrap();
    let mut client = PgConnection::connect_with(&options(1)).await.unwrap();
    client.execute("CREATE TABLE written (n bigint)").await.unwrap();
    let writer = Writer::start(vec![options(1)]);
    writer.until_more(50).await;
    one.database.fence(&At::default()).await.unwrap();
    let count = writer.count();
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert_eq!(writer.count(), count);
    // Given up: the same generation goes on.
    configure(&one, &leads(&alone)).await;
    one.database.open().await.unwrap();
    writer.until_more(10).await;
    writer.stop().await;

    // Nor does it lead with less than the generation began with.
    let ahead = state(2, "2@F/00000000", true);
    let behind = one.database.configure(&leads(&ahead)).await.unwrap_err();
    assert!(behind.contains("the generation begins at 2@F/00000000: another peer must lead"), "{behind}");
    assert!(!one.database.info().await.running);
}

/// A peer that is gone may have left its address to another.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_follows_who_only_answers_at_the_upstreams_address() {
    let (other, standby) = (database(1).await, database(2).await);
    let alone = state(1, "0/00000000", true);
    configure(&other, &leads(&alone)).await;
    let gone = Instance { meta: [(KEY.to_owned(), "gone".to_owned())].into(), ..instance(1) };
    let config = Config { role: Role::Async, upstream: Some(gone), state: Some(alone), ..Config::default() };
    let refused = standby.database.configure(&config).await.unwrap_err();
    assert_eq!(refused, "at the upstream's address is \"peer1\" instead of gone");
}
