//! Sinks (spec flynn-host 10.4, 10.5, G4 to G6).

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use flynn_logmux::{Connection, JobLog, LogMux, SinkError, SinkStatus};
use flynn_types::host::{SinkInfo, SinkKind};
use serde_json::value::RawValue;

use crate::support::{APP, Host, Spool, in_time, until};
use crate::syslog::{Aggregator, Server, last_word, octet_frames};

fn sink(id: &str, kind: SinkKind, config: &str) -> SinkInfo {
    let config = Some(RawValue::from_string(config.to_owned()).unwrap());
    SinkInfo { id: id.into(), kind, config, ..SinkInfo::default() }
}

fn syslog(id: &str, config: &str) -> SinkInfo {
    sink(id, SinkKind::Syslog, config)
}

fn status(mux: &LogMux, id: &str) -> SinkStatus {
    mux.sinks().into_iter().find(|sink| sink.id == id).expect("the sink")
}

struct Job {
    spool: Spool,
    _log: JobLog,
}

impl Job {
    fn start(host: &Host, mux: &LogMux, id: &str) -> Self {
        let spool = host.spool(id);
        let log = mux.follow_job(host.job(id, APP), spool.progress());
        Self { spool, _log: log }
    }

    fn log(&mut self, line: &str) {
        self.spool.write(1, format!("{line}\n").as_bytes());
    }
}

async fn received(server: &Server, what: &str) -> String {
    until(what, || Some(server.text()).filter(|text| text.contains(what))).await
}

