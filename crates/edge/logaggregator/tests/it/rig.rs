//! Aggregators, hosts with their log muxes, and a discoverd.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flynn_discoverd::{Config as DiscoverdConfig, Discoverd};
use flynn_discoverd_client::Client as DiscoverdClient;
use flynn_logaggregator::{Config, Discovery, serve};
use flynn_logmux::{JobLog, JobLogInfo, LogMux, MuxConfig};
use flynn_types::discoverd::Instance;
use flynn_types::host::{Job, SinkInfo, SinkKind, metadata};
use flynn_types::init::{SpoolProgress, spool};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

pub(crate) const APP: &str = "5f2c6f0e-8f2b-4a3e-9d0a-3f6f3c1f7b11";

/// Waits until `look` gives something.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + flynn_patience::seconds(60);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A running aggregator. It ends with the test.
pub(crate) struct Aggregator {
    pub(crate) api: SocketAddr,
    pub(crate) syslog: SocketAddr,
    shutdown: DropGuard,
    serving: AbortOnDropHandle<std::io::Result<()>>,
}

impl Aggregator {
    pub(crate) async fn start() -> Self {
        Self::start_at(1, 0, None, |_| {}).await
    }

    /// At `127.0.0.<host>`, with the API at `port`.
    pub(crate) async fn start_at(
        host: u8,
        port: u16,
        discovery: Option<&Discovered>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let ip = Ipv4Addr::new(127, 0, 0, host);
        let api = TcpListener::bind((ip, port)).await.unwrap();
        let syslog = TcpListener::bind((ip, 0)).await.unwrap();
        let addresses = (api.local_addr().unwrap(), syslog.local_addr().unwrap());
        let mut config = Config { peer_api_port: addresses.0.port(), ..Config::default() };
        change(&mut config);
        let discovery = discovery.map(|discovered| Discovery {
            client: discovered.client.clone(),
            instance: Instance::new("tcp", &addresses.1.to_string(), BTreeMap::new()),
        });
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(config, api, syslog, discovery, shutdown.clone()));
        let serving = AbortOnDropHandle::new(serving);
        Self { api: addresses.0, syslog: addresses.1, shutdown: shutdown.drop_guard(), serving }
    }

    /// Ends it as SIGTERM does.
    pub(crate) async fn stop(self) {
        drop(self.shutdown);
        self.serving.await.unwrap().unwrap();
    }

    /// Ends it as SIGKILL does.
    pub(crate) fn kill(self) {
        self.serving.abort();
    }

    /// Status and body of an answer.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.api).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        tokio::time::timeout(flynn_patience::seconds(60), reading).await.expect("an answer in time").unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Texts of an app's messages.
    pub(crate) async fn texts(&self, query: &str) -> Vec<String> {
        let (status, body) = self.get(&format!("/log/{APP}{query}")).await;
        assert_eq!(status, 200, "{body}");
        body.lines().map(text).collect()
    }

    /// Waits until an app has so many messages, and gives their texts.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<String> {
        until(&format!("{count} messages"), async || {
            let texts = self.texts("").await;
            (texts.len() >= count).then_some(texts)
        })
        .await
    }

    pub(crate) async fn follow(&self, query: &str) -> Follower {
        let mut stream = TcpStream::connect(self.api).await.unwrap();
        let request = format!("GET /log/{APP}?follow=true{query} HTTP/1.0\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut follower = Follower { stream: BufReader::new(stream) };
        while !follower.line().await.is_empty() {} // the head
        follower
    }
}

fn text(line: &str) -> String {
    let message: Value = serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line}"));
    message["msg"].as_str().unwrap_or_default().to_owned()
}

/// A client that follows a log.
pub(crate) struct Follower {
    pub(crate) stream: BufReader<TcpStream>,
}

impl Follower {
    async fn line(&mut self) -> String {
        let mut line = String::new();
        let reading = self.stream.read_line(&mut line);
        tokio::time::timeout(flynn_patience::seconds(60), reading).await.expect("a line in time").unwrap();
        line.trim_end().to_owned()
    }

