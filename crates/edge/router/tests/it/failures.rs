//! Backends that are not there, or fail.

use std::time::Duration;

use flynn_router::{Limits, Page, PageError, Settings};
use http::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::Backend;
use crate::rig::{Refusing, Rig, cookie_key, eventually, members, route, settings, sticky, within};

const UNAVAILABLE: &str = "503 Service Unavailable\n";

#[tokio::test]
async fn f1_f8_without_backends_or_route_the_router_answers_itself() {
    let rig = Rig::start(vec![route("example.com", "s")], vec![]).await;
    assert_eq!(rig.get("example.com").await, UNAVAILABLE);
    assert_eq!(rig.get("nowhere").await, "404 Not Found\n");
    let answer = rig.client().await.get("example.com", "/").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.header("x-request-id").map(str::len), Some(36));
}

#[tokio::test]
async fn f2_backends_that_all_refuse_are_as_none() {
    let refusing = [Refusing::new(), Refusing::new()];
    let addresses = refusing.each_ref().map(Refusing::address);
    let rig = Rig::start(vec![sticky("example.com", "s")], vec![members("s", &addresses)]).await;
    assert_eq!(rig.get("example.com").await, UNAVAILABLE);
    let upgrade = "GET / HTTP/1.1\r\nHost: example.com\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let answer = rig.client().await.ask(upgrade).await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "Service Unavailable\n"));
}

#[tokio::test]
async fn f3_a_dead_backend_in_a_cookie_is_passed_over() {
    let (dead, alive) = (Refusing::new(), Backend::named("alive").await);
    let services = vec![members("s", &[dead.address(), alive.address])];
    let rig = Rig::start(vec![sticky("example.com", "s")], services).await;
    let cookie = cookie_key().seal(dead.address());
    for (method, body) in [("GET", ""), ("POST", "small")] {
        for upgrade in [false, true] {
            let lines = if upgrade { "Connection: upgrade\r\nUpgrade: x\r\n" } else { "" };
            let lines = format!("{lines}Content-Length: {}\r\nCookie: _backend={cookie}", body.len());
            let mut client = rig.client().await;
            let request = format!("{method} / HTTP/1.1\r\nHost: example.com\r\n{lines}\r\n\r\n{body}");
            let answer = client.ask(request).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "alive"), "{method} {upgrade}");
            assert_eq!(alive.last().body.as_ref(), body.as_bytes());
            assert_eq!(answer.header("connection") == Some("close"), upgrade);
        }
    }
}

#[tokio::test]
async fn f4_a_request_tries_at_most_four_backends() {
    let refusing: Vec<_> = (0..5).map(|_| Refusing::new()).collect();
    let addresses: Vec<_> = refusing.iter().map(Refusing::address).collect();
    let rig = Rig::start(vec![route("example.com", "s")], vec![members("s", &addresses)]).await;
    assert_eq!(rig.get("example.com").await, UNAVAILABLE);
    assert_eq!(rig.metric("flynn_router_dials_failed_total "), Some(4.0));
}

#[tokio::test]
async fn backends_that_refused_are_not_tried_again_at_once() {
    let refusing: Vec<_> = (0..5).map(|_| Refusing::new()).collect();
    let good = Backend::named("good").await;
    let mut addresses: Vec<_> = refusing.iter().map(Refusing::address).collect();
    addresses.push(good.address);
    let rig = Rig::start(vec![route("example.com", "s")], vec![members("s", &addresses)]).await;
    eventually("200 good".to_owned(), async || rig.get("example.com").await).await;
    let failed = rig.metric("flynn_router_dials_failed_total ");
    assert!(failed <= Some(5.0), "{failed:?}");
}

#[tokio::test]
async fn f5_what_may_have_been_done_is_not_done_again() {
    let closing = || Backend::scripted(async |_| ());
    let backends = [closing().await, closing().await];
    let addresses = backends.each_ref().map(|backend| backend.address);
    for lines in ["", "Connection: upgrade\r\nUpgrade: x\r\n"] {
        let before = backends[0].connections() + backends[1].connections();
        let rig = Rig::start(vec![route("example.com", "s")], vec![members("s", &addresses)]).await;
        let request = format!("POST / HTTP/1.1\r\nHost: example.com\r\n{lines}Content-Length: 1\r\n\r\nx");
        let answer = rig.client().await.ask(request).await;
        assert_eq!((answer.status, answer.text().as_str()), (503, "Service Unavailable\n"));
        assert_eq!(backends[0].connections() + backends[1].connections(), before + 1);
    }
}

