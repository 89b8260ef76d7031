//! From the spool to the log (spec flynn-host G1 to G3).

use crate::support::{APP, Host, in_time, until};

fn texts(host: &Host) -> Vec<String> {
    host.logged(APP).into_iter().map(|(_, _, text)| text).collect()
}

#[tokio::test]
async fn lines_are_logged_as_the_spec_says() {
    let host = Host::new();
    let mux = host.mux().await;
    let mut spool = host.spool("host1-a");
    let log = mux.follow_job(host.job("host1-a", APP), spool.progress());
    spool.write(1, b"out one\nout ");
    spool.write(2, b"err\n");
    spool.write(3, b"init\n");
    spool.write(1, b"two\n\nlast without newline");
    spool.close();
    in_time("all output", log.finished()).await;
    let line = |stream, text: &str| (stream, "web.host1-a".to_owned(), text.to_owned());
    assert_eq!(
        host.logged(APP),
        [
            line('1', "out one"),
            line('2', "err"),
            line('3', "init"),
            line('1', "out two"),
            line('1', ""),
            line('1', "last without newline")
        ]
    );
    let bytes = std::fs::read_to_string(mux.log_path(APP)).unwrap();
    let first = bytes.lines().next().unwrap();
    let time = first.split(' ').nth(2).unwrap();
    assert_eq!(first, format!("117 <190>1 {time} host1 {APP} web.host1-a ID1 [flynn seq=\"1\"] out one"));
    assert!(time.len() == 27 && time.ends_with('Z') && bytes.contains("[flynn seq=\"6\"]"));
    assert_eq!(*log.acked().borrow(), spool.written());
    mux.shutdown().await;
}

#[tokio::test]
async fn long_lines_are_split() {
    let host = Host::new();
    let mux = host.mux().await;
    let mut spool = host.spool("host1-a");
    let log = mux.follow_job(host.job("host1-a", APP), spool.progress());
    spool.write(1, &[vec![b'x'; 25_000], b"\n".to_vec(), vec![b'y'; 10_000], b"\nz\n".to_vec()].concat());
    spool.close();
    in_time("all output", log.finished()).await;
    let lengths: Vec<usize> = texts(&host).iter().map(String::len).collect();
    assert_eq!(lengths, [10_000, 10_000, 5_000, 10_000, 1]);
}

#[tokio::test]
async fn a_line_that_is_finished_under_the_next_daemon_appears_once_and_whole() {
    // `dropped`: what the monitor was told it may delete is deleted before the second daemon starts.
    for dropped in [false, true] {
        let host = Host::new();
        let mut spool = host.spool("host1-a").segment_len(1000);
        let mux = host.mux().await;
        let log = mux.follow_job(host.job("host1-a", APP), spool.progress());
        spool.write(1, b"first\nhalf");
        // Far behind the beginning, so that it is kept in the cursor.
        for i in 0..3000 {
            spool.write(2, format!("{i} {}\n", "e".repeat(500)).as_bytes());
        }
        until("the other stream", || (texts(&host).len() == 3001).then_some(())).await;
        mux.shutdown().await;
        let acked = *log.acked().borrow();
        if dropped {
            assert!(acked > 1_000_000, "{acked}");
            spool.delete_before(acked);
        }
        drop(log);
        spool.write(1, b" and half\n");
        let mux = host.mux().await;
        let log = mux.follow_job(host.job("host1-a", APP), spool.progress());
        spool.write(1, b"last\n");
        spool.close();
        in_time("all output", log.finished()).await;
        let texts = texts(&host);
        assert_eq!(texts.len(), 3003);
        assert_eq!(
            (texts[0].as_str(), &texts[3001..]),
            ("first", &["half and half".to_owned(), "last".to_owned()][..])
        );
    }
}

#[tokio::test]
async fn following_again_what_is_complete_adds_nothing() {
    let host = Host::new();
    let mut spool = host.spool("host1-a");
    spool.write(1, b"one\ntwo");
    spool.close();
    for _ in 0..3 {
        let mux = host.mux().await;
        let log = mux.follow_job(host.job("host1-a", APP), spool.progress());
        in_time("all output", log.finished()).await;
        assert_eq!(texts(&host), ["one", "two"]);
        mux.shutdown().await;
    }
}

