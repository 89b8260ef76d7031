//! Hosts that send what they should not.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{APP, Aggregator, frame};

/// Whether the aggregator ends a connection that has sent this.
async fn ends(aggregator: &Aggregator, bytes: &[u8]) -> bool {
    let mut stream = TcpStream::connect(aggregator.syslog).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let limit = std::time::Duration::from_secs(1);
    tokio::time::timeout(limit, stream.read(&mut [0; 16])).await.is_ok()
}

#[tokio::test]
async fn what_is_no_frame_ends_the_connection_and_nothing_else() {
    let aggregator = Aggregator::start().await;
    for garbage in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"99999 ", b"123456", b"\x16\x03\x01", b"-1 x"] {
        let sent = [frame(APP, "h", 1, 1, "before"), garbage.to_vec()].concat();
        assert!(ends(&aggregator, &sent).await, "{}", String::from_utf8_lossy(garbage));
    }
    assert_eq!(aggregator.wait_for(1).await, ["before"]);
}

#[tokio::test]
async fn messages_without_structured_data_are_left_out_and_the_rest_goes_on() {
    let aggregator = Aggregator::start().await;
    let other = b"60 <190>1 2026-05-01T10:00:00Z h a p ID1 - no structured data....".to_vec();
    let sent = [&other[..63], b"5 hello", b"0 ", &frame(APP, "h", 1, 1, "after")].concat();
    assert!(!ends(&aggregator, &sent).await);
    assert_eq!(aggregator.wait_for(1).await, ["after"]);
    assert_eq!(aggregator.get("/log/a").await.1, "");
}

#[tokio::test]
async fn a_frame_may_come_a_byte_at_a_time_and_be_cut_off() {
    let aggregator = Aggregator::start().await;
    let mut stream = TcpStream::connect(aggregator.syslog).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let bytes = frame(APP, "h", 1, 1, "slow");
    for byte in &bytes {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.write_all(&frame(APP, "h", 2, 2, "cut off")[..40]).await.unwrap();
    drop(stream);
    assert_eq!(aggregator.wait_for(1).await, ["slow"]);
}
