//! Rotation under readers (spec flynn-host 10.2).

use std::time::Duration;

use flynn_logmux::{LogMux, StreamOptions};
use futures_util::StreamExt as _;

use crate::support::{APP, Host, in_time};

#[tokio::test(flavor = "multi_thread")]
async fn followers_miss_nothing_while_files_are_rotated() {
    let host = Host::new();
    let mut config = host.config();
    config.limits.file_bytes = 50_000;
    let mux = LogMux::open(config).await.unwrap();
    let mut spool = host.spool("host1-a");
    let log = mux.follow_job(host.job("host1-a", APP), spool.progress());
    let follow = StreamOptions { follow: true, job: Some("host1-a".parse().unwrap()), ..StreamOptions::default() };
    let mut lines = mux.stream(APP, follow);
    let mut read = 0;
    for i in 0..10_000 {
        spool.write(1, format!("{i} {}\n", "x".repeat(40)).as_bytes());
        // Within two files of the writer.
        while read + 300 < i {
            let line = in_time("a line", lines.next()).await.unwrap().unwrap();
            assert_eq!(line.text, format!("{read} {}", "x".repeat(40)));
            read += 1;
        }
    }
    spool.close();
    while let Some(line) = in_time("a line or the end", lines.next()).await {
        assert_eq!(line.unwrap().text, format!("{read} {}", "x".repeat(40)));
        read += 1;
    }
    assert_eq!(read, 10_000);
    in_time("all output", log.finished()).await;
    let mut names: Vec<String> = std::fs::read_dir(host.dir.path().join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names[0].starts_with(&format!("{APP}-20")) && names[0].len() == APP.len() + 1 + 23 + 4, "{names:?}");
    // History is the older file and the current one.
    let history: Vec<_> = mux.stream(APP, StreamOptions::default()).collect().await;
    assert!(history.len() > 300 && history.len() < 1000, "{}", history.len());
    assert!(history.last().unwrap().as_ref().unwrap().text.starts_with(b"9999 "));
}

#[tokio::test]
async fn old_logs_are_deleted() {
    let host = Host::new();
    let mux = host.mux().await;
    let mut spool = host.spool("host1-a");
    let log = mux.follow_job(host.job("host1-a", APP), spool.progress());
    spool.write(1, b"old\n");
    spool.close();
    in_time("all output", log.finished()).await;
    mux.shutdown().await;
    let path = host.dir.path().join("log").join("flynn-host.log");
    std::fs::write(&path, b"not ours").unwrap();
    let mut config = host.config();
    config.limits.max_age = Duration::ZERO;
    let mux = LogMux::open(config).await.unwrap();
    assert!(!mux.log_path(APP).exists() && path.exists());
    let lines: Vec<_> = mux.stream(APP, StreamOptions::default()).collect().await;
    assert!(lines.is_empty());
}
