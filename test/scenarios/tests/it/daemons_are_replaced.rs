//! `POST /host/update`: one daemon takes over from another, under load (goals G9, G15, G16).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use flynn_harness::{ClusterOptions, repeats, wait_until};
use flynn_scenarios::{Audit, Node, SETTLING, block_on, cluster, counting, numbered, with_service};
use flynn_types::host::{Command, JobStatus};

/// Requests of one client until it is told to stop: how many were answered with 200, and everything else that happened.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    answered: AtomicUsize,
    failures: std::sync::Mutex<Vec<String>>,
}

const REQUEST: &[u8] = b"GET /host/jobs HTTP/1.1\r\nHost: host\r\n";

impl Load {
    fn note(&self, answer: Result<(), String>) {
        match answer {
            Ok(()) => drop(self.answered.fetch_add(1, Ordering::Relaxed)),
            Err(reason) => self.failures.lock().unwrap().push(reason),
        }
    }

    /// A new connection for each request.
    fn connect_each_time(&self, address: SocketAddr) {
        while !self.stop.load(Ordering::Relaxed) {
            self.note(connect(address).and_then(|mut stream| ask(&mut stream, "Connection: close\r\n\r\n").map(drop)));
        }
    }

    /// One connection for as long as the server keeps it. A connection that was idle may turn out to be closed: then
    /// nothing was answered, and the request goes out once more.
    fn keep_alive(&self, address: SocketAddr) {
        let mut kept: Option<TcpStream> = None;
        while !self.stop.load(Ordering::Relaxed) {
            let reused = kept.take().and_then(|mut stream| Some((ask(&mut stream, "\r\n").ok()?, stream)));
            let answer = match reused {
                Some((keep, stream)) => Ok((keep, stream)),
                None => connect(address).and_then(|mut stream| Ok((ask(&mut stream, "\r\n")?, stream))),
            };
            self.note(answer.map(|(keep, stream)| kept = keep.then_some(stream)));
        }
    }
}

fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address).map_err(|err| format!("connect: {err}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    Ok(stream)
}

/// Whether the server keeps the connection.
fn ask(stream: &mut TcpStream, rest: &str) -> Result<bool, String> {
    let request = [REQUEST, rest.as_bytes()].concat();
    stream.write_all(&request).map_err(|err| format!("send: {err}"))?;
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let head_end = text.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        if let Some(end) = head_end {
            let head = String::from_utf8_lossy(&text[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            let length = length.ok_or_else(|| format!("no length in {head:?}"))?;
            if text.len() >= end + 4 + length {
                return if head.starts_with("http/1.1 200") {
                    Ok(!head.contains("connection: close"))
                } else {
                    Err(head)
                };
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Err(format!("closed after {} bytes", text.len())),
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(err) => return Err(format!("receive after {} bytes: {err}", text.len())),
        }
    }
}

/// The daemon's own program and arguments.
fn itself(node: Node<'_>) -> Command {
    let status = node.status().unwrap();
    let program = node.host.output(["readlink", &format!("/proc/{}/exe", status.pid)]).unwrap();
    let flags = status.flags.unwrap_or_default();
    let args = std::iter::once("daemon".to_owned()).chain(flags).collect();
    Command { path: program.trim().to_owned(), args, ..Command::default() }
}

/// No request is refused, cut or answered with an error; jobs, services and output go on.
#[test]
fn no_request_notices_that_the_daemon_is_another() {
    let cluster = cluster(ClusterOptions::default()).unwrap();
    let node = Node::of(cluster.host(0));
    let before = node.baseline().unwrap();
    let mut job = with_service(counting(node.host, 1_000_000, "0.02", 0), "scenario-replaced", 8080);
    job.config.args[2].insert_str(0, "mkdir /www; httpd -p 8080 -h /www; ");
    let running = node.run(&job).unwrap();
    block_on(node.discoverd().wait_for_instances("scenario-replaced", 1, SETTLING)).unwrap();
    let audit = Audit::of("scenario-replaced", [node]);
    let (load, address) = (Load::default(), node.host.address(1113).unwrap());
    let command = itself(node);
    thread::scope(|scope| {
        let clients = [scope.spawn(|| load.connect_each_time(address)), scope.spawn(|| load.keep_alive(address))];
        let replaced = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..repeats() {
                let old = node.status().unwrap();
                let answer = block_on(node.api().update(&command)).unwrap();
                wait_until(SETTLING, "the new daemon answers", || match node.status() {
                    Ok(status) if status.pid == answer.pid => Ok(()),
                    other => Err(format!("{other:?}")),
                })
                .unwrap();
                let new = node.status().unwrap();
                assert_ne!(new.pid, old.pid);
                assert_eq!(
                    (new.id, new.network, new.discoverd, new.tags),
                    (old.id, old.network, old.discoverd, old.tags)
                );
                let now = node.job(&running.job.id).unwrap();
                assert_eq!((now.status, now.pid), (JobStatus::Running, running.pid), "round {round}");
                wait_until(SETTLING, "the old daemon is gone", || {
                    let state = node.host.state();
                    if matches!(&state, flynn_harness::HostState::Running(pids) if pids.len() == 1) {
                        Ok(())
                    } else {
                        Err(state)
                    }
                })
                .unwrap();
            }
        }));
        load.stop.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().unwrap());
        replaced.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let failures = load.failures.into_inner().unwrap();
    let answered = load.answered.into_inner();
    assert!(
        failures.is_empty(),
        "{} failures beside {answered} answers: {:#?}",
        failures.len(),
        &failures[..failures.len().min(5)]
    );
    assert!(answered > 10 * repeats(), "{answered} answers are no load");
    assert_eq!(audit.downs(), Vec::<String>::new());
    node.stop(&running.job.id).unwrap();
    numbered(&node.output(&running.job.id).unwrap().stdout).unwrap();
    node.wait_no_leaks(&before).unwrap();
    cluster.down().unwrap();
}

/// A program that is no daemon does not replace one: the client is told, and the old daemon works as before.
#[test]
fn a_bad_replacement_leaves_the_old_daemon_working() {
    let cluster = cluster(ClusterOptions::default()).unwrap();
    let node = Node::of(cluster.host(0));
    let before = node.baseline().unwrap();
    let old = node.status().unwrap();
    let running = node.run(&counting(node.host, 1_000_000, "0.02", 0)).unwrap();
    for round in 0..repeats().div_ceil(2) {
        for (path, args) in
            [("/bin/true", &[][..]), ("/bin/sh", &["-c", "head -c1 <&4 >/dev/null; exit 1"]), ("/nonexistent", &[])]
        {
            let args = args.iter().map(|arg: &&str| (*arg).to_owned()).collect();
            let command = Command { path: path.to_owned(), args, ..Command::default() };
            let err = block_on(node.api().update(&command)).unwrap_err();
            assert!(err.status().is_some(), "{path} in round {round}: an answer, not {err}");
            networked(node);
            let now = node.status().unwrap();
            assert_eq!(
                (now.pid, &now.network, &now.tags),
                (old.pid, &old.network, &old.tags),
                "{path} in round {round}"
            );
            let job = node.job(&running.job.id).unwrap();
            assert_eq!((job.status, job.pid), (JobStatus::Running, running.pid), "{path} in round {round}");
            let (ended, output) = node.run_to_end(&counting(node.host, 10, "", 0)).unwrap();
            assert_eq!((ended.status, numbered(&output.stdout)), (JobStatus::Done, Ok(10)), "{path} in round {round}");
        }
    }
    node.stop(&running.job.id).unwrap();
    numbered(&node.output(&running.job.id).unwrap().stdout).unwrap();
    node.wait_no_leaks(&before).unwrap();
    cluster.down().unwrap();
}

fn networked(node: Node<'_>) {
    wait_until(SETTLING, "the daemon has its network again", || match node.status() {
        Ok(status) if status.network.is_some() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
}