#[tokio::test]
async fn what_changes_nothing_is_asked_of_another_backend() {
    let (closing, good) = (Backend::scripted(async |_| ()).await, Backend::named("good").await);
    let services = vec![members("s", &[closing.address, good.address])];
    let rig = Rig::start(vec![route("example.com", "s")], services).await;
    for _ in 0..50 {
        assert_eq!(rig.get("example.com").await, "200 good");
    }
    assert!(closing.connections() > 0, "the other one was tried");
}

#[tokio::test]
async fn f6_the_operators_page_is_shown_instead() {
    let pages = Backend::named("<h1>soon</h1>").await;
    let page = Page::fetch(&format!("http://{}/503.html", pages.address)).await.expect("the page is there");
    let settings = Settings { unavailable_page: Some(page), ..settings() };
    let rig = Rig::with(settings, vec![route("example.com", "s")], vec![]).await;
    let answer = rig.client().await.get("example.com", "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "<h1>soon</h1>"));
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(rig.get("nowhere").await, "404 Not Found\n");
}

#[tokio::test]
async fn f7_a_page_that_cannot_be_fetched_is_an_error_and_no_more() {
    let refusing = Refusing::new();
    let failed = Page::fetch(&format!("http://{}/", refusing.address())).await;
    assert!(matches!(failed, Err(PageError::Fetch { .. })), "{failed:?}");
    for status in [201, 404] {
        let pages =
            Backend::answering(move |_| Response::builder().status(status).body("no".into()).expect("a response"))
                .await;
        assert!(Page::fetch(&format!("http://{}/", pages.address)).await.is_err(), "{status}");
    }
}

#[tokio::test]
async fn f9_an_upload_that_breaks_off_is_the_clients_fault() {
    let backend = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        backend.rest().await;
    })
    .await;
    let rig = Rig::start(vec![route("example.com", "s")], vec![members("s", &[backend.address])]).await;
    for _ in 0..5 {
        let before = backend.connections();
        let mut client = rig.client().await;
        client.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 100\r\n\r\npart").await;
        eventually(before + 1, async || backend.connections()).await;
        drop(client);
    }
    let line = "flynn_router_requests_total{route=\"example.com/\",service=\"s\",class=\"4xx\"} ";
    eventually(Some(5.0), async || rig.metric(line)).await;
    let good = Backend::named("good").await;
    rig.members(members("s", &[good.address])).await;
    assert_eq!(rig.get("example.com").await, "200 good");
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_a_failure_of_its_backend() {
    let garbage = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        backend.send("garbage\r\n\r\n").await;
    })
    .await;
    let good = Backend::named("good").await;
    let services = vec![members("s", &[garbage.address, good.address])];
    let rig = Rig::start(vec![route("example.com", "s")], services).await;
    for _ in 0..50 {
        assert_eq!(rig.get("example.com").await, "200 good");
    }
    assert!(garbage.connections() <= 4, "it is passed over after a few: {}", garbage.connections());
}

#[tokio::test]
async fn a_backend_that_takes_nothing_is_waited_for_only_so_long() {
    let frozen = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        // It takes the begin of the body and no more, and goes when the router does.
        std::future::pending::<()>().await;
    })
    .await;
    let limits = Limits { response_head: Duration::from_millis(300), ..Limits::default() };
    let services = vec![members("s", &[frozen.address])];
    let rig = Rig::with(Settings { limits, ..settings() }, vec![route("example.com", "s")], services).await;
    let mut client = rig.client().await;
    client.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1000000000\r\n\r\n").await;
    let (mut reads, mut writes) = client.stream.into_split();
    let sending = tokio::spawn(async move { while writes.write_all(&[b'x'; 1 << 16]).await.is_ok() {} });
    let mut status = [0; 12];
    within(reads.read_exact(&mut status)).await.expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 503");
    sending.abort();
}
