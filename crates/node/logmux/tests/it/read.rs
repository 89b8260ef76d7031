//! Reading logs: history, following, filters (spec flynn-host 10.3, G7).

use bytes::Bytes;
use flynn_logmux::{History, LogLine, StreamOptions};
use futures_util::StreamExt as _;

use crate::support::{APP, Host, in_time, until};

async fn all(stream: impl futures_util::Stream<Item = Result<LogLine, flynn_logmux::ReadError>>) -> Vec<String> {
    let lines: Vec<_> = in_time("the stream's end", stream.collect()).await;
    lines.into_iter().map(|line| String::from_utf8(line.unwrap().text.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn history_is_filtered_and_ends() {
    let host = Host::new();
    let mux = host.mux().await;
    let (mut one, mut two) = (host.spool("host1-a"), host.spool("host1-b"));
    let logs = [
        mux.follow_job(host.job("host1-a", APP), one.progress()),
        mux.follow_job(host.job("host1-b", APP), two.progress()),
    ];
    for i in 0..100 {
        one.write(1, format!("a{i}\n").as_bytes());
        one.write(2, format!("e{i}\n").as_bytes());
        two.write(1, format!("b{i}\n").as_bytes());
    }
    one.close();
    two.close();
    for log in &logs {
        in_time("all output", log.finished()).await;
    }
    let job = |id: &str| StreamOptions { job: Some(id.parse().unwrap()), ..StreamOptions::default() };
    assert_eq!(all(mux.stream(APP, StreamOptions::default())).await.len(), 300);
    assert_eq!(all(mux.stream(APP, job("host1-b"))).await, (0..100).map(|i| format!("b{i}")).collect::<Vec<_>>());
    let last = StreamOptions { streams: vec![1], history: History::Last(3), ..job("host1-a") };
    assert_eq!(all(mux.stream(APP, last.clone())).await, ["a97", "a98", "a99"]);
    // A job that has ended is not waited for.
    let followed = StreamOptions { follow: true, ..last };
    assert_eq!(all(mux.stream(APP, followed)).await, ["a97", "a98", "a99"]);
    for id in ["host1-x", "host1"] {
        assert_eq!(all(mux.stream(APP, StreamOptions { follow: true, ..job(id) })).await, [""; 0]);
    }
    assert_eq!(all(mux.stream("no-such-app", job("host1-a"))).await, [""; 0]);
    let future = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    assert_eq!(all(mux.stream(APP, StreamOptions { since: Some(future), ..job("host1-a") })).await, [""; 0]);
    let line = mux.stream(APP, job("host1-a")).next().await.unwrap().unwrap();
    assert_eq!((line.job_id.as_str(), line.process_type.as_str(), line.stream), ("host1-a", "web", 1));
    assert!((chrono::Utc::now() - line.timestamp).num_seconds() < 60);
    mux.shutdown().await;
    // After a restart, too.
    let mux = host.mux().await;
    assert_eq!(all(mux.stream(APP, job("host1-b"))).await.len(), 100);
}

#[tokio::test]
async fn attached_clients_get_every_line_once_up_to_the_end() {
    let host = Host::new();
    let mux = host.mux().await;
    let id = "host1-a".parse().unwrap();
    let mut spool = host.spool("host1-a");
    let log = mux.follow_job(host.job("host1-a", ""), spool.progress());
    let mut early = mux.attach(&id, "", false, true);
    spool.write(1, b"one\n");
    spool.write(2, b"two\xff\n");
    assert_eq!(in_time("a line", early.next()).await.unwrap().unwrap(), (1, Bytes::from_static(b"one\n")));
    until("both lines", || (host.logged("").len() == 2).then_some(())).await;
    let late = mux.attach(&id, "", true, true);
    let live = mux.attach(&id, "", false, true);
    let past = mux.attach(&id, "", true, false);
    spool.write(3, b"three");
    spool.close();
    in_time("all output", log.finished()).await;
    let ended = mux.attach(&id, "", false, true);
    let mut found = Vec::new();
    for stream in [early, late, live, past, ended] {
        let lines: Vec<_> = in_time("the stream's end", stream.collect::<Vec<_>>()).await;
        found.push(lines.into_iter().map(|line| line.unwrap()).collect::<Vec<_>>());
    }
    let [one, two, three] =
        [(1, Bytes::from_static(b"one\n")), (2, Bytes::from_static(b"two\xff\n")), (3, Bytes::from_static(b"three\n"))];
    let expected = [
        vec![two.clone(), three.clone()],
        vec![one.clone(), two.clone(), three.clone()],
        vec![three],
        vec![one, two],
        vec![],
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn an_app_can_be_followed_before_it_logs_and_a_slow_reader_holds_up_nobody() {
    let host = Host::new();
    let mux = host.mux().await;
    let options = StreamOptions { follow: true, history: History::None, ..StreamOptions::default() };
    let mut slow = mux.stream(APP, options.clone());
    let mut quick = mux.stream(APP, options);
    let mut spool = host.spool("host1-a");
    let log = mux.follow_job(host.job("host1-a", APP), spool.progress());
    for i in 0..20_000 {
        spool.write(1, format!("{i}\n").as_bytes());
    }
    spool.close();
    in_time("all output", log.finished()).await;
    for stream in [&mut quick, &mut slow] {
        for i in 0..20_000 {
            let line = in_time("a line", stream.next()).await.unwrap().unwrap();
            assert_eq!(line.text, i.to_string());
        }
    }
    mux.shutdown().await;
    assert!(in_time("the end", quick.next()).await.is_none(), "followers end with the mux");
}
