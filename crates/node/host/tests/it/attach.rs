//! The attach protocol, byte for byte, with jobs that do not run.

use flynn_types::host::attach;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Dir, TestHost, job, patience, waiting_job};

struct Attached(TcpStream);

impl Attached {
    async fn new(host: &TestHost, id: &str, flags: u8) -> Self {
        let body = json!({ "job_id": id, "flags": flags }).to_string();
        let mut stream = TcpStream::connect(host.address).await.unwrap();
        let head = "POST /attach HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: flynn-attach/0\r\n";
        let length = format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{length}{body}").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        let answer = String::from_utf8(answer).unwrap().to_lowercase();
        assert!(answer.starts_with("http/1.1 101"), "{answer}");
        assert!(answer.contains("upgrade: flynn-attach/0"), "{answer}");
        Self(stream)
    }

    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        tokio::time::timeout(patience(), self.0.read_to_end(&mut rest)).await.unwrap().unwrap();
        rest
    }
}

fn error(message: &str) -> Vec<u8> {
    let mut bytes = vec![2];
    bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend(message.as_bytes());
    bytes
}

const NO_PARTITION: &str = "host: invalid job partition \"nonexistent\"";

#[tokio::test]
async fn who_waits_for_a_job_that_fails_learns_why() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let mut waiting = Attached::new(&host, "host1-1", attach::FLAG_STDOUT).await;
    assert_eq!(waiting.0.read_u8().await.unwrap(), 1);
    let mut odd = job("host1-1");
    odd.partition = "nonexistent".into();
    host.client.add_job(&odd).await.unwrap();
    assert_eq!(waiting.rest().await, error(NO_PARTITION));
    let mut late = Attached::new(&host, "host1-1", attach::FLAG_STDOUT).await;
    assert_eq!(late.rest().await, error(NO_PARTITION));
    host.leave().await;
}

#[tokio::test]
async fn an_ended_job_gives_its_log_and_takes_no_input() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    for (id, tty) in [("host1-1", false), ("host1-tty", true)] {
        let mut job = waiting_job(id);
        job.config.tty = tty;
        host.client.add_job(&job).await.unwrap();
        host.client.stop_job(id).await.unwrap();
        host.ended(id).await;
    }
    let (out, err) = (attach::FLAG_STDOUT, attach::FLAG_STDERR);
    for (id, flags, bytes) in [
        ("host1-1", out | err | attach::FLAG_LOGS, b"\0\x03\x01\0\0\0\0\x03\x02\0\0\0\0".to_vec()),
        ("host1-1", out | err | attach::FLAG_LOGS | attach::FLAG_STREAM, b"\0\x05\0\0\0\0".to_vec()),
        ("host1-1", out | attach::FLAG_STREAM, b"\0\x05\0\0\0\0".to_vec()),
        ("host1-1", out | attach::FLAG_STDIN, error("host: job not running")),
        ("host1-tty", out, error("host: job not running")),
    ] {
        assert_eq!(Attached::new(&host, id, flags).await.rest().await, bytes, "{id} {flags}");
    }
    host.leave().await;
}

#[tokio::test]
async fn what_is_no_attach_request_is_refused() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let upgrade = [("connection", "upgrade"), ("upgrade", "flynn-attach/0"), ("content-type", "application/json")];
    for body in ["", "{", "12", "{\"flags\":300}"] {
        let reply = host.raw("POST", "/attach", &upgrade[1..], body.as_bytes()).await;
        assert_eq!((reply.status, reply.text().as_str()), (400, "invalid JSON"), "{body}");
    }
    let big = host.raw("POST", "/attach", &upgrade[1..], &vec![b' '; 1 << 20]).await;
    assert_eq!(big.status, 400);
    assert_eq!(host.raw("POST", "/attach", &[], b"{}").await.status, 400);
    let mut odd = Attached::new(&host, "../etc", 1).await;
    assert_eq!(odd.rest().await[0], 2);
    host.leave().await;
}

#[tokio::test]
async fn who_talks_while_waiting_is_still_told_and_who_leaves_holds_nothing() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let mut talks = Attached::new(&host, "host1-1", attach::FLAG_STDIN).await;
    let mut leaves = Attached::new(&host, "host1-1", attach::FLAG_STDOUT).await;
    for waiting in [&mut talks, &mut leaves] {
        assert_eq!(waiting.0.read_u8().await.unwrap(), 1);
    }
    talks.0.write_all(b"\x03\x00\xff\xff\xff\xff\x99 this is no frame").await.unwrap();
    drop(leaves);
    let mut odd = job("host1-1");
    odd.partition = "nonexistent".into();
    host.client.add_job(&odd).await.unwrap();
    assert_eq!(talks.rest().await, error(NO_PARTITION));
    // Every session belongs to a task that the host waits for.
    host.leave().await;
}

#[tokio::test]
async fn a_daemon_that_leaves_lets_waiting_clients_go() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let mut waiting = Attached::new(&host, "host1-1", attach::FLAG_STDOUT).await;
    assert_eq!(waiting.0.read_u8().await.unwrap(), 1);
    host.leave().await;
    assert_eq!(waiting.rest().await, b"");
}
