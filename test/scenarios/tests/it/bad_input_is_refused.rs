//! What no client should send, sent to every port: each time an answer that says so, and a daemon that goes on.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use flynn_harness::{Cluster, ClusterOptions, repeats};
use flynn_scenarios::{Node, cluster, counting, numbered, seeded, shell};
use flynn_types::host::JobStatus;
use rand::{Rng as _, RngCore as _};

/// For what deserves no answer.
const MOMENT: Duration = Duration::from_millis(200);
/// Longest that a server may take for an answer, or to close a connection.
const ANSWER: Duration = Duration::from_secs(20);

/// Sends bytes, and gives what comes back until the server closes the connection, or for so long.
fn send(node: Node<'_>, port: u16, bytes: &[u8], patience: Duration) -> Vec<u8> {
    let mut stream = connect(node, port, bytes);
    let end = Instant::now() + patience;
    let mut answer = Vec::new();
    while Instant::now() < end && read_more(&mut stream, &mut answer, patience) {}
    answer
}

/// The head of the answer, from a server that keeps the connection.
fn head_of_answer(node: Node<'_>, port: u16, bytes: &[u8]) -> String {
    let mut stream = connect(node, port, bytes);
    let mut answer = Vec::new();
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") && read_more(&mut stream, &mut answer, ANSWER) {}
    String::from_utf8_lossy(&answer).into_owned()
}

fn connect(node: Node<'_>, port: u16, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(node.host.address(port).unwrap()).unwrap();
    // A server may refuse, and close, before it has read everything.
    let _ = stream.write_all(bytes);
    stream
}

/// Reads once; false when nothing came, for that long or for ever.
fn read_more(stream: &mut TcpStream, answer: &mut Vec<u8>, patience: Duration) -> bool {
    let mut buffer = [0; 4096];
    stream.set_read_timeout(Some(patience)).unwrap();
    let count = stream.read(&mut buffer).unwrap_or(0);
    answer.extend_from_slice(&buffer[..count]);
    count > 0
}

