//! No request is lost while everything behind the router changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use flynn_router::source::Change;
use flynn_types::router::Route;
use tokio::task::JoinSet;

use crate::backend::Backend;
use crate::client::Client;
use crate::rig::{LIMIT, Rig, members, route};

/// Rounds of change; in each one backend dies with its connections, and another one comes.
const ROUNDS: usize = 100;
const CLIENTS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_survive_backends_that_die_and_routes_that_change() {
    // One that stays: there is always a healthy backend.
    let steady = Backend::named("ok").await;
    let mut others = vec![Backend::named("ok").await, Backend::named("ok").await];
    let addresses =
        |others: &[Backend]| others.iter().map(|backend| backend.address).chain([steady.address]).collect::<Vec<_>>();
    let rig = Rig::start(vec![route("example.com", "s")], vec![members("s", &addresses(&others))]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let answers: [Arc<AtomicUsize>; CLIENTS] = std::array::from_fn(|_| Arc::default());
    let answered = || answers.each_ref().map(|answers| answers.load(Ordering::Relaxed));
    let mut clients = JoinSet::new();
    for asked in &answers {
        let (stop, asked, address) = (Arc::clone(&stop), Arc::clone(asked), rig.http());
        clients.spawn(async move {
            let mut client = Client::connect(address).await;
            while !stop.load(Ordering::Relaxed) {
                let answer = client.get("example.com", "/").await;
                assert_eq!((answer.status, answer.text().as_str(), answer.is_complete), (200, "ok", true));
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for round in 0..ROUNDS {
        // It dies first, as a killed process does; the router learns of it later, from others.
        drop(others.remove(0));
        // Each client goes on: a request that is slow would meet more dying backends than it is sent again.
        let (begin, before) = (std::time::Instant::now(), answered());
        while answered().iter().zip(before).any(|(now, before)| *now == before) {
            assert!(clients.try_join_next().is_none(), "a client failed, see above");
            assert!(begin.elapsed() < LIMIT, "requests go on");
            tokio::task::yield_now().await;
        }
        others.push(Backend::named("ok").await);
        rig.members(members("s", &addresses(&others))).await;
        rig.set(Route { disable_keep_alives: round % 5 == 4, sticky: round % 2 == 0, ..route("example.com", "s") })
            .await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.expect("no request failed");
    }
    assert!(answered().iter().all(|count| *count >= ROUNDS));
}

#[tokio::test]
async fn a_list_takes_away_no_instances_that_others_have_told() {
    let (listed, told) = (Backend::named("listed").await, Backend::named("told").await);
    let routes = || vec![route("a.org", "listed"), route("b.org", "told")];
    let rig = Rig::start(routes(), vec![members("listed", &[listed.address])]).await;
    rig.members(members("told", &[told.address])).await;
    for services in [vec![members("listed", &[listed.address])], vec![]] {
        let is_listed = !services.is_empty();
        rig.tell(Change::Everything { routes: routes(), services }).await;
        assert_eq!(rig.get("b.org").await, "200 told");
        assert_eq!(rig.get("a.org").await == "200 listed", is_listed, "a list is complete for what it lists");
    }
}