    /// The next texts.
    pub(crate) async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(text(&self.line().await));
        }
        texts
    }
}

/// A discoverd of one node.
pub(crate) struct Discovered {
    pub(crate) client: DiscoverdClient,
    _discoverd: Discoverd,
    _folder: tempfile::TempDir,
}

impl Discovered {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = DiscoverdConfig {
            register: false,
            ..DiscoverdConfig::new("h1", address, folder.path().join("raft.redb"), Vec::new())
        };
        let discoverd = Discoverd::start(config, vec![listener]).await.unwrap();
        let client = DiscoverdClient::from_list(&format!("http://{address}")).unwrap();
        Self { client: client.with_patience(flynn_patience::seconds(30)), _discoverd: discoverd, _folder: folder }
    }

    /// Waits until so many aggregators are registered.
    pub(crate) async fn registered(&self, count: usize) {
        until("registered aggregators", async || {
            let instances = self.client.instances("logaggregator").await.unwrap_or_default();
            (instances.len() == count).then_some(())
        })
        .await;
    }
}

/// A host: a log mux, and one job that writes.
pub(crate) struct Host {
    pub(crate) mux: LogMux,
    _log: JobLog,
    file: File,
    written: u64,
    progress: watch::Sender<SpoolProgress>,
    folder: tempfile::TempDir,
}

impl Host {
    /// Sends to aggregators that have their API at `port`.
    pub(crate) async fn start(id: &str, port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (path, job_id) = (folder.path(), format!("{id}-job"));
        let mut config = MuxConfig::new(path.join("log"), path.join("state"), id.parse().unwrap());
        config.limits.aggregator_http_port = port;
        config.limits.retry_max = Duration::from_millis(500);
        let mux = LogMux::open(config).await.unwrap();
        let run_dir = path.join("run");
        let spool_dir = run_dir.join("spool");
        std::fs::create_dir_all(&spool_dir).unwrap();
        let name: PathBuf = spool_dir.join(spool::segment_name(0));
        let file = OpenOptions::new().create_new(true).append(true).open(name).unwrap();
        let mut job = Job { id: job_id.clone(), ..Job::default() };
        for (key, value) in [(metadata::APP, APP), (metadata::APP_NAME, "shop"), (metadata::TYPE, "web")] {
            job.metadata.insert(key.into(), value.into());
        }
        let progress = watch::channel(SpoolProgress::default()).0;
        let info = JobLogInfo { job_id: job_id.parse().unwrap(), job, run_dir };
        let log = mux.follow_job(info, progress.subscribe());
        Self { mux, _log: log, file, written: 0, progress, folder }
    }

    /// The job writes a line.
    pub(crate) fn line(&mut self, text: &str) {
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
        let payload = format!("{text}\n");
        let record = [&spool::header(1, payload.len() as u32, micros)[..], payload.as_bytes()].concat();
        self.file.write_all(&record).unwrap();
        self.written += record.len() as u64;
        self.progress.send_replace(SpoolProgress { written: self.written, closed: false });
    }

    /// What the daemon does when an aggregator registers.
    pub(crate) async fn send_to(&self, aggregator: &Aggregator) {
        let addr = aggregator.syslog.to_string();
        let config = serde_json::value::to_raw_value(&serde_json::json!({ "addr": addr })).unwrap();
        let sink = SinkInfo { id: addr, kind: SinkKind::LogAggregator, config: Some(config), ..SinkInfo::default() };
        self.mux.add_sink(sink).await.unwrap();
    }

    /// Where its log files are.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

/// A frame as hosts send them, of second `at` after a certain time.
pub(crate) fn frame(app: &str, host: &str, at: u32, seq: u32, text: &str) -> Vec<u8> {
    let (hour, minute, second) = (at / 3600, at / 60 % 60, at % 60);
    let time = format!("2026-05-01T{hour:02}:{minute:02}:{second:02}.000000Z");
    let message = format!("<190>1 {time} {host} {app} web.{host}-job ID1 [flynn seq=\"{seq}\"] {text}");
    format!("{} {message}", message.len()).into_bytes()
}
