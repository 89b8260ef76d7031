//! Sticky cookies, load, leaders.

use flynn_types::router::Route;

use crate::backend::Backend;
use crate::client::{Answer, Client};
use crate::rig::{Rig, cookie_key, eventually, led, members, route, sticky};

/// Asks with a cookie and gives the answer with the cookie that it sets.
async fn ask(rig: &Rig, cookie: &str) -> (Answer, Option<String>) {
    let line = if cookie.is_empty() { String::new() } else { format!("Cookie: a=b; _backend={cookie}\r\n") };
    let answer = rig.client().await.ask(format!("GET / HTTP/1.1\r\nHost: example.com\r\n{line}\r\n")).await;
    let set = answer.header("set-cookie").map(|line| {
        let value = line.strip_prefix("_backend=").and_then(|rest| rest.strip_suffix("; Path=/"));
        value.expect("the cookie has a path and nothing else").to_owned()
    });
    (answer, set)
}

#[tokio::test]
async fn e1_a_client_stays_with_its_backend() {
    let (first, second) = (Backend::named("1").await, Backend::named("2").await);
    let rig = Rig::start(vec![sticky("example.com", "s")], vec![members("s", &[first.address])]).await;
    let (_, cookie) = ask(&rig, "").await;
    let cookie = cookie.expect("the first response sets a cookie");
    assert_eq!(cookie_key().open(&cookie), Some(first.address));
    rig.members(members("s", &[first.address, second.address])).await;
    for _ in 0..10 {
        let (answer, set) = ask(&rig, &cookie).await;
        assert_eq!((answer.text().as_str(), set), ("1", None));
    }
    rig.members(members("s", &[second.address])).await;
    for _ in 0..10 {
        let (answer, set) = ask(&rig, &cookie).await;
        assert_eq!(answer.text(), "2");
        assert_eq!(cookie_key().open(&set.expect("a new cookie")), Some(second.address));
    }
}

#[tokio::test]
async fn e2_upgrades_are_sticky_too() {
    let switching = || {
        Backend::scripted(async |mut backend| {
            backend.head_of_request().await;
            let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
            backend.send(head).await;
            backend.rest().await;
        })
    };
    let (first, second) = (switching().await, switching().await);
    let rig = Rig::start(vec![sticky("example.com", "s")], vec![members("s", &[first.address])]).await;
    let upgrade = async |cookie: &str| {
        let mut client = rig.client().await;
        let lines = format!("Connection: upgrade\r\nUpgrade: x\r\nCookie: _backend={cookie}");
        client.send(format!("GET / HTTP/1.1\r\nHost: example.com\r\n{lines}\r\n\r\n")).await;
        let answer = client.head().await;
        assert_eq!(answer.status, 101);
        answer.header("set-cookie").map(|line| line["_backend=".len()..].trim_end_matches("; Path=/").to_owned())
    };
    let cookie = upgrade("").await.expect("a cookie");
    rig.members(members("s", &[first.address, second.address])).await;
    for _ in 0..5 {
        assert_eq!(upgrade(&cookie).await, None);
    }
    assert_eq!(first.connections(), 6);
    rig.members(members("s", &[second.address])).await;
    assert_eq!(cookie_key().open(&upgrade(&cookie).await.expect("a new cookie")), Some(second.address));
}

#[tokio::test]
async fn e3_a_cookie_of_somebody_else_is_replaced() {
    let backend = Backend::named("1").await;
    let rig = Rig::start(vec![sticky("example.com", "s")], vec![members("s", &[backend.address])]).await;
    let foreign = flynn_router::CookieKey::random().seal(backend.address);
    for cookie in ["garbage", &foreign] {
        let (answer, set) = ask(&rig, cookie).await;
        assert_eq!((answer.status, cookie_key().open(&set.expect("a cookie"))), (200, Some(backend.address)));
        assert!(backend.last().header("cookie").contains(cookie), "the backend sees it as well");
    }
}

#[tokio::test]
async fn e4_requests_avoid_a_busy_backend() {
    let slow = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").await;
        backend.is_closed().await;
    })
    .await;
    let others = [Backend::named("1").await, Backend::named("2").await];
    let addresses = [slow.address, others[0].address, others[1].address];
    let rig = Rig::start(vec![sticky("example.com", "s")], vec![members("s", &addresses)]).await;
    let cookie = cookie_key().seal(slow.address);
    let mut open: Vec<Client> = Vec::new();
    for _ in 0..10 {
        let mut client = rig.client().await;
        client.send(format!("GET / HTTP/1.1\r\nHost: example.com\r\nCookie: _backend={cookie}\r\n\r\n")).await;
        assert_eq!(client.head().await.status, 200);
        open.push(client);
    }
    for _ in 0..10 {
        assert_eq!(ask(&rig, "").await.0.status, 200);
    }
    assert_eq!(slow.connections(), 10);
}

#[tokio::test]
async fn e6_only_the_leader_is_asked() {
    let (one, two) = (Backend::named("1").await, Backend::named("2").await);
    let addresses = [one.address, two.address];
    let leads = Route { leader: true, ..route("example.com", "s") };
    let rig = Rig::start(vec![leads], vec![led("s", &addresses, two.address)]).await;
    for _ in 0..10 {
        assert_eq!(rig.get("example.com").await, "200 2");
    }
    rig.members(led("s", &addresses, one.address)).await;
    for _ in 0..10 {
        assert_eq!(rig.get("example.com").await, "200 1");
    }
    rig.members(members("s", &addresses)).await;
    assert_eq!(rig.get("example.com").await, "503 Service Unavailable\n");
}

#[tokio::test]
async fn e7_a_changed_route_holds_for_the_next_request_and_ends_no_other() {
    let one = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").await;
        backend.is_closed().await;
    })
    .await;
    let two = Backend::named("2").await;
    let services = vec![led("s", &[one.address], one.address)];
    let rig = Rig::start(vec![route("example.com", "s")], services).await;
    let mut open = rig.client().await;
    open.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    open.head().await;
    rig.members(led("s", &[one.address, two.address], two.address)).await;
    rig.set(Route { leader: true, sticky: true, ..route("example.com", "s") }).await;
    let (answer, set) = ask(&rig, "").await;
    assert_eq!((answer.text().as_str(), set.is_some()), ("2", true));
    rig.set(Route { leader: true, ..route("example.com", "s") }).await;
    assert_eq!(ask(&rig, "").await.1, None);
    assert_eq!(open.bytes(4).await, b"1\r\nx", "the open response goes on");
    eventually(1, async || one.connections()).await;
}
