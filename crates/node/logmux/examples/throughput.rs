//! How fast output goes from a spool into the log, with and without a sink and a follower.
//!
//! `cargo run --release -p flynn-logmux --example throughput [MB] [directory]`

#![expect(clippy::print_stdout, reason = "an example reports to whoever runs it")]

use std::path::Path;
use std::time::Instant;

use flynn_logmux::{JobLogInfo, LogMux, MuxConfig, StreamOptions};
use flynn_types::host::{Job, SinkInfo, SinkKind, metadata};
use flynn_types::init::{SpoolProgress, spool};
use futures_util::StreamExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;

const ID: &str = "host1-job";
const APP: &str = "5f2c6f0e-8f2b-4a3e-9d0a-3f6f3c1f7b11";
/// Bytes of a line, newline included.
const LINE: usize = 100;
/// Bytes of a record's payload.
const RECORD: usize = 40 * LINE;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let mut args = std::env::args().skip(1);
    let megabytes: usize = args.next().and_then(|text| text.parse().ok()).unwrap_or(200);
    let base = args.next().unwrap_or_else(|| std::env::temp_dir().display().to_string());
    for (name, sink, follower) in
        [("log only", false, false), ("log and sink", true, false), ("log and follower", false, true)]
    {
        let mut rates = Vec::new();
        for _ in 0..5 {
            let dir = tempfile::tempdir_in(&base).expect("directory");
            rates.push(run(dir.path(), megabytes, sink, follower).await);
        }
        rates.sort_by(f64::total_cmp);
        println!(
            "{name:<17} {:>6.0} MB/s  ({:.0} to {:.0})  of output in lines of {LINE} bytes",
            rates[2], rates[0], rates[4]
        );
    }
}

async fn run(dir: &Path, megabytes: usize, sink: bool, follower: bool) -> f64 {
    let run_dir = dir.join("run");
    let (written, expected) = fill(&run_dir.join("spool"), megabytes << 20);
    let mut config = MuxConfig::new(dir.join("log"), dir.join("state"), "host1".parse().expect("host id"));
    config.limits.file_bytes = u64::MAX;
    let mux = LogMux::open(config).await.expect("log mux");
    let received = drain().await;
    if sink {
        let config = format!(r#"{{"url":"syslog://{}"}}"#, received.0);
        let config = serde_json::value::RawValue::from_string(config).ok();
        let info = SinkInfo { id: "sink".into(), kind: SinkKind::Syslog, config, ..SinkInfo::default() };
        mux.add_sink(info).await.expect("sink");
    }
    let job_id = ID.parse().expect("job id");
    let job = Job { metadata: [(metadata::APP.to_owned(), APP.to_owned())].into(), ..Job::default() };
    let (_sender, progress) = watch::channel(SpoolProgress { written, closed: true });
    let begin = Instant::now();
    let log = mux.follow_job(JobLogInfo { job_id, job, run_dir }, progress);
    let options = StreamOptions { follow: true, job: ID.parse().ok(), ..StreamOptions::default() };
    let lines = mux.stream(APP, options);
    if follower {
        assert_eq!(lines.count().await, expected, "every line is read once");
    }
    log.finished().await;
    while sink && mux.sinks().first().is_none_or(|sink| sink.state.lag_messages > 0) {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let rate = megabytes as f64 * 1.048_576 / begin.elapsed().as_secs_f64();
    mux.shutdown().await;
    rate
}

/// Writes a spool; gives its length and the number of lines.
fn fill(dir: &Path, bytes: usize) -> (u64, usize) {
    std::fs::create_dir_all(dir).expect("spool");
    let payload = [vec![b'x'; LINE - 1], b"\n".to_vec()].concat().repeat(RECORD / LINE);
    let (mut offset, mut left) = (0u64, bytes / payload.len());
    let lines = left * (RECORD / LINE);
    while left > 0 {
        let records = left.min(1000);
        let record = [&spool::header(spool::STDOUT, payload.len() as u32, 1)[..], &payload].concat();
        let segment = record.repeat(records);
        std::fs::write(dir.join(spool::segment_name(offset)), &segment).expect("segment");
        offset += segment.len() as u64;
        left -= records;
    }
    (offset, lines)
}

/// A server that reads and forgets.
async fn drain() -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("server");
    let addr = listener.local_addr().expect("address");
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(1..) = stream.read(&mut buffer).await {}
        }
    });
    (addr, task)
}
