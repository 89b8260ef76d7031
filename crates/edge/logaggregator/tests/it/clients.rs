//! Clients of the API.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::rig::{APP, Aggregator, frame, until};

/// Sends lines `begin..end` of the app, each with this text behind its number.
async fn send(aggregator: &Aggregator, lines: std::ops::Range<u32>, text: &str) {
    let mut stream = TcpStream::connect(aggregator.syslog).await.unwrap();
    for number in lines {
        stream.write_all(&frame(APP, "h", number, number, &format!("{number}{text}"))).await.unwrap();
    }
    stream.shutdown().await.unwrap();
}

#[tokio::test]
async fn e4_queries_behave_as_the_table_says() {
    let aggregator = Aggregator::start().await;
    send(&aggregator, 0..20, "").await;
    aggregator.wait_for(20).await;
    let all: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(aggregator.texts("?lines=0").await, all);
    assert_eq!(aggregator.texts("?lines=3").await, all[17..]);
    assert_eq!(aggregator.texts("?lines=10000").await, all);
    let (mut new, mut last) = (aggregator.follow("").await, aggregator.follow("&lines=2").await);
    assert_eq!(last.texts(2).await, all[18..]);
    send(&aggregator, 20..22, "").await;
    assert_eq!(new.texts(2).await, ["20", "21"]);
    assert_eq!(last.texts(2).await, ["20", "21"]);
    for lines in ["10001", "-1"] {
        let (status, body) = aggregator.get(&format!("/log/{APP}?lines={lines}")).await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["code"]), (400, &"validation_error".into()));
        assert_eq!(body["message"], "lines lines must be an integer between 0 and 10000");
    }
    assert_eq!(aggregator.get("/log/unknown").await, (200, String::new()));
    let (status, body) = aggregator.get("/.well-known/status").await;
    assert!(status == 200 && body.contains(r#""status": "healthy""#), "{body}");
    assert_eq!(aggregator.get("/nothing").await.0, 404);
    aggregator.stop().await; // with two followers
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nobody_up_and_memory_stays_bounded() {
    let aggregator = Aggregator::start_at(1, 0, None, |config| config.memory_bytes = 8 << 20).await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        slow.push(aggregator.follow("&lines=10000").await);
    }
    let mut quick = aggregator.follow("").await;
    let text = "x".repeat(8000);
    for round in 0..20 {
        send(&aggregator, round * 100..round * 100 + 100, &text).await;
        let texts = quick.texts(100).await;
        assert!(texts[0].starts_with(&format!("{}x", round * 100)), "{}", &texts[0][..10]);
    }
    let kept = aggregator.texts("").await.len();
    assert!((700..1050).contains(&kept), "{kept} lines of 8000 bytes in 8 MiB");
    // A slow one goes on at last; what was gone by then it lost.
    let first = slow.remove(0).texts(1).await;
    assert!(first[0].ends_with('x'));
}

#[tokio::test]
async fn many_channels_are_kept_apart_and_share_the_memory() {
    let aggregator = Aggregator::start_at(1, 0, None, |config| config.memory_bytes = 4 << 20).await;
    let mut stream = TcpStream::connect(aggregator.syslog).await.unwrap();
    for number in 0..20_000_u32 {
        let app = format!("app{number}");
        stream.write_all(&frame(&app, "h", number, number, &app)).await.unwrap();
    }
    stream.write_all(&frame(APP, "h", 20_000, 20_000, "last")).await.unwrap();
    aggregator.wait_for(1).await;
    let (_, snapshot) = aggregator.get("/snapshot").await;
    let kept = snapshot.matches("[flynn seq=").count();
    assert!((4_000..14_000).contains(&kept), "{kept}");
    let (_, body) = aggregator.get("/log/app19999").await;
    assert!(body.contains(r#""msg":"app19999""#) || body.is_empty(), "{body}");
    assert!(!body.contains("app19998"));
}

#[tokio::test]
async fn clients_that_leave_are_forgotten() {
    let aggregator = Aggregator::start().await;
    for _ in 0..50 {
        drop(aggregator.follow("").await);
    }
    send(&aggregator, 0..1, "").await;
    aggregator.wait_for(1).await;
    let mut follower = aggregator.follow("&lines=1").await;
    assert_eq!(follower.texts(1).await, ["0"]);
    // Still there after the others have gone.
    until("a new line", async || {
        send(&aggregator, 1..2, "").await;
        tokio::time::timeout(Duration::from_secs(1), follower.texts(1)).await.ok()
    })
    .await;
}
