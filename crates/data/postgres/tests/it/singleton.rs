//! One peer that writes alone.

use flynn_postgres::RunError;
use flynn_types::sirenia::{ClusterState, Role};
use sqlx::Executor as _;

use crate::rig::{Cluster, SERVICE};

async fn state(cluster: &Cluster) -> ClusterState {
    ClusterState::from_meta(&cluster.client.meta(SERVICE).await.unwrap().unwrap()).unwrap().unwrap()
}

/// C1, and the volume at another address
#[tokio::test(flavor = "multi_thread")]
async fn a_singleton_keeps_its_databases_and_its_place_under_another_address() {
    let cluster = Cluster::new().await;
    let node = cluster.start(1, 1, true).await;
    let status = node.until_writable().await;
    let (peer, database) = (status.peer.unwrap(), status.database.unwrap());
    assert_eq!((peer.role, database.user_exists, database.running), (Role::Primary, true, true));
    assert!(database.xlog.starts_with("1@0/"), "in the log's first generation: {}", database.xlog);
    node.connect().await.execute("CREATE DATABASE kept").await.unwrap();
    let health: serde_json::Value = flynn_http::Client::new(&format!("http://{}:5433", crate::rig::address(1)))
        .get_json("/.well-known/status")
        .await
        .unwrap();
    assert_eq!(health["data"]["status"], "healthy");
    node.stop().await;
    assert_eq!(cluster.client.instances(SERVICE).await.unwrap(), [], "withdrawn");

    let node = cluster.start(1, 2, true).await;
    let status = node.until_writable().await;
    assert_eq!(status.peer.unwrap().id, peer.id);
    let after = state(&cluster).await;
    assert_eq!((after.generation, after.singleton), (1, true));
    assert_eq!(after.primary.unwrap().addr, node.instance.addr);
    assert_eq!(cluster.client.leader(SERVICE).await.unwrap().unwrap().id, node.instance.id);
    let kept: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'kept')")
        .fetch_one(&mut node.connect().await)
        .await
        .unwrap();
    assert!(kept);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_server_ends_the_peer_and_its_registration_and_a_new_one_recovers() {
    let cluster = Cluster::new().await;
    let node = cluster.start(1, 1, true).await;
    node.until_writable().await;
    node.connect().await.execute("CREATE TABLE t AS SELECT 7 AS n").await.unwrap();
    node.kill_server();
    assert!(matches!(node.failed().await, RunError::Crashed(_)));
    assert_eq!(cluster.client.instances(SERVICE).await.unwrap(), []);
    let node = cluster.start(1, 1, true).await;
    node.until_writable().await;
    let n: i32 = sqlx::query_scalar("SELECT n FROM t").fetch_one(&mut node.connect().await).await.unwrap();
    assert_eq!(n, 7);
    node.stop().await;
}

/// A blank database must never take the place of one that was.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_lost_its_database_does_not_begin_anew() {
    let cluster = Cluster::new().await;
    let node = cluster.start(1, 1, true).await;
    node.until_writable().await;
    let volume = node.volume.clone();
    node.stop().await;
    std::fs::remove_dir_all(volume.join("db")).unwrap();
    let node = cluster.start(1, 1, true).await;
    let status = node.until("it says why", |status| status.peer.as_ref().unwrap().retry_pending.is_some()).await;
    let reason = status.peer.unwrap().waiting_for.unwrap();
    assert!(reason.contains("lost its database"), "{reason}");
    assert!(!volume.join("db").exists());
    node.stop().await;

    // The same with all that the volume had: another peer's empty volume is no heir either.
    let node = cluster.start(2, 1, true).await;
    let status = node.until("it waits", |status| status.peer.as_ref().unwrap().waiting_for.is_some()).await;
    let reason = status.peer.unwrap().waiting_for.unwrap();
    assert!(reason.contains("no other has the data"), "{reason}");
    node.stop().await;
}
