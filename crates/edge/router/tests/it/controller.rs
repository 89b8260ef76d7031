//! Routes from the real controller, on a real PostgreSQL.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use flynn_controller::{Config, Discovery, serve};
use flynn_discoverd::Discoverd;
use flynn_router::source::Change;
use flynn_router::source::controller::{Endpoint, Kept, follow, locate};
use flynn_router::{Limits, Settings};
use flynn_test_postgres::Database;
use flynn_types::controller::App;
use flynn_types::discoverd::Instance;
use flynn_types::router::Route;
use http::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::backend::Backend;
use crate::client::Client;
use crate::rig::{LOOPBACK, Rig, eventually, members, settings, within};
use crate::tls::{Authority, with_certificate};

const KEY: &str = "key-of-tests";

/// A controller that serves. Its streams end when it is stopped or dropped.
struct Controller {
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: AbortOnDropHandle<()>,
}

impl Controller {
    async fn start(database: &Database) -> Self {
        Self::registered(database, None).await
    }

    /// One that others find in this discoverd.
    async fn registered(database: &Database, discovery: Option<&flynn_discoverd_client::Client>) -> Self {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("a free port");
        let (address, shutdown) = (listener.local_addr().expect("it is bound"), CancellationToken::new());
        let meta = BTreeMap::from([("AUTH_KEY".to_owned(), KEY.to_owned())]);
        let instance = Instance::new("http", &address.to_string(), meta);
        let discovery = discovery.map(|client| Discovery { client: client.clone(), instance });
        let serving = serve(Config::new(KEY), database.options(), listener, discovery, shutdown.clone());
        let serving = AbortOnDropHandle::new(tokio::spawn(async move { serving.await.expect("it serves") }));
        Self { address, shutdown, serving }
    }

    fn endpoint(&self) -> Endpoint {
        endpoint(self.address)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        within(self.serving).await.expect("it ends");
    }

    fn http(&self) -> flynn_http::Client {
        flynn_http::Client::new(&format!("http://{}", self.address)).with_basic_auth(KEY)
    }

    async fn create(&self, app: &App, route: Value) -> Route {
        let path = format!("/apps/{}/routes", app.id);
        self.http().send_json(Method::POST, &path, &route).await.expect("a route")
    }

    async fn change(&self, app: &App, route: &Route) -> Route {
        self.http().send_json(Method::PUT, &path(app, route), route).await.expect("a changed route")
    }

    async fn delete(&self, app: &App, route: &Route) {
        self.http().send(Method::DELETE, &path(app, route)).await.expect("it is deleted");
    }
}

fn path(app: &App, route: &Route) -> String {
    let kind = if route.domain.is_empty() { "tcp" } else { "http" };
    format!("/apps/{}/routes/{kind}/{}", app.id, route.id)
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::new(&format!("http://{address}"), KEY)
}

fn http_route(domain: &str) -> Value {
    json!({ "type": "http", "domain": domain, "service": "s" })
}

async fn database() -> Database {
    Database::create(|options| async move {
        let mut connection = PgConnection::connect_with(&options).await.expect("connect");
        flynn_controller::migrate(&mut connection).await.expect("migrate");
    })
    .await
}

/// A controller with an app, and a router that follows it; the service `s` has one backend.
struct Cluster {
    database: Database,
    controller: Controller,
    app: App,
    rig: Rig,
    endpoints: watch::Sender<Vec<Endpoint>>,
    backend: Backend,
    _source: AbortOnDropHandle<()>,
}

impl Cluster {
    async fn start() -> Self {
        let database = database().await;
        let controller = Controller::start(&database).await;
        let endpoint = controller.endpoint();
        Self::of(database, controller, endpoint, None).await
    }

    async fn of(database: Database, controller: Controller, endpoint: Endpoint, kept: Option<Kept>) -> Self {
        let created = controller.http().send_json(Method::POST, "/apps", &json!({ "name": "shop" })).await;
        let backend = Backend::named("app").await;
        // Shorter than any outage of these tests.
        let limits = Limits { controller_absence: Duration::ZERO, ..Limits::default() };
        let settings = Settings { limits, ..settings() };
        let rig = Rig::with(settings, Vec::new(), vec![members("s", &[backend.address])]).await;
        let (endpoints, known) = watch::channel(vec![endpoint]);
        let source =
            AbortOnDropHandle::new(tokio::spawn(follow(known, rig.serving.changes(), kept, rig.serving.contact())));
        let app = created.expect("an app");
        Self { database, controller, app, rig, endpoints, backend, _source: source }
    }

