//! Which route a request takes, over real connections. The table itself has its own tests.

use flynn_router::source::Change;
use flynn_types::router::Route;

use crate::backend::Backend;
use crate::rig::{Rig, members, route};

#[tokio::test]
async fn a1_backends_and_routes_come_and_go() {
    let (first, second) = (Backend::named("1").await, Backend::named("2").await);
    let rig = Rig::start(vec![route("example.com", "s")], vec![members("s", &[first.address])]).await;
    assert_eq!(rig.get("example.com").await, "200 1");
    assert_eq!(rig.get("elsewhere.com").await, "404 Not Found\n");
    rig.members(members("s", &[second.address])).await;
    assert_eq!(rig.get("example.com").await, "200 2");
    rig.remove("example.com/").await;
    assert_eq!(rig.get("example.com").await, "404 Not Found\n");
}

#[tokio::test]
async fn a5_a6_backends_see_the_host_as_the_client_spells_it() {
    let backend = Backend::named("b").await;
    let rig = Rig::start(vec![route("exaMple.com", "s")], vec![members("s", &[backend.address])]).await;
    for host in ["Example.com", "example.com:80", "example.com:443", "example.com."] {
        assert_eq!(rig.get(host).await, "200 b");
        assert_eq!(backend.last().header("host"), host);
    }
}

#[tokio::test]
async fn a7_a11_paths_choose_the_service_and_arrive_unstripped() {
    let backends = [Backend::named("1").await, Backend::named("2").await, Backend::named("3").await];
    let routes = vec![route("foo.bar/2/", "2"), route("foo.bar/3", "3"), route("foo.bar/", "1")];
    let services = backends.iter().zip(["1", "2", "3"]).map(|(backend, name)| members(name, &[backend.address]));
    let rig = Rig::start(routes, services.collect()).await;
    for (path, answer) in [("/", "200 1"), ("/2", "200 2"), ("/2/x?y=1", "200 2"), ("/3/", "200 3"), ("/23", "200 1")] {
        assert_eq!(rig.get_path("foo.bar", path).await, answer, "{path}");
    }
    assert!(backends[1].seen().iter().any(|seen| seen.target == "/2/x?y=1"));
}

#[tokio::test]
async fn a14_a15_additional_ports_serve_the_routes_that_name_them() {
    let (default, other) = (Backend::named("default").await, Backend::named("other").await);
    let services = vec![members("s", &[default.address]), members("t", &[other.address])];
    let rig = Rig::start(vec![route("app", "s")], services).await;
    let extra = async |rig: &Rig| {
        let answer = crate::client::Client::connect(rig.extra_http()).await.get("app", "/").await;
        format!("{} {}", answer.status, answer.text())
    };
    assert_eq!(extra(&rig).await, "404 Not Found\n");
    let port = rig.extra_http().port();
    rig.set(Route { id: "extra".into(), port, ..route("app", "t") }).await;
    assert_eq!(extra(&rig).await, "200 other");
    assert_eq!(rig.get("app").await, "200 default");
    assert_eq!(other.last().header("x-forwarded-port"), port.to_string());
}

#[tokio::test]
async fn a16_requests_for_different_hosts_share_a_connection() {
    let (one, two) = (Backend::named("1").await, Backend::named("2").await);
    let routes = vec![route("one", "1"), route("two", "2")];
    let rig = Rig::start(routes, vec![members("1", &[one.address]), members("2", &[two.address])]).await;
    let mut client = rig.client().await;
    for (host, text) in [("one", "1"), ("two", "2"), ("one", "1"), ("three", "Not Found\n")] {
        assert_eq!(client.get(host, "/").await.text(), text);
    }
}

#[tokio::test]
async fn a18_a_route_with_capitals_stops_serving_when_it_is_deleted() {
    let backend = Backend::named("b").await;
    let rig = Rig::start(vec![route("Foo.Example.com", "s")], vec![members("s", &[backend.address])]).await;
    assert_eq!(rig.get("foo.example.com").await, "200 b");
    rig.remove("Foo.Example.com/").await;
    assert_eq!(rig.get("foo.example.com").await, "404 Not Found\n");
}

#[tokio::test]
async fn j3_j7_a_new_list_replaces_the_old_one_and_unknown_ids_are_ignored() {
    let backend = Backend::named("b").await;
    let rig = Rig::start(vec![route("one", "s")], vec![members("s", &[backend.address])]).await;
    rig.remove("unknown").await;
    assert_eq!(rig.get("one").await, "200 b");
    rig.tell(Change::Routes(vec![route("two", "s")])).await;
    assert_eq!((rig.get("one").await, rig.get("two").await), ("404 Not Found\n".into(), "200 b".into()));
}

#[tokio::test]
async fn j6_one_route_that_cannot_be_used_stops_no_other() {
    let backend = Backend::named("b").await;
    let mut routes: Vec<_> = (0..5000).map(|n| route(&format!("app{n}.example.com"), "s")).collect();
    routes.insert(2500, route("a b", "s"));
    let begin = std::time::Instant::now();
    let rig = Rig::start(routes, vec![members("s", &[backend.address])]).await;
    for n in [0, 2499, 2500, 4999] {
        assert_eq!(rig.get(&format!("app{n}.example.com")).await, "200 b");
    }
    assert!(begin.elapsed().as_secs() < 5);
    assert_eq!(rig.metric("flynn_router_routes_invalid "), Some(1.0));
}

#[tokio::test]
async fn j8_updates_of_a_route_leave_nothing_behind() {
    let backend = Backend::named("b").await;
    let rig = Rig::start(vec![route("one", "s")], vec![members("s", &[backend.address])]).await;
    for n in 0..1000 {
        rig.set(Route { disable_keep_alives: n % 2 == 0, sticky: n % 3 == 0, ..route("one", "s") }).await;
        if n % 100 == 1 {
            assert_eq!(rig.get("one").await, "200 b");
        }
    }
    assert!(backend.connections() <= 10, "{} connections for 10 requests", backend.connections());
    let lines = rig.metrics.encode().lines().filter(|line| line.contains("requests_in_flight{")).count();
    assert_eq!(lines, 1, "one route has one set of figures");
}
