//! Backends from discoverd. The peer speaks its event stream, and dies when the test says so.

use std::net::SocketAddr;
use std::sync::Arc;

use flynn_discoverd_client::Client;
use flynn_router::Router;
use flynn_router::source::{Change, discoverd};
use flynn_telemetry::Metrics;
use flynn_types::discoverd::{Event, EventKind, Instance};
use tokio::sync::Notify;

use crate::backend::Backend;
use crate::rig::{Rig, eventually, members, route, settings, within};

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

fn event(kind: EventKind, instance: Option<SocketAddr>) -> String {
    let instance = instance.map(|address| Instance::new("http", &address.to_string(), Default::default()));
    let event = Event { service: "s".into(), kind, instance, service_meta: None };
    format!("data: {}\n\n", serde_json::to_string(&event).expect("an event"))
}

/// The replay of a service with these instances, the first being its leader.
fn replay(addresses: &[SocketAddr]) -> String {
    let ups = addresses.iter().map(|address| event(EventKind::Up, Some(*address)));
    let leader = addresses.first().map(|address| event(EventKind::Leader, Some(*address)));
    ups.chain(leader).chain([event(EventKind::Current, None)]).collect()
}

#[tokio::test]
async fn j9_j10_instances_follow_discoverd_and_outlast_its_absence() {
    let (one, two) = (Backend::named("1").await, Backend::named("2").await);
    let (die, come_back) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (first, second) = ([one.address, two.address], [two.address]);
    let (dies, comes_back) = (Arc::clone(&die), Arc::clone(&come_back));
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let discovery = Backend::scripted(move |mut peer| {
        let (die, come_back) = (Arc::clone(&dies), Arc::clone(&comes_back));
        let connections = Arc::clone(&connections);
        async move {
            let head = peer.head_of_request().await;
            if !head.starts_with("GET /services/s ") {
                // A service of which discoverd says nothing.
                peer.is_closed().await;
                return;
            }
            if connections.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
                peer.send(format!("{STREAM}{}", replay(&first))).await;
                die.notified().await;
            } else {
                come_back.notified().await;
                peer.send(format!("{STREAM}{}", replay(&second))).await;
                peer.is_closed().await;
            }
        }
    })
    .await;

    let router = Router::new(settings(), &Metrics::new("flynn_router"));
    let changes = router.changes();
    let client = Client::from_list(&format!("http://{}", discovery.address)).expect("an address");
    let source = tokio::spawn(discoverd::follow(client, router.interest(), router.changes()));
    let led = flynn_types::router::Route { leader: true, ..route("led.com", "s") };
    let routes = vec![route("example.com", "s"), led, route("silent.com", "t")];
    changes.send(Change::Routes(routes)).await.expect("the router takes changes");
    within(router.synced()).await;
    let serving = router.listen("v1", flynn_router::Sockets::default()).expect("loopback has free ports");
    let ask =
        async |host: &str| crate::client::Client::connect(serving.addresses()[0]).await.get(host, "/").await.text();
    eventually("1".to_owned(), async || ask("led.com").await).await;
    eventually(vec!["1".to_owned(), "2".to_owned()], async || {
        let mut answers = vec![ask("example.com").await, ask("example.com").await];
        answers.sort();
        answers
    })
    .await;
    assert_eq!(ask("silent.com").await, "Service Unavailable\n", "its silence delays nobody");

    die.notify_one();
    let known = discovery.connections();
    eventually(true, async || discovery.connections() > known).await;
    for _ in 0..20 {
        assert!(["1", "2"].contains(&&*ask("example.com").await), "the known instances go on");
    }
    come_back.notify_one();
    eventually("2".to_owned(), async || ask("led.com").await).await;
    for _ in 0..20 {
        assert_eq!(ask("example.com").await, "2", "who went away meanwhile is gone");
    }
    // Without a route nobody is interested.
    changes.send(Change::Routes(vec![])).await.expect("the router takes changes");
    changes.send(Change::Members(members("s", &[]))).await.expect("the router takes changes");
    eventually("Not Found\n".to_owned(), async || ask("example.com").await).await;
    source.abort();
}

#[tokio::test]
async fn a_list_of_routes_leaves_services_that_another_source_tells() {
    let (told, listed) = (Backend::named("told").await, Backend::named("listed").await);
    let routes = vec![route("told.com", "told"), route("listed.com", "listed")];
    let everything = |listed: &[SocketAddr]| Change::Everything {
        routes: routes.clone(),
        services: vec![members("listed", listed)],
    };
    let rig = Rig::start(routes.clone(), vec![members("listed", &[listed.address])]).await;
    rig.members(members("told", &[told.address])).await;
    rig.tell(everything(&[listed.address])).await;
    assert_eq!(rig.get("told.com").await, "200 told");
    assert_eq!(rig.get("listed.com").await, "200 listed");
    rig.tell(Change::Everything { routes: routes.clone(), services: vec![] }).await;
    assert_eq!(rig.get("told.com").await, "200 told");
    assert_eq!(rig.get("listed.com").await, "503 Service Unavailable\n", "what was listed and is no more is gone");
}