#[tokio::test]
async fn every_syslog_option_shapes_the_message() {
    let host = Host::new();
    let mux = host.mux().await;
    let template = "{{index .Metadata \\\"flynn-controller.app_name\\\"}}/{{.ID}}";
    let head = format!("host1 {APP} web.host1-a ID1");
    let named = "host1 shop web.host1-a ID1";
    let mut servers = Vec::new();
    for (id, options, start, end) in [
        ("plain", String::new(), "<190>1 ", format!(" {named} - hello end")),
        ("ids", r#","use_ids":true"#.into(), "<190>1 ", format!(" {head} - hello end")),
        ("sd", r#","structured_data":true"#.into(), "<190>1 ", format!(" {named} [flynn seq=\"1\"] hello end")),
        ("tpl", format!(r#","template":"{template}""#), "<190>1 ", format!(" {named} - shop/host1-a hello end")),
        ("line", r#","format":"newline""#.into(), "<190>1 ", format!(" {named} - hello end\n")),
        (
            "prefixed",
            format!(r#","format":"prefixed_newline","template":"{template}""#),
            "shop/host1-a <190>1 ",
            format!(" {named} - hello end\n"),
        ),
    ] {
        let server = Server::tcp((Ipv4Addr::LOCALHOST, 0).into()).await;
        let config = format!(r#"{{ "url" : "syslog://{}"{options} }}"#, server.addr);
        mux.add_sink(syslog(id, &config)).await.unwrap();
        servers.push((id, server, config, start, end));
    }
    let mut job = Job::start(&host, &mux, "host1-a");
    job.log("hello end");
    for (id, server, config, start, end) in &servers {
        let text = received(server, "hello end").await;
        let text = match *id {
            "line" | "prefixed" => {
                until("the newline", || Some(server.text()).filter(|text| text.ends_with('\n'))).await
            }
            _ => octet_frames(text.as_bytes()).remove(0),
        };
        assert!(text.starts_with(start) && text.ends_with(end.as_str()), "{id}: {text:?}");
        let json = serde_json::to_string(&status(&mux, id)).unwrap();
        assert!(json.contains(&format!(r#""id":"{id}","kind":"syslog","config":{config},"state":{{"#)), "{json}");
    }
    mux.shutdown().await;
    // Byte for byte the same after a restart, and nothing is sent again.
    let mux = host.mux().await;
    for (id, server, config, ..) in &servers {
        until("connection", || (status(&mux, id).state.connection == Connection::Connected).then_some(())).await;
        assert_eq!(status(&mux, id).config.unwrap().get(), config);
        assert_eq!(server.text().matches("hello end").count(), 1, "{id}");
    }
}

#[tokio::test]
async fn datagrams_and_encrypted_connections_carry_messages() {
    let host = Host::new();
    let mux = host.mux().await;
    let udp = Server::udp().await;
    let (tls, _) = Server::tls(&["localhost"]).await;
    mux.add_sink(syslog("udp", &format!(r#"{{"url":"syslog+udp://{}"}}"#, udp.addr))).await.unwrap();
    let url = format!("syslog+tls://localhost:{}", tls.addr.port());
    mux.add_sink(syslog("tls", &format!(r#"{{"url":"{url}","insecure":true}}"#))).await.unwrap();
    mux.add_sink(syslog("verified", &format!(r#"{{"url":"{url}"}}"#))).await.unwrap();
    let mut job = Job::start(&host, &mux, "host1-a");
    job.log("one");
    job.log("two");
    let text = received(&udp, "two").await;
    assert_eq!(text.lines().map(last_word).collect::<Vec<_>>(), ["one", "two"]);
    assert!(text.starts_with("<190>1 "), "{text}");
    let text = received(&tls, "two").await;
    assert_eq!(octet_frames(text.as_bytes()).iter().map(|text| last_word(text)).collect::<Vec<_>>(), ["one", "two"]);
    let error = until("the refusal of the certificate", || status(&mux, "verified").state.error).await;
    assert!(error.contains("certificate") || error.contains("authorities"), "{error}");
    assert_eq!(status(&mux, "verified").state.sent_messages, 0);
    until("lag", || (status(&mux, "verified").state.lag_messages == 2).then_some(())).await;
}

#[tokio::test]
async fn a_dead_sink_disturbs_nobody_and_gets_what_it_missed_when_it_is_back() {
    let host = Host::new();
    let mux = host.mux().await;
    let good = Server::tcp((Ipv4Addr::LOCALHOST, 0).into()).await;
    let bad = Server::tcp((Ipv4Addr::LOCALHOST, 0).into()).await.stop().await;
    mux.add_sink(syslog("good", &format!(r#"{{"url":"syslog://{}"}}"#, good.addr))).await.unwrap();
    mux.add_sink(syslog("bad", &format!(r#"{{"url":"syslog://{bad}"}}"#))).await.unwrap();
    let mut job = Job::start(&host, &mux, "host1-a");
    let begin = Instant::now();
    for i in 0..2000 {
        job.log(&i.to_string());
    }
    received(&good, " 1999").await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let state = until("failure", || Some(status(&mux, "bad").state).filter(|state| state.error.is_some())).await;
    assert!(state.error.unwrap().contains("refused") && state.connection != Connection::Connected);
    assert_eq!(state.lag_messages, 2000);
    let back = Server::tcp(bad).await;
    received(&back, " 1999").await;
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    let words: Vec<String> = octet_frames(back.text().as_bytes()).iter().map(|text| last_word(text)).collect();
    assert_eq!(words, (0..2000).map(|i| i.to_string()).collect::<Vec<_>>());
    until("no lag", || (status(&mux, "bad").state.lag_messages == 0).then_some(())).await;
    assert_eq!(status(&mux, "bad").state.sent_messages, 2000);
    // A sink that stops reading blocks nobody either.
    let deaf = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    mux.add_sink(syslog("deaf", &format!(r#"{{"url":"syslog://{}"}}"#, deaf.local_addr().unwrap()))).await.unwrap();
    for i in 0..5000 {
        job.log(&format!("{} x{i}", "y".repeat(2000)));
    }
    received(&good, " x4999").await;
}

#[tokio::test]
async fn a_sink_goes_on_where_it_was_when_its_connection_or_the_daemon_ends() {
    let host = Host::new();
    let mut mux = host.mux().await;
    let mut server = Server::tcp((Ipv4Addr::LOCALHOST, 0).into()).await;
    mux.add_sink(syslog("s", &format!(r#"{{"url":"syslog://{}"}}"#, server.addr))).await.unwrap();
    let mut words = Vec::new();
    for round in 0..4 {
        let mut job = Job::start(&host, &mux, &format!("host1-{round}"));
        for i in 0..100 {
            job.log(&format!("{round}.{i}"));
        }
        received(&server, &format!("{round}.99")).await;
        words.extend(octet_frames(server.text().as_bytes()).iter().map(|text| last_word(text)));
        if round % 2 == 0 {
            let addr = server.stop().await;
            server = Server::tcp(addr).await;
            until("a new connection", || (server.connections() == 1).then_some(())).await;
        } else {
            server.received.lock().unwrap().bytes.clear();
            mux.shutdown().await;
            mux = host.mux().await;
        }
    }
    let expected: Vec<String> = (0..4).flat_map(|round| (0..100).map(move |i| format!("{round}.{i}"))).collect();
    assert_eq!(words, expected);
}

#[tokio::test]
async fn an_aggregator_gets_everything_behind_its_cursor_once() {
    let host = Host::new();
    let other_app = "6f2c6f0e-8f2b-4a3e-9d0a-3f6f3c1f7b12";
    let full = Aggregator::start(None).await;
    let mut config = host.config();
    config.limits.aggregator_http_port = full.http_port;
    let mux = LogMux::open(config.clone()).await.unwrap();
    let mut one = Job::start(&host, &mux, "host1-a");
    let mut two = host.spool("host1-b");
    let _log = mux.follow_job(host.job("host1-b", other_app), two.progress());
    for i in 0..100 {
        one.log(&format!("a{i}"));
        two.write(1, format!("b{i}\n").as_bytes());
        if i % 10 == 0 {
            until("both", || (host.logged(APP).len() == i + 1 && host.logged(other_app).len() == i + 1).then_some(()))
                .await;
        }
    }
    until("both", || (host.logged(APP).len() == 100 && host.logged(other_app).len() == 100).then_some(())).await;
    let addr = |aggregator: &Aggregator| format!(r#"{{"addr":"{}"}}"#, aggregator.syslog.addr);
    mux.add_sink(sink("full", SinkKind::LogAggregator, &addr(&full))).await.unwrap();
    let frames = until("all messages", || {
        let frames = octet_frames(full.syslog.text().as_bytes());
        (frames.len() >= 200).then_some(frames)
    })
    .await;
    assert_eq!(frames.len(), 200);
    // In the order of time and number, over both apps.
    let key = |message: &String| {
        let (time, seq) = (message.split(' ').nth(1).unwrap().to_owned(), message.split('"').nth(1).unwrap());
        (time, seq.parse::<u64>().unwrap())
    };
    assert!(frames.is_sorted_by_key(key));
    assert!(frames[0].contains("[flynn seq=\""), "{}", frames[0]);
    mux.shutdown().await;

    // Another instance knows a part: it gets the rest, then what is new.
    let part = Aggregator::start(Some(key(&frames[149]))).await;
    config.limits.aggregator_http_port = part.http_port;
    let mux = LogMux::open(config.clone()).await.unwrap();
    mux.remove_sink("full").await;
    mux.add_sink(sink("part", SinkKind::LogAggregator, &addr(&part))).await.unwrap();
    let mut three = Job::start(&host, &mux, "host1-c");
    three.log("new");
    received(&part.syslog, " new").await;
    let got = octet_frames(part.syslog.text().as_bytes());
    assert_eq!(got.len(), 51);
    assert!(got[..50] == frames[150..200] && key(&got[50]) > key(&got[49]));
    // Everything sent has arrived: after a restart only what is new is sent.
    *part.cursor.lock().unwrap() = Some(key(&got[50]));
    mux.shutdown().await;
    let mux = LogMux::open(config).await.unwrap();
    let mut four = Job::start(&host, &mux, "host1-d");
    four.log("newest");
    received(&part.syslog, " newest").await;
    assert_eq!(octet_frames(part.syslog.text().as_bytes()).len(), 52);
    let state = status(&mux, "part").state;
    assert_eq!((state.sent_messages, state.dropped_messages), (52, 0));
}

#[tokio::test]
async fn what_is_rotated_away_before_it_is_sent_is_counted() {
    let host = Host::new();
    let mut config = host.config();
    config.limits.file_bytes = 20_000;
    let mux = LogMux::open(config).await.unwrap();
    let away = Server::tcp((Ipv4Addr::LOCALHOST, 0).into()).await.stop().await;
    mux.add_sink(syslog("s", &format!(r#"{{"url":"syslog://{away}"}}"#))).await.unwrap();
    let mut job = Job::start(&host, &mux, "host1-a");
    for i in 0..2000 {
        job.log(&i.to_string());
        if i % 20 == 0 {
            let mut last = host.spool("unused").progress();
            last.borrow_and_update();
            until("the line", || host.logged(APP).last().filter(|(_, _, text)| *text == i.to_string()).map(|_| ()))
                .await;
        }
    }
    until("all lines", || host.logged(APP).last().filter(|(_, _, text)| text == "1999").map(|_| ())).await;
    let server = Server::tcp(away).await;
    received(&server, " 1999").await;
    let sent = octet_frames(server.text().as_bytes()).len() as u64;
    let state = until("counts", || Some(status(&mux, "s").state).filter(|state| state.lag_messages == 0)).await;
    assert_eq!(state.sent_messages, sent);
    assert_eq!(state.dropped_messages + sent, 2000, "every line is either sent or counted");
    assert!(state.dropped_messages > 1000 && sent > 50, "{state:?}");
}

#[tokio::test]
async fn sinks_are_checked_changed_and_removed() {
    let host = Host::new();
    let mux = host.mux().await;
    for (info, message) in [
        (sink("x", SinkKind::Other("kafka".into()), "{}"), "unknown sink kind: \"kafka\""),
        (sink("", SinkKind::Syslog, "{}"), "sink has no id"),
        (syslog("x", r#"{"url":"http://a"}"#), "configuration of sink x: unknown protocol http"),
        (syslog("x", r#"{"url":"syslog://a","format":"y"}"#), "configuration of sink x: unknown format y"),
        (
            syslog("x", r#"{"url":"syslog://a","template":"{{.ID"}"#),
            r#"configuration of sink x: unclosed action in template "{{.ID""#,
        ),
        (sink("x", SinkKind::LogAggregator, r#"{"addr":"a"}"#), "configuration of sink x: addr \"a\" is not host:port"),
    ] {
        let err = mux.add_sink(info).await.unwrap_err();
        assert!(err.is_invalid_request() && err.to_string() == message, "{err}");
    }
    assert!(mux.sinks().is_empty() && !mux.remove_sink("x").await);
    let (old, new) =
        (Server::tcp((Ipv4Addr::LOCALHOST, 0).into()).await, Server::tcp((Ipv4Addr::LOCALHOST, 0).into()).await);
    let mut job = Job::start(&host, &mux, "host1-a");
    for _ in 0..2 {
        mux.add_sink(syslog("x", &format!(r#"{{"url":"syslog://{}"}}"#, old.addr))).await.unwrap();
    }
    job.log("one");
    received(&old, " one").await;
    until("recorded place", || (status(&mux, "x").state.sent_messages == 1).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(1100)).await; // places are recorded every second
    mux.add_sink(syslog("x", &format!(r#"{{"url":"syslog://{}"}}"#, new.addr))).await.unwrap();
    job.log("two");
    let text = received(&new, " two").await;
    assert!(!text.contains(" one") && !old.text().contains(" two"), "{text}");
    assert_eq!(old.connections(), 1, "an unchanged sink keeps its connection");
    assert!(mux.remove_sink("x").await && mux.sinks().is_empty());
    mux.shutdown().await;
    assert!(host.mux().await.sinks().is_empty());

    // A broken file is moved aside, not overwritten.
    std::fs::write(host.config().sink_state, b"{").unwrap();
    let other = Host { dir: host.dir };
    let path = other.config().sink_state;
    std::fs::remove_file(path.with_extension("json.corrupt")).ok();
    let mut config = other.config();
    config.limits.lock_patience = Duration::from_secs(20);
    let mux = in_time("start", LogMux::open(config)).await.unwrap();
    assert!(path.with_extension("json.corrupt").exists() && mux.sinks().is_empty());
    let refused: Result<(), SinkError> = mux.add_sink(syslog("y", r#"{"url":"syslog://127.0.0.1:1"}"#)).await;
    refused.unwrap();
}
