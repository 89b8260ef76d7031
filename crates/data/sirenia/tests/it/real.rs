//! Peers over the real discoverd, and their HTTP API. Only the databases are the simulator's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flynn_discoverd::{Config, Discoverd};
use flynn_http::ServerOptions;
use flynn_sirenia::{Me, Peer, Service, State, Volume, VolumeFiles, World, api};
use flynn_sirenia_client::{Client, PeerError};
use flynn_types::discoverd::Instance;
use flynn_types::sirenia::{IdKey, PeerId, Role, Tunables};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::databases::{Databases, One, STEP, Shared, name};
use crate::rig::KEY;
use crate::sim::database::At;

const SERVICE: &str = "postgres";

fn limit() -> Duration {
    flynn_patience::seconds(60)
}

struct Node {
    instance: Instance,
    client: Client,
    _peer: Peer,
    _server: DropGuard,
    _folder: tempfile::TempDir,
}

struct Cluster {
    databases: Shared,
    discoverd: Discoverd,
    client: flynn_discoverd_client::Client,
    nodes: Vec<Node>,
    _folder: tempfile::TempDir,
}

fn key() -> IdKey {
    IdKey(KEY.into())
}

fn tunables(version: u64, name: &str) -> Tunables {
    Tunables { data: [(name.to_owned(), "100".to_owned())].into(), version }
}

/// A port for the API whose predecessor stands for the database's.
async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = listener.local_addr().unwrap();
    (listener, SocketAddr::new(api.ip(), api.port() - 1))
}

impl Cluster {
    async fn new(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let config = Config { register: false, ..Config::new("h1", addr, folder.path().join("raft.redb"), vec![]) };
        let discoverd = Discoverd::start(config, vec![listener]).await.unwrap();
        let client = flynn_discoverd_client::Client::from_list(&addr.to_string()).unwrap();
        let databases = Databases::new(count);
        let mut cluster = Self { databases, discoverd, client, nodes: Vec::new(), _folder: folder };
        for number in 0..count {
            let node = cluster.node(number).await;
            cluster.nodes.push(node);
        }
        cluster
    }

    async fn node(&self, number: usize) -> Node {
        let (listener, addr) = listener().await;
        let meta = [(KEY.to_owned(), name(number))].into();
        let instance = Instance::new("tcp", &addr.to_string(), meta);
        let folder = tempfile::tempdir().unwrap();
        let service = Service::join(&self.client, SERVICE, instance.clone()).await.unwrap();
        // Peers are of different age, so that the first one is known.
        self.client.wait_for_instances(SERVICE, number + 1, limit()).await.unwrap();
        let me = Me { id: PeerId(name(number)), key: key(), singleton: false };
        let views = service.views();
        let database = Arc::new(One { all: self.databases.clone(), number });
        let world = World::<At> {
            discovery: Arc::new(service),
            database: database.clone(),
            memory: Arc::new(VolumeFiles::open(folder.path()).await.unwrap()),
        };
        let peer = Peer::start(State::new(me, Volume::default()), views, world);
        let api = api::Api {
            peer: peer.handle(),
            database,
            key: key(),
            version: "v20261124.0".into(),
            default_tunables: tunables(0, "max_connections"),
        };
        let stop = CancellationToken::new();
        tokio::spawn(flynn_http::serve(listener, api::router(api), stop.clone(), ServerOptions::default()));
        let client = Client::of(&instance).unwrap();
        Node { instance, client, _peer: peer, _server: stop.drop_guard(), _folder: folder }
    }

    /// Lets the databases replicate while something is waited for.
    async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let replicate = async {
            loop {
                tokio::time::sleep(STEP).await;
                self.databases.lock().unwrap().step();
            }
        };
        tokio::select! {
            done = work => done,
            () = replicate => unreachable!("it has no end"),
        }
    }

    async fn until_leads(&self, number: usize) {
        let wanted = &self.nodes[number].instance.id;
        let mut leaders = self.client.watch_leader(SERVICE);
        let found = async { while leaders.next().await.as_ref().map(|leader| &leader.id) != Some(wanted) {} };
        self.during(tokio::time::timeout(limit(), found)).await.expect("the leader");
    }
}

/// A43, B1, B3 to B5
#[tokio::test]
async fn peers_over_a_real_discoverd_take_over_and_serve_their_api() {
    let cluster = Cluster::new(3).await;
    let [first, second, third] = &cluster.nodes[..] else { unreachable!() };
    cluster.until_leads(0).await;
    cluster.during(first.client.wait_for_read_write(limit())).await.unwrap();
    cluster.during(first.client.wait_for_sync(&second.instance, Some(&key()), limit())).await.unwrap();
    let never = first.client.wait_for_sync(&third.instance, None, Duration::from_millis(300));
    assert!(matches!(cluster.during(never).await, Err(PeerError::Timeout)));

    let status = first.client.status().await.unwrap();
    assert_eq!(status.peer.as_ref().unwrap().role, Role::Primary);
    assert_eq!(status.peer.unwrap().peers.len(), 3);
    assert_eq!(status.database.unwrap().config.unwrap().downstream.as_ref().map(|d| &d.id), Some(&second.instance.id));
    let health: serde_json::Value =
        flynn_http::Client::new(first.client.base()).get_json("/.well-known/status").await.unwrap();
    assert_eq!(health, serde_json::json!({"data": {"status": "healthy", "version": "v20261124.0"}}));

    let refused = second.client.set_tunables(&tunables(1, "max_connections")).await.unwrap_err();
    assert_eq!(refused.to_string(), "peer is not primary, can't update tunables");
    let unknown = first.client.set_tunables(&tunables(1, "colour")).await.unwrap_err();
    assert_eq!(unknown.to_string(), "unknown tunable: colour");
    let set = cluster.during(first.client.set_tunables(&tunables(1, "max_connections"))).await.unwrap();
    assert_eq!(set, first.client.tunables().await.unwrap());
    let older = first.client.set_tunables(&tunables(1, "max_connections")).await.unwrap_err();
    assert_eq!(older.to_string(), "new tunables version must be greater than current version: 1");

    cluster.during(first.client.stop()).await.unwrap();
    first.client.stop().await.unwrap();
    assert!(!first.client.status().await.unwrap().database.unwrap().running);
    let plain = flynn_http::Client::new(first.client.base());
    let health = plain.get_json::<serde_json::Value>("/.well-known/status");
    assert_eq!(health.await.unwrap_err().status(), Some(500));
    cluster.until_leads(1).await;
    cluster.during(second.client.wait_for_read_write(limit())).await.unwrap();
    let state = second.client.status().await.unwrap().peer.unwrap().state.unwrap();
    assert_eq!((state.generation, state.deposed.len(), state.tunables), (2, 1, Some(tunables(1, "max_connections"))));
    let lost = {
        let databases = cluster.databases.lock().unwrap();
        assert!(!databases.acknowledged().is_empty());
        databases.lost(1)
    };
    assert_eq!(lost, [0; 0]);
    cluster.discoverd.shutdown().await;
}
