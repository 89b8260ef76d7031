//! The client against a small discoverd that restarts, hangs and forgets.

mod mini;

use std::collections::BTreeMap;
use std::time::Duration;

use flynn_discoverd_client::{Client, DiscoverdError, Watch};
use flynn_types::discoverd::{Event, EventKind, Instance, ServiceConfig};
use mini::{Mini, client};
use tokio::net::TcpListener;

/// Generous: machines are slow at times.
fn limit() -> Duration {
    flynn_patience::seconds(20)
}

fn instance(n: u8, version: &str) -> Instance {
    Instance::new("tcp", &format!("10.0.0.{n}:80"), BTreeMap::from([("version".into(), version.into())]))
}

fn told(event: &Event) -> String {
    let what = event.instance.as_ref().map(|instance| instance.addr.as_str());
    let what = what.or(event.service_meta.as_ref().and_then(|meta| meta.data.as_ref()).map(|data| data.get()));
    format!("{} {}", event.kind, what.unwrap_or("-"))
}

/// Events up to the next `current`.
async fn round(watch: &mut Watch) -> Vec<String> {
    let mut events = Vec::new();
    loop {
        let event = tokio::time::timeout(limit(), watch.next()).await.expect("no event");
        if event.kind == EventKind::Current {
            return events;
        }
        events.push(told(&event));
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(limit(), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain until {what}");
}

#[tokio::test]
async fn a_watch_survives_restarts_and_tells_exactly_what_changed_meanwhile() {
    let mini = Mini::new();
    let server = mini.start(None).await;
    let address = server.address;
    for n in 1..=3 {
        mini.put("web", &instance(n, "1"));
    }
    let mut watch = client(&[address]).watch("web");
    let first = ["up 10.0.0.1:80", "up 10.0.0.2:80", "up 10.0.0.3:80", "leader 10.0.0.1:80"];
    assert_eq!(round(&mut watch).await, first);

    server.stop().await;
    let server = mini.start(Some(address)).await;
    assert!(round(&mut watch).await.is_empty(), "nothing changed");

    server.stop().await;
    mini.remove("web", &instance(1, "1").id);
    mini.put("web", &instance(2, "2"));
    mini.put("web", &instance(4, "1"));
    // Asked impatiently: a call that is given up neither loses events nor keeps it from connecting.
    let hurried = async {
        loop {
            if let Ok(event) = tokio::time::timeout(Duration::from_millis(1), watch.next()).await {
                return event;
            }
        }
    };
    let server = mini.start(Some(address)).await;
    let begin = told(&tokio::time::timeout(limit(), hurried).await.unwrap());
    assert_eq!(begin, "update 10.0.0.2:80");
    assert_eq!(round(&mut watch).await, ["up 10.0.0.4:80", "down 10.0.0.1:80", "leader 10.0.0.2:80"]);

    // All gone, the leader too: told by nobody but the lack of it.
    server.stop().await;
    for n in 2..=4 {
        mini.remove("web", &instance(n, "1").id);
    }
    let _server = mini.start(Some(address)).await;
    let mut gone = round(&mut watch).await;
    assert_eq!(gone.pop().unwrap(), "leader -");
    gone.sort();
    assert_eq!(gone, ["down 10.0.0.2:80", "down 10.0.0.3:80", "down 10.0.0.4:80"]);
    // And live again.
    mini.put("web", &instance(9, "1"));
    assert_eq!(told(&watch.next().await), "up 10.0.0.9:80");
}

#[tokio::test]
async fn leaders_are_told_once_each() {
    let mini = Mini::new();
    let server = mini.start(None).await;
    let mut leaders = client(&[server.address]).watch_leader("web");
    assert_eq!(leaders.next().await, None);
    mini.put("web", &instance(1, "1"));
    mini.put("web", &instance(2, "1"));
    assert_eq!(leaders.next().await.unwrap().addr, "10.0.0.1:80");
    let address = server.address;
    server.stop().await;
    let _server = mini.start(Some(address)).await;
    mini.remove("web", &instance(1, "1").id);
    assert_eq!(tokio::time::timeout(limit(), leaders.next()).await.unwrap().unwrap().addr, "10.0.0.2:80");
}

#[tokio::test]
async fn servers_that_are_dead_or_hang_cost_time_but_no_result() {
    let mini = Mini::new();
    let server = mini.start(None).await;
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead_address = dead.local_addr().unwrap();
    drop(dead);
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap(); // accepts in the kernel, never answers
    let client = client(&[dead_address, hangs.local_addr().unwrap(), server.address])
        .with_request_timeout(Duration::from_millis(200));
    client.add_service("web", &ServiceConfig::default()).await.unwrap();
    client.add_service("web", &ServiceConfig::default()).await.unwrap();
    assert_eq!(client.services().await.unwrap(), ["web"]);
    // From now on the one that answered is asked first.
    let begin = std::time::Instant::now();
    assert!(client.instances("web").await.unwrap().is_empty());
    assert!(begin.elapsed() < Duration::from_millis(200));
    let alone = Client::from_list(&dead_address.to_string()).unwrap().with_patience(Duration::from_millis(300));
    assert!(
        matches!(alone.services().await, Err(DiscoverdError::Unreachable(reason)) if reason.contains("connect to"))
    );
}

#[tokio::test]
async fn waiting_for_instances_ends_with_them_or_at_its_limit() {
    let mini = Mini::new();
    let server = mini.start(None).await;
    let client = client(&[server.address]);
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.wait_for_instances("web", 2, limit()).await })
    };
    mini.put("web", &instance(2, "1"));
    mini.put("web", &instance(1, "1"));
    let found = waiting.await.unwrap().unwrap();
    assert_eq!(found.iter().map(|i| i.addr.as_str()).collect::<Vec<_>>(), ["10.0.0.2:80", "10.0.0.1:80"]);
    let err = client.wait_for_instances("web", 3, Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(err.to_string(), "discoverd: timed out waiting for instances");
}

