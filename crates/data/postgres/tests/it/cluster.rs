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

async fn three() -> (Cluster, Vec<Node>) {
    let cluster = Cluster::new().await;
    let nodes = start_three(&cluster).await;
    (cluster, nodes)
}

/// Volumes 1 to 3 as primary, sync and async, with the table of writers.
async fn start_three(cluster: &Cluster) -> Vec<Node> {
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
    nodes
}

/// What was acknowledged is on all of them, whoever leads.
async fn check(acknowledged: &[i64], primary: &Node, others: &[Node]) {
    let present = rows(primary).await.unwrap();
    assert_eq!(missing(acknowledged, &present), [0; 0]);
    for other in others {
        until_has(other, present.len()).await;
    }
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

async fn until_state(cluster: &Cluster, what: &str, wanted: impl Fn(&ClusterState) -> bool) {
    let waiting = async {
        while !wanted(&state(cluster).await) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(limit(), waiting).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
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
    writer.until_more(200).await;
    nodes.remove(0).kill().await;
    nodes[0].until_writable().await;
    writer.until_more(100).await;
    let acknowledged = writer.stop().await;
    until_replicates(&nodes[0], Role::Primary).await;
    check(&acknowledged, &nodes[0], &nodes[1..]).await;
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
    until_has(&old, rows(&nodes[0]).await.unwrap().len()).await;
    for node in nodes.into_iter().chain([old]) {
        node.stop().await;
    }
}

/// C6, A7: the primary goes on with the async as its sync, whose upstream moves; the old sync comes back
#[tokio::test(flavor = "multi_thread")]
async fn commits_go_on_when_the_sync_dies_and_the_async_follows_the_primary() {
    let (cluster, mut nodes) = three().await;
    let (first, third) = (nodes[0].pid(), nodes[2].pid());
    let writer = Writer::start(vec![nodes[0].options()]);
    writer.until_more(100).await;
    nodes.remove(1).kill().await;
    until_state(&cluster, "there is a new sync", |state| state.generation == 2).await;
    writer.until_more(100).await;
    until_replicates(&nodes[1], Role::Sync).await;
    assert_eq!((nodes[0].pid(), nodes[1].pid()), (first, third), "no server was started again");
    let second = cluster.start(2, 5, false).await;
    until_replicates(&second, Role::Async).await;
    writer.until_more(50).await;
    let acknowledged = writer.stop().await;
    nodes.push(second);
    check(&acknowledged, &nodes[0], &nodes[1..]).await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_of_all_peers_loses_nothing_and_they_come_back_at_other_addresses() {
    let (cluster, nodes) = three().await;
    let writer = Writer::start(nodes.iter().map(Node::options).collect());
    writer.until_more(100).await;
    for node in nodes {
        node.kill().await;
    }
    let acknowledged = writer.stop().await;
    let mut nodes = Vec::new();
    for number in 1..=3 {
        nodes.push(cluster.start(number, number + 10, false).await);
    }
    nodes[0].until_writable().await;
    for (node, role) in nodes.iter().zip([Role::Primary, Role::Sync, Role::Async]) {
        until_replicates(node, role).await;
    }
    let state = state(&cluster).await;
    let addresses: Vec<_> = state.members().map(|member| member.addr.clone()).collect();
    assert_eq!((state.generation, addresses), (1, nodes.iter().map(|node| node.instance.addr.clone()).collect()));
    check(&acknowledged, &nodes[0], &nodes[1..]).await;
    for node in nodes {
        node.stop().await;
    }
}

/// A sync that cannot write, but stays, would block every commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_whose_volume_is_full_leaves_and_joins_again_when_there_is_space() {
    let cluster = Cluster::new().await;
    let volume = cluster.small_volume(2, 400);
    let mut nodes = start_three(&cluster).await;
    let writer = Writer::start(vec![nodes[0].options()]);
    writer.until_more(50).await;
    let filler = volume.fill(20);
    let full = nodes.remove(1).failed().await;
    assert!(full.to_string().contains("the volume has only"), "{full}");
    until_state(&cluster, "there is a new sync", |state| state.generation == 2).await;
    writer.until_more(50).await;
    let again = cluster.start(2, 5, false).await.failed().await;
    assert!(again.to_string().contains("the volume has only"), "{again}");
    std::fs::remove_file(filler).unwrap();
    let second = cluster.start(2, 6, false).await;
    until_replicates(&second, Role::Async).await;
    let acknowledged = writer.stop().await;
    nodes.push(second);
    check(&acknowledged, &nodes[0], &nodes[1..]).await;
    for node in nodes {
        node.stop().await;
    }
}