    async fn create(&self, route: Value) -> Route {
        self.controller.create(&self.app, route).await
    }

    /// Waits until the host is served, or is not.
    async fn is_served(&self, host: &str, served: bool) {
        let expected = if served { "200 app" } else { "404 Not Found\n" };
        eventually(expected.to_owned(), async || self.rig.get(host).await).await;
    }
}

impl Cluster {
    /// Waits until the router's status says so.
    async fn is_healthy(&self, healthy: bool) {
        let api = self.rig.serving.api_address().expect("there is an API");
        let status = async || {
            let answer = Client::connect(api).await.get("router", "/.well-known/status").await;
            (answer.status, answer.text().contains("no controller has answered"))
        };
        eventually(if healthy { (200, false) } else { (500, true) }, status).await;
    }
}

/// Passes connections on, until it is told to cut them, and then refuses to.
struct Cut {
    address: SocketAddr,
    open: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Cut {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (open, is_open) = watch::channel(true);
        let task = tokio::spawn(async move {
            let mut running = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let mut is_open = is_open.clone();
                running.spawn(async move {
                    if !*is_open.borrow_and_update() {
                        return;
                    }
                    let Ok(mut server) = TcpStream::connect(server).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = is_open.changed() => {}
                    }
                });
            }
        });
        Self { address, open, _task: AbortOnDropHandle::new(task) }
    }
}

#[tokio::test]
async fn j1_routes_and_certificates_of_the_controller_are_served_as_they_change() {
    let cluster = Cluster::start().await;
    let authority = Authority::new();
    let pair = authority.issue(&["a.example.com"]);
    let (domain, cert, key) = ("a.example.com", &pair.chain, &pair.key);
    let route = json!({ "type": "http", "domain": domain, "service": "s", "tls_cert": cert, "tls_key": key });
    let route = cluster.create(route).await;
    cluster.is_served("a.example.com", true).await;
    let https = || authority.get(cluster.rig.https(), "a.example.com");
    assert_eq!(https().await, Ok("200 app".into()));
    // M13: what is not said of the certificate leaves it.
    let other = Backend::named("other").await;
    let without = Route { service: "other".into(), ..route.clone().without_key() };
    cluster.controller.change(&cluster.app, &without).await;
    eventually("503 Service Unavailable\n".to_owned(), async || cluster.rig.get("a.example.com").await).await;
    cluster.rig.members(members("other", &[other.address])).await;
    assert_eq!(https().await, Ok("200 other".into()));
    // G3: a new one is presented.
    let renewed = Authority::new();
    let changed = with_certificate(without, &renewed.issue(&["a.example.com"]));
    cluster.controller.change(&cluster.app, &changed).await;
    eventually(Ok("200 other".into()), async || renewed.get(cluster.rig.https(), "a.example.com").await).await;
    cluster.controller.delete(&cluster.app, &route).await;
    cluster.is_served("a.example.com", false).await;
}

#[tokio::test]
async fn i10_tcp_routes_get_a_port_that_is_served_at_once_and_again_by_others() {
    let cluster = Cluster::start().await;
    let answers = async |port: u16| {
        let mut stream = TcpStream::connect((LOOPBACK, port)).await.ok()?;
        let (mut answer, request) = (Vec::new(), b"GET / HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n");
        stream.write_all(request).await.ok()?;
        within(stream.read_to_end(&mut answer)).await.ok()?;
        answer.ends_with(b"\r\n\r\napp").then_some(())
    };
    let mut before = None;
    for _ in 0..2 {
        let route = cluster.create(json!({ "type": "tcp", "service": "s" })).await;
        assert!((3000..=3500).contains(&route.port) && before.is_none_or(|port| port == route.port), "{route:?}");
        eventually(Some(()), async || answers(route.port).await).await;
        cluster.controller.delete(&cluster.app, &route).await;
        eventually(None, async || answers(route.port).await).await;
        before = Some(route.port);
    }
}