#[tokio::test]
async fn a_registration_beats_changes_recovers_and_withdraws() {
    let mini = Mini::new();
    let server = mini.start(None).await;
    let registration = client(&[server.address]).register("web", instance(1, "1"));
    // The service does not exist: made on the way.
    assert!(registration.wait(limit()).await);
    let data = || mini.data.lock().unwrap();
    assert_eq!(data().services["web"].instances.len(), 1);

    registration.update(instance(1, "2"));
    let version = |n: u8| data().services["web"].instances.get(&instance(n, "").id).map(|i| i.meta["version"].clone());
    until("the change arrives", || version(1).as_deref() == Some("2")).await;

    // Forgotten by the server, which then fails for a while: soon back, and faster than the usual beat.
    data().failing = true;
    registration.update(instance(1, "3"));
    let before = data().log.len();
    until("beats fail", || data().log.len() > before + 5).await;
    assert!(!*registration.registered().borrow());
    let times: Vec<_> = data().log.iter().rev().take(5).map(|(at, _)| *at).collect();
    let (four, usual) = (times[0] - times[4], Duration::from_millis(4 * 3000));
    assert!(four >= Duration::from_millis(4 * 200) && four < usual, "{four:?}");
    data().services.clear();
    data().failing = false;
    until("it is back", || data().services.contains_key("web") && version(1).is_some()).await;

    // Moved: the old address goes.
    registration.update(instance(2, "1"));
    until("it moved", || version(2).is_some() && version(1).is_none()).await;

    registration.deregister().await;
    assert!(data().services["web"].instances.is_empty());
    assert!(data().log.last().unwrap().1.starts_with("delete"), "nothing comes after the removal");
}

#[tokio::test]
async fn heartbeats_come_every_three_to_five_seconds_and_end_with_their_owner() {
    let mini = Mini::new();
    mini.data.lock().unwrap().services.insert("web".into(), mini::Service::default());
    let server = mini.start(None).await;
    let registration = client(&[server.address]).register("web", instance(1, "1"));
    let beats = || mini.data.lock().unwrap().log.iter().map(|(at, _)| *at).collect::<Vec<_>>();
    until("two beats", || beats().len() == 2).await;
    let pause = beats()[1] - beats()[0];
    assert!((2900..5500).contains(&pause.as_millis()), "{pause:?}");
    drop(registration);
    tokio::time::sleep(Duration::from_secs(6)).await; // longer than any beat
    assert_eq!(beats().len(), 2);
}

#[tokio::test]
async fn documents_are_written_by_one_of_many_at_a_time() {
    let mini = Mini::new();
    let server = mini.start(None).await;
    let count = client(&[server.address]).document::<u32>("count");
    assert_eq!(count.read().await.unwrap(), None);
    let mut watch = count.watch();
    let first = count.compare_and_set(0, 0).await.unwrap();
    assert!(count.compare_and_set(0, 7).await.unwrap_err().is_conflict());
    assert!(count.compare_and_set(first.index + 5, 7).await.unwrap_err().is_conflict());
    assert_eq!(watch.next().await.unwrap().value, 0);
    let rivals = (0..4).map(|_| {
        let count = client(&[server.address]).document::<u32>("count");
        tokio::spawn(async move {
            for _ in 0..10 {
                count.update(|old| old.map(|n| n + 1)).await.unwrap().unwrap();
            }
        })
    });
    for rival in rivals.collect::<Vec<_>>() {
        rival.await.unwrap();
    }
    assert_eq!(count.read().await.unwrap().unwrap().value, 40);
    assert_eq!(count.update(|_| None).await.unwrap(), None);
    let mut seen = 0;
    while seen < 40 {
        let next = tokio::time::timeout(limit(), watch.next()).await.unwrap().unwrap().value;
        assert!(next > seen, "{next} after {seen}");
        seen = next;
    }
    let text = client(&[server.address]).document::<String>("count");
    assert!(matches!(text.read().await, Err(DiscoverdError::Document { .. })));
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_not_called_refused() {
    let mini = Mini::new();
    let server = mini.start(None).await;
    let client = client(&[server.address]).with_request_timeout(Duration::from_millis(200));
    let document = client.document::<String>("doc");
    client.add_service("doc", &ServiceConfig::default()).await.unwrap();
    // Applied, its answer lost, and refused at the second try: found again as ours.
    mini.data.lock().unwrap().swallow = 1;
    let first = document.compare_and_set(0, "ours".into()).await.unwrap();
    assert_eq!(document.read().await.unwrap(), Some(first.clone()));
    // The same, but overwritten by somebody before we look: nobody can know.
    mini.data.lock().unwrap().swallow = 1;
    let writing = {
        let document = document.clone();
        tokio::spawn(async move { document.compare_and_set(first.index, "again ours".into()).await })
    };
    let written = || mini.data.lock().unwrap().services["doc"].meta.clone().filter(|meta| meta.index > first.index);
    until("it is applied", || written().is_some()).await;
    document.compare_and_set(written().unwrap().index, "theirs".into()).await.unwrap();
    let err = writing.await.unwrap().unwrap_err();
    assert!(matches!(err, DiscoverdError::Uncertain { .. }) && !err.is_conflict(), "{err}");
}
