//! Backends that take connections and answer nothing, as a stopped process does, and others that only seem so.

use std::sync::Arc;
use std::time::Duration;

use flynn_router::{Limits, Settings};
use tokio::sync::Semaphore;

use crate::backend::Backend;
use crate::rig::{Rig, eventually, members, route, settings};

fn impatient() -> Settings {
    Settings { limits: Limits { backend_silence: Duration::from_millis(100), ..Limits::default() }, ..settings() }
}

#[tokio::test]
async fn a_request_leaves_a_backend_that_hangs_unless_it_changes_something() {
    let silent = Backend::scripted(async |mut peer| drop(peer.rest().await)).await;
    let rig = Rig::with(impatient(), vec![route("example.com", "s")], vec![members("s", &[silent.address])]).await;
    let (mut get, mut put) = (rig.client().await, rig.client().await);
    get.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    put.send("PUT / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\r\n").await;
    // Both wait there, and there is nobody else.
    eventually(true, async || silent.connections() >= 3).await;
    let good = Backend::named("good").await;
    rig.members(members("s", &[silent.address, good.address])).await;
    assert_eq!(get.answer(false).await.text(), "good");
    for _ in 0..20 {
        assert_eq!(rig.get("example.com").await, "200 good", "new requests avoid it");
    }
    let moved = tokio::time::timeout(Duration::from_millis(500), put.head()).await;
    assert!(moved.is_err(), "it may be carried out where it is, later");
}

#[tokio::test]
async fn a_slow_answer_is_waited_for_where_a_ping_is_answered() {
    let (released, scripts_released) = {
        let released = Arc::new(Semaphore::new(0));
        (Arc::clone(&released), released)
    };
    let slow = Backend::scripted(move |mut peer| {
        let released = Arc::clone(&scripts_released);
        async move {
            let head = peer.head_of_request().await;
            if !head.starts_with("OPTIONS * ") {
                drop(released.acquire().await);
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").await;
        }
    })
    .await;
    let rig = Rig::with(impatient(), vec![route("example.com", "s")], vec![members("s", &[slow.address])]).await;
    let mut client = rig.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    eventually(true, async || slow.connections() >= 1).await;
    let other = Backend::named("other").await;
    rig.members(members("s", &[slow.address, other.address])).await;
    eventually(true, async || slow.connections() >= 4).await;
    released.add_permits(1);
    assert_eq!(client.answer(false).await.text(), "slow");
    assert_eq!(other.connections(), 0);
}