#[tokio::test]
async fn j4_a_controller_that_moves_is_followed_to_where_it_is() {
    let cluster = Cluster::start().await;
    cluster.create(http_route("a.org")).await;
    cluster.is_served("a.org", true).await;
    // The former one hangs at its address, as one on a lost host does: its stream never ends.
    let moved = Controller::start(&cluster.database).await;
    let hanging = Backend::scripted(|mut peer| async move {
        peer.head_of_request().await;
        assert!(peer.is_closed().await, "it is left alone");
    })
    .await;
    for former in [cluster.controller.endpoint(), endpoint(hanging.address)] {
        let known = |endpoint| drop(cluster.endpoints.send_replace(vec![endpoint]));
        known(former);
        known(moved.endpoint());
        let route = moved.create(&cluster.app, http_route("b.org")).await;
        cluster.is_served("b.org", true).await;
        moved.delete(&cluster.app, &route).await;
        cluster.is_served("b.org", false).await;
    }
    // One that ends properly is left for another at once.
    cluster.endpoints.send_replace(vec![cluster.controller.endpoint(), moved.endpoint()]);
    moved.stop().await;
    cluster.create(http_route("c.org")).await;
    cluster.is_served("c.org", true).await;
}

#[tokio::test]
async fn j4_controllers_are_found_in_discoverd_with_their_key_wherever_they_are_by_now() {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let config = flynn_discoverd::Config::new("h1", address, folder.path().join("raft.redb"), Vec::new());
    let discoverd = Discoverd::start(config, vec![listener]).await.expect("it starts");
    let discovery = flynn_discoverd_client::Client::from_list(&address.to_string()).expect("an address");
    let database = database().await;
    let controller = Controller::registered(&database, Some(&discovery)).await;
    let cluster = Cluster::of(database, controller, endpoint(address), None).await;
    let located = tokio::spawn(locate(discovery.clone(), None, cluster.endpoints.clone()));
    let _located = AbortOnDropHandle::new(located);
    cluster.create(http_route("0.org")).await;
    cluster.is_served("0.org", true).await;
    let next = Controller::registered(&cluster.database, Some(&discovery)).await;
    let Cluster { controller, app, rig, _source, backend: _backend, .. } = cluster;
    controller.stop().await;
    next.create(&app, http_route("1.org")).await;
    eventually("200 app".to_owned(), async || rig.get("1.org").await).await;
    drop(discoverd);
}

#[tokio::test]
async fn j3_j5_what_changes_while_the_stream_is_broken_is_made_up_for() {
    let database = database().await;
    let controller = Controller::start(&database).await;
    let cut = Cut::to(controller.address).await;
    let through = endpoint(cut.address);
    let cluster = Cluster::of(database, controller, through, None).await;
    let mut route = cluster.create(http_route("0.org")).await;
    cluster.is_served("0.org", true).await;
    // In the first round nothing but the list is sure to have been seen; later ones resume after an event.
    for round in 1..=5 {
        cut.open.send_replace(false);
        cluster.controller.delete(&cluster.app, &route).await;
        let (gone, host) = (std::mem::take(&mut route).domain, format!("{round}.org"));
        route = cluster.create(http_route(&host)).await;
        assert_eq!(cluster.rig.get(&gone).await, "200 app", "what is known is served meanwhile");
        cluster.is_healthy(false).await;
        cut.open.send_replace(true);
        cluster.is_served(&host, true).await;
        cluster.is_served(&gone, false).await;
        cluster.is_healthy(true).await;
    }
}

#[tokio::test]
async fn j5_a_change_before_the_first_event_of_a_stream_is_made_up_for() {
    let database = database().await;
    let controller = Controller::start(&database).await;
    let cut = Cut::to(controller.address).await;
    let through = endpoint(cut.address);
    let cluster = Cluster::of(database, controller, through, None).await;
    // Streams that break before they brought anything.
    for round in 0..5 {
        cut.open.send_replace(false);
        let host = format!("{round}.org");
        insert_quietly(&cluster.database, &cluster.app, &host).await;
        cut.open.send_replace(true);
        cluster.is_served(&host, true).await;
    }
}