/// The status and body of the answer to a request.
fn request(node: Node<'_>, port: u16, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: host\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let answer = send(node, port, &[head.as_bytes(), body].concat(), ANSWER);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

fn three_things_still_work(node: Node<'_>, pid: u32, what: &str) {
    assert_eq!(node.status().unwrap().pid, pid, "{what}");
    assert_eq!(node.host.probe(1111, "/ping").unwrap(), 200, "{what}");
}

fn with_daemon(work: impl FnOnce(Node<'_>, u32, &Cluster)) {
    let cluster = cluster(ClusterOptions::default()).unwrap();
    let node = Node::of(cluster.host(0));
    let pid = node.status().unwrap().pid;
    work(node, pid, &cluster);
    three_things_still_work(node, pid, "at last");
    let (ended, output) = node.run_to_end(&counting(node.host, 10, "", 0)).unwrap();
    assert_eq!((ended.status, numbered(&output.stdout)), (JobStatus::Done, Ok(10)));
    cluster.down().unwrap();
}

#[test]
fn requests_that_make_no_sense_get_an_error_that_says_so() {
    with_daemon(|node, pid, _| {
        let json = "application/json";
        let deep = "[".repeat(200_000);
        let job = serde_json::to_string(&shell(node.host, "true")).unwrap();
        let oversized = format!(r#"{{"config":{{"args":["{}"]}}}}"#, "x".repeat(64 << 20));
        let cases: &[(u16, &str, &str, &str, &str)] = &[
            (1113, "PUT", "/host/jobs/host1-a", json, "{]"),
            (1113, "PUT", "/host/jobs/host1-a", json, ""),
            (1113, "PUT", "/host/jobs/host1-a", json, &deep),
            (1113, "PUT", "/host/jobs/host1-a", json, &oversized),
            (1113, "PUT", "/host/jobs/host1-a", json, r#"{"mountspecs":"x"}"#),
            (1113, "PUT", "/host/jobs/host1-a", json, r#"{"config":{"args":["x"]}}"#),
            (1113, "PUT", "/host/jobs/host1-a", "text/plain", &job),
            (1113, "PUT", "/host/jobs/..%2f..%2fetc", json, &job),
            (1113, "PUT", "/host/jobs/host1-a%2fb", json, &job),
            (1113, "PUT", "/host/jobs/host1-a%00b", json, &job),
            (1113, "PUT", "/host/jobs/.hidden", json, &job),
            (1113, "DELETE", "/host/jobs/..%2f..%2fetc", json, ""),
            (1113, "GET", "/host/jobs/..%2fpasswd", json, ""),
            (1113, "PUT", "/host/jobs/host1-a/signal/nine", json, ""),
            (1113, "POST", "/host/tags", json, "[1,2]"),
            (1113, "POST", "/host/network", json, r#"{"subnet":"what"}"#),
            (1113, "POST", "/host/discoverd", json, "null"),
            (1113, "POST", "/host/update", json, r#"{"path":"/nonexistent"}"#),
            (1113, "POST", "/host/resource-check", json, r#"{"ports":[{"port":70000}]}"#),
            (1113, "POST", "/attach", json, "what"),
            (1113, "PUT", "/sinks/x", json, r#"{"kind":"nothing"}"#),
            (1113, "DELETE", "/storage/volumes/..%2f..%2fetc", json, ""),
            (1113, "POST", "/storage/providers/nothing/volumes", json, "{}"),
            (1113, "POST", "/storage/providers/default/volumes", json, r#"{"id":"../../etc"}"#),
            (1111, "PUT", "/services/abc", json, "{]"),
            (1111, "PUT", "/services/abc", json, &deep),
            (1111, "PUT", "/services/abc", json, r#"{"leader_type":5}"#),
            (1111, "PUT", "/services/ABC", json, "{}"),
            (1111, "PUT", "/services/..%2f..%2fetc", json, "{}"),
            (1111, "PUT", "/services/flynn-host/instances/x", json, r#"{"id":"x","addr":"nothing","proto":"tcp"}"#),
            (1111, "PUT", "/services/flynn-host/instances/x", json, &oversized),
            (1111, "PUT", "/services/flannel/meta", json, r#"{"data":{},"index":0}"#),
            (1111, "PUT", "/services/flannel/meta", json, r#"{"data":{},"index":999999}"#),
            (1111, "PUT", "/services/flannel/leader", json, "what"),
        ];
        for (port, method, path, kind, body) in cases {
            let what = format!("{method} {path} {}", body.chars().take(40).collect::<String>());
            let (status, answer) = request(node, *port, method, path, kind, body.as_bytes());
            // The server may close the connection while this side still sends, and its answer is lost on the way.
            if status == 0 && body.len() > 1 << 20 {
                three_things_still_work(node, pid, &what);
                continue;
            }
            // `/nonexistent` is a mistake that the server only finds when it tries.
            let expected = if path.ends_with("/update") { 400..=500 } else { 400..=499 };
            assert!(expected.contains(&status), "{what}: {status} {answer:?}");
            assert!(!answer.is_empty() && !answer.contains("Something went wrong"), "{what}: {status} {answer:?}");
            three_things_still_work(node, pid, &what);
        }
        assert!(flynn_scenarios::block_on(node.api().jobs(false)).unwrap().is_empty(), "no job came of it");
    });
}

/// Random bytes to every open port, half-finished requests, and frames that are none after attaching.
#[test]
fn garbage_on_any_port_harms_nobody() {
    let mut random = seeded("bad_input");
    with_daemon(|node, pid, _| {
        let gateway = node.status().unwrap().network.unwrap().subnet;
        let gateway: std::net::IpAddr = gateway.split('/').next().unwrap().parse().unwrap();
        let job = counting(node.host, 1_000_000, "0.1", 0);
        node.run(&job).unwrap();
        for round in 0..repeats() {
            let mut bytes = vec![0; random.random_range(1..4000)];
            random.fill_bytes(&mut bytes);
            for port in [1111, 1113, 5002] {
                send(node, port, &bytes, MOMENT);
                send(node, port, b"GET /host/status HTTP/1.1\r\nX: ", MOMENT);
            }
            node.host
                .in_network(|| {
                    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                    for port in [53, 5002] {
                        for length in [0, 1, 11, 12, 13, 100, bytes.len().min(1400)] {
                            // Refused when nobody listens, which is fine.
                            let _ = socket.send_to(&bytes[..length.min(bytes.len())], (gateway, port));
                        }
                    }
                    let mut stream = TcpStream::connect((gateway, 53)).unwrap();
                    let _ = stream.write_all(&bytes);
                })
                .unwrap();
            let body = format!(r#"{{"job_id":"{}","flags":7}}"#, job.id);
            let head = "POST /attach HTTP/1.1\r\nHost: host\r\nConnection: upgrade\r\nUpgrade: flynn-attach/0\r\n\
                        Content-Type: application/json\r\nContent-Length: ";
            let request = format!("{head}{}\r\n\r\n{body}", body.len());
            let answer = head_of_answer(node, 1113, &[request.as_bytes(), &bytes].concat());
            assert!(
                answer.starts_with("HTTP/1.1 101 ") || answer.starts_with("HTTP/1.1 4"),
                "round {round}: {answer:?}"
            );
            three_things_still_work(node, pid, &format!("round {round}"));
            let names = ["busybox", "nslookup", "discoverd.discoverd", &gateway.to_string()];
            let answer = node.host.output(names).unwrap();
            assert!(answer.contains(&node.host.ip().to_string()), "DNS goes on: {answer}");
            let now = node.job(&job.id).unwrap();
            assert_eq!(now.status, JobStatus::Running, "{:?}", now.error);
        }
        node.stop(&job.id).unwrap();
        numbered(&node.output(&job.id).unwrap().stdout).unwrap();
    });
}