#[tokio::test]
async fn a_job_that_is_started_once_more_is_followed_from_its_begin() {
    for restarted in [false, true] {
        let host = Host::new();
        let mux = host.mux().await;
        let mut spool = host.spool("host1-a");
        let log = mux.follow_job(host.job("host1-a", APP), spool.progress());
        spool.write(1, b"one\ntwo\n");
        until("the output", || (texts(&host).len() == 2).then_some(())).await;
        drop((log, spool));
        mux.shutdown().await;
        std::fs::remove_dir_all(host.job("host1-a", APP).run_dir).unwrap();

        let mut mux = host.mux().await;
        mux.forget_job(&host.job("host1-a", APP)).await.unwrap();
        mux.forget_job(&host.job("host1-b", "another")).await.unwrap();
        if restarted {
            mux.shutdown().await;
            mux = host.mux().await;
        }
        let mut spool = host.spool("host1-a");
        let log = mux.follow_job(host.job("host1-a", APP), spool.progress());
        spool.write(1, b"three\n");
        spool.close();
        in_time("all output", log.finished()).await;
        assert_eq!(texts(&host), ["one", "two", "three"]);
        mux.shutdown().await;
    }
}

#[tokio::test]
async fn output_that_was_dropped_is_counted_in_the_log() {
    let host = Host::new();
    let mux = host.mux().await;
    let mut spool = host.spool("host1-a").segment_len(1000);
    for i in 0..100 {
        spool.write(1, format!("line {i} {}\n", "x".repeat(90)).as_bytes());
    }
    let half = spool.written() / 2;
    spool.delete_before(half);
    spool.close();
    let log = mux.follow_job(host.job("host1-a", APP), spool.progress());
    in_time("all output", log.finished()).await;
    let logged = host.logged(APP);
    let (stream, _, notice) = &logged[0];
    let bytes: u64 = notice.split(' ').nth(1).unwrap().parse().unwrap();
    assert_eq!(*stream, '3');
    assert_eq!(notice, &format!("flynn-host: {bytes} bytes of output were dropped before they could be logged"));
    assert!(bytes <= half && bytes > half - 1200, "{bytes} of {half}");
    assert!(logged[1].2.starts_with("line 4") && logged.last().unwrap().2.starts_with("line 99 "));
}

#[tokio::test]
async fn jobs_of_an_app_share_a_log_and_a_second_daemon_is_kept_out() {
    let host = Host::new();
    let mux = host.mux().await;
    let mut spools: Vec<_> = (0..10).map(|i| host.spool(&format!("host1-{i}"))).collect();
    let logs: Vec<_> =
        (0..10).map(|i| mux.follow_job(host.job(&format!("host1-{i}"), APP), spools[i].progress())).collect();
    for line in 0..200 {
        for (job, spool) in spools.iter_mut().enumerate() {
            spool.write(1, format!("{job} {line}\n").as_bytes());
        }
    }
    let mut config = host.config();
    config.limits.lock_patience = std::time::Duration::from_millis(100);
    let refused = flynn_logmux::LogMux::open(config).await.unwrap_err();
    assert!(refused.to_string().starts_with("another daemon writes the logs"), "{refused}");
    for (spool, log) in spools.iter().zip(&logs) {
        spool.close();
        in_time("all output", log.finished()).await;
    }
    for job in 0..10 {
        let process = format!("web.host1-{job}");
        let of_job: Vec<String> =
            host.logged(APP).into_iter().filter(|(_, of, _)| *of == process).map(|(_, _, text)| text).collect();
        assert_eq!(of_job, (0..200).map(|line| format!("{job} {line}")).collect::<Vec<_>>());
    }
    mux.shutdown().await;
    host.mux().await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_takes_over_from_another_logs_nothing_twice() {
    let host = Host::new();
    let mux = host.mux().await;
    let mut spool = host.spool("host1-a");
    let mut log = mux.follow_job(host.job("host1-a", APP), spool.progress());
    for i in 0..3000 {
        spool.write(1, format!("{i} {}\n", "x".repeat(500)).as_bytes());
        if i % 10 == 0 {
            tokio::task::yield_now().await;
            log = mux.follow_job(host.job("host1-a", APP), spool.progress());
        }
    }
    spool.close();
    in_time("all output", log.finished()).await;
    let numbers: Vec<String> = texts(&host).iter().map(|text| text.split(' ').next().unwrap().to_owned()).collect();
    assert!(numbers == (0..3000).map(|i| i.to_string()).collect::<Vec<_>>(), "{} lines", numbers.len());
}
