//! Three peers: what replication promises while they come, go and are killed.

use flynn_types::discoverd::Instance;
use flynn_types::sirenia::{ClusterState, IdKey, PeerId, Role};
use sqlx::{Connection as _, Executor as _};

use crate::rig::{Cluster, Node, SERVICE, limit};
use crate::writer::Writer;

fn id(instance: &Instance) -> PeerId {
    IdKey("POSTGRES_ID".to_owned()).peer(instance)
}

async fn state(cluster: &Cluster) -> ClusterState {
    ClusterState::from_meta(&cluster.client.meta(SERVICE).await.unwrap().unwrap()).unwrap().unwrap()
}

/// Volumes 1 to 3 as primary, sync and async, with the table of writers.
async fn three() -> (Cluster, Vec<Node>) {
    let cluster = Cluster::new().await;
    let mut nodes = Vec::new();
    for number in 1..=3 {
        nodes.push(cluster.start(number, number, false).await);
        // Of different age, so that each has its role.
        cluster.client.wait_for_instances(SERVICE, number.into(), limit()).await.unwrap();
    }
    nodes[0].until_writable().await;
    nodes[0].connect().await.execute("CREATE TABLE written (n bigint)").await.unwrap();
    for (node, role) in nodes.iter().zip([Role::Primary, Role::Sync, Role::Async]) {
        until_replicates(node, role).await;
    }
    (cluster, nodes)
}

/// Waits until a peer has its role, and its downstream, if there is one, everything.
async fn until_replicates(node: &Node, role: Role) {
    node.until(&format!("it is {role}"), |status| {
        let (Some(peer), Some(database)) = (&status.peer, &status.database) else { return false };
        let served = database
            .config
            .as_ref()
            .is_some_and(|config| config.downstream.as_ref().map(id) == database.synced_downstream.as_ref().map(id));
        peer.role == role && database.running && peer.retry_pending.is_none() && served
    })
    .await;
}

async fn rows(node: &Node) -> Result<Vec<i64>, sqlx::Error> {
    let mut connection = sqlx::PgConnection::connect_with(&node.options()).await?;
    sqlx::query_scalar("SELECT n FROM written ORDER BY n").fetch_all(&mut connection).await
}

async fn setting(node: &Node, name: &str) -> String {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SHOW {name}"))).fetch_one(&mut node.connect().await).await.unwrap()
}

/// Waits until a standby shows as many rows.
async fn until_has(node: &Node, count: usize) {
    let waiting = async {
        // Refused while it starts again, with a copy.
        while rows(node).await.map_or(0, |rows| rows.len()) < count {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(limit(), waiting)
        .await
        .unwrap_or_else(|_| panic!("{} has not {count} rows", node.instance.addr));
}

fn missing(acknowledged: &[i64], rows: &[i64]) -> Vec<i64> {
    acknowledged.iter().copied().filter(|number| rows.binary_search(number).is_err()).collect()
}

/// C3, C4, C7 and C8, C5 with a primary that is killed while clients write; the deposed one comes back
#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_commit_is_lost_when_the_primary_dies() {
    let (cluster, mut nodes) = three().await;
    let sync = id(&state(&cluster).await.sync.unwrap());
    assert_eq!(setting(&nodes[0], "synchronous_standby_names").await, format!("\"{sync}\""));
    assert_eq!(setting(&nodes[0], "synchronous_commit").await, "on");
    nodes[0].connect().await.execute("INSERT INTO written SELECT -n FROM generate_series(1, 100) n").await.unwrap();
    for node in &nodes[1..] {
        until_has(node, 100).await;
        let refused = node.connect().await.execute("INSERT INTO written VALUES (0)").await.unwrap_err();
        assert_eq!(refused.as_database_error().and_then(|err| err.code()).as_deref(), Some("25006"));
    }
    let (second, third) = (nodes[1].pid(), nodes[2].pid());

    let writer = Writer::start(nodes.iter().map(Node::options).collect());
    let begin = tokio::time::Instant::now();
    while writer.count() < 200 {
        assert!(begin.elapsed() < limit(), "the writer is at {}", writer.count());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    nodes.remove(0).kill().await;
    let before = writer.count();
    nodes[0].until_writable().await;
    while writer.count() < before + 100 {
        assert!(begin.elapsed() < limit() * 2, "the writer stays at {}", writer.count());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let acknowledged = writer.stop().await;
    until_replicates(&nodes[0], Role::Primary).await;
    let present = rows(&nodes[0]).await.unwrap();
    assert_eq!(missing(&acknowledged, &present), [0; 0]);
    until_has(&nodes[1], present.len()).await;
    assert_eq!((nodes[0].pid(), nodes[1].pid()), (second, third), "no server was started again");

    // What the old primary alone has may be missed by nobody but an operator.
    let old = cluster.start(1, 4, false).await;
    let status = old.until("it is deposed", |status| status.peer.as_ref().unwrap().role == Role::Deposed).await;
    assert!(status.peer.unwrap().waiting_for.unwrap().contains("an operator"));
    let mut meta = cluster.client.meta(SERVICE).await.unwrap().unwrap();
    let mut pardoned = state(&cluster).await;
    assert_eq!((pardoned.generation, pardoned.deposed.len()), (2, 1));
    pardoned.deposed.clear();
    meta.data = Some(serde_json::value::to_raw_value(&pardoned).unwrap());
    cluster.client.set_meta(SERVICE, &meta).await.unwrap();
    until_replicates(&old, Role::Async).await;
    until_has(&old, present.len()).await;
    for node in nodes.into_iter().chain([old]) {
        node.stop().await;
    }
}