/// A route of which no event tells.
async fn insert_quietly(database: &Database, app: &App, domain: &str) {
    let insert = format!(
        "INSERT INTO http_routes (parent_ref, service, domain, path, drain_backends, leader, sticky)
         VALUES ('controller/apps/{}', 's', '{domain}', '/', false, false, false)",
        app.id
    );
    database.connect().await.execute(AssertSqlSafe(insert)).await.expect("a row");
}

#[tokio::test]
async fn a_database_that_was_taken_back_does_not_make_routers_deaf() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c"] {
        let route = cluster.create(http_route(&format!("{name}.org"))).await;
        cluster.is_served(&route.domain, true).await;
    }
    let Cluster { database, app, endpoints, .. } = &cluster;
    let mut sql = database.connect().await;
    sql.execute("TRUNCATE events; ALTER SEQUENCE event_ids RESTART").await.expect("an older state");
    let restored = Controller::start(database).await;
    endpoints.send_replace(vec![restored.endpoint()]);
    restored.create(app, http_route("d.org")).await;
    cluster.is_served("d.org", true).await;
}

#[tokio::test]
async fn j6_routes_that_cannot_be_used_harm_no_other_of_five_thousand() {
    let database = database().await;
    let controller = Controller::start(&database).await;
    let (endpoint, kept) = (controller.endpoint(), tempfile::tempdir().expect("a folder"));
    let kept = Kept::new(kept.path().join("routes.json"));
    let app: App = {
        let created = controller.http().send_json(Method::POST, "/apps", &json!({ "name": "many" })).await;
        created.expect("an app")
    };
    let many = format!(
        "INSERT INTO http_routes (parent_ref, service, domain, path, drain_backends, leader, sticky)
         SELECT 'controller/apps/{}', 's', n || '.org', CASE WHEN n = 77 THEN 'no-path' ELSE '/' END, false, false, false
         FROM generate_series(1, 5000) n",
        app.id
    );
    let mut sql = database.connect().await;
    // Rules would refuse one of them; databases of old clusters have such rows.
    sql.execute("SET session_replication_role = replica").await.expect("no rules");
    sql.execute(AssertSqlSafe(many)).await.expect("rows");
    let cluster = Cluster::of(database, controller, endpoint, Some(kept)).await;
    cluster.is_served("5000.org", true).await;
    cluster.is_served("1.org", true).await;
    cluster.is_served("77.org", false).await;
    assert_eq!(cluster.rig.metric("flynn_router_routes "), Some(4999.0));
    assert_eq!(cluster.rig.metric("flynn_router_routes_invalid "), Some(1.0));
    assert!(!cluster.backend.seen().is_empty());
}

#[tokio::test]
async fn what_was_known_is_served_while_no_controller_answers() {
    let database = database().await;
    let controller = Controller::start(&database).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (endpoint, kept) = (controller.endpoint(), Kept::new(folder.path().join("routes.json")));
    let cluster = Cluster::of(database, controller, endpoint, Some(kept.clone())).await;
    cluster.create(http_route("a.org")).await;
    cluster.is_served("a.org", true).await;
    let known = async || kept.read().await.expect("a file").unwrap_or_default();
    eventually(1, async || known().await.len()).await;
    let Cluster { controller, database, app, endpoints, .. } = cluster;
    controller.stop().await;
    // Another router, that never hears of a controller at first.
    let backend = Backend::named("app").await;
    let rig = Rig::start(Vec::new(), vec![members("s", &[backend.address])]).await;
    rig.tell(Change::Routes(known().await)).await;
    assert_eq!(rig.get("a.org").await, "200 app");
    let reborn = Controller::start(&database).await;
    endpoints.send_replace(Vec::new());
    let source =
        tokio::spawn(follow(endpoints.subscribe(), rig.serving.changes(), Some(kept.clone()), rig.serving.contact()));
    endpoints.send_replace(vec![reborn.endpoint()]);
    reborn.create(&app, http_route("b.org")).await;
    eventually("200 app".to_owned(), async || rig.get("b.org").await).await;
    assert_eq!(rig.get("a.org").await, "200 app");
    eventually(2, async || known().await.len()).await;
    source.abort();
}
