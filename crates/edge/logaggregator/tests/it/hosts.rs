//! Real log muxes send to it (spec operations section 18.E).

use crate::rig::{Aggregator, Discovered, Host, until};

#[tokio::test]
async fn e1_lines_arrive_split_as_the_host_splits_them() {
    let aggregator = Aggregator::start().await;
    let mut host = Host::start("host1", aggregator.api.port()).await;
    host.send_to(&aggregator).await;
    for line in ["line1", "line2", &"x".repeat(10_050)] {
        host.line(line);
    }
    let texts = aggregator.wait_for(4).await;
    assert_eq!(texts, ["line1", "line2", &"x".repeat(10_000), &"x".repeat(50)]);
    let (_, cursors) = aggregator.get("/cursors").await;
    let cursors: serde_json::Value = serde_json::from_str(&cursors).unwrap();
    assert_eq!(cursors["host1"]["seq"], 4, "{cursors}");
}

#[tokio::test]
async fn e2_a_replacement_has_all_lines_again_in_order_and_once() {
    let first = Aggregator::start().await;
    let mut hosts = [Host::start("host1", first.api.port()).await, Host::start("host2", first.api.port()).await];
    for host in &mut hosts {
        host.send_to(&first).await;
    }
    for line in ["line1", "line2", "line3", "line4"] {
        let count = first.texts("").await.len();
        hosts[count % 2].line(line);
        first.wait_for(count + 1).await;
    }
    // The port of the API is what hosts are told; another instance is at another address.
    let port = first.api.port();
    first.kill();
    let second = Aggregator::start_at(2, port, None, |_| {}).await;
    let mut follower = second.follow("&lines=10").await;
    for host in &mut hosts {
        host.send_to(&second).await;
    }
    let mut texts = follower.texts(4).await;
    texts.sort(); // as two hosts replay at once
    assert_eq!(texts, ["line1", "line2", "line3", "line4"]);
    assert_eq!(second.texts("").await, ["line1", "line2", "line3", "line4"]);
    hosts[0].line("line5");
    assert_eq!(follower.texts(1).await, ["line5"]);
    assert!(hosts[0].folder().exists());
}

#[tokio::test]
async fn e3_a_second_instance_begins_with_all_that_the_leader_has() {
    let discovered = Discovered::start().await;
    let first = Aggregator::start_at(1, 0, Some(&discovered), |_| {}).await;
    discovered.registered(1).await;
    let mut host = Host::start("host1", first.api.port()).await;
    host.send_to(&first).await;
    for line in 0..1500 {
        host.line(&format!("line{line}"));
    }
    let texts = first.wait_for(1500).await;
    let second = Aggregator::start_at(2, first.api.port(), Some(&discovered), |_| {}).await;
    discovered.registered(2).await;
    // From the leader alone: no host sends to it yet.
    assert_eq!(second.texts("").await, texts);
    assert_eq!(second.get("/cursors").await, first.get("/cursors").await);
    host.send_to(&second).await;
    host.line("live");
    for aggregator in [&first, &second] {
        assert_eq!(aggregator.wait_for(1501).await.last().unwrap(), "live");
    }
    let sent = until("the second sink", async || {
        let status = host.mux.sinks().into_iter().find(|sink| sink.id == second.syslog.to_string())?;
        (status.state.sent_messages > 0).then_some(status.state.sent_messages)
    })
    .await;
    assert_eq!(sent, 1, "what the leader gave is not sent again");
    first.stop().await;
    discovered.registered(1).await;
}

#[tokio::test]
async fn a_leader_that_talks_nonsense_or_hangs_is_done_without() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let good = String::from_utf8(crate::rig::frame("a", "h", 1, 1, "x")).unwrap();
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    for (name, answer) in [
        ("cut off within the body", Some(format!("{head}{}", chunk(&good)))),
        ("cut off within a frame", Some(format!("{head}{}0\r\n\r\n", chunk(&format!("{good}{}", &good[..30]))))),
        ("something else", Some(format!("{head}{}0\r\n\r\n", chunk(&format!("{good}\u{1}gob"))))),
        ("refused", Some("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned())),
        ("silent", None),
    ] {
        let discovered = Discovered::start().await;
        let leader = tokio::net::TcpListener::bind("127.0.0.3:0").await.unwrap();
        let address = leader.local_addr().unwrap();
        let instance = flynn_types::discoverd::Instance::new("tcp", &address.to_string(), Default::default());
        let registration = discovered.client.register("logaggregator", instance);
        assert!(registration.wait(flynn_patience::seconds(30)).await);
        let answering = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = leader.accept().await {
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await;
                match &answer {
                    Some(answer) => drop(stream.write_all(answer.as_bytes()).await),
                    None => open.push(stream),
                }
            }
        });
        let limit = std::time::Duration::from_millis(500);
        let change = |config: &mut flynn_logaggregator::Config| {
            config.peer_api_port = address.port();
            config.snapshot_limit = if name == "silent" { limit } else { flynn_patience::seconds(30) };
        };
        let aggregator = Aggregator::start_at(1, 0, Some(&discovered), change).await;
        discovered.registered(2).await;
        assert_eq!(aggregator.get("/cursors").await, (200, "{}".to_owned()), "{name}");
        assert_eq!(aggregator.get("/log/a").await, (200, String::new()), "{name}");
        answering.abort();
    }
}
