//! Replacing the router's process without a lost request (spec router sections 2.4, 2.6 and K11).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::backend::Backend;
use crate::load::{Load, Plan};
use crate::rig::{Router, connect, descendants, free_port, marked, only_supervises, routes, until};

/// How often fault tests repeat (`script/test --repeat`).
pub(crate) fn repeat() -> u32 {
    std::env::var("FLYNN_TEST_REPEAT").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// The whole load from 100 on.
pub(crate) fn is_thorough() -> bool {
    repeat() >= 100
}

/// How often the router is replaced under load.
const REPLACED: usize = 20;

fn plan() -> Plan {
    match is_thorough() {
        true => Plan { keep_alive: 1000, handshakes: 200, http2: 500, websockets: 100 },
        false => Plan { keep_alive: 150, handshakes: 20, http2: 80, websockets: 20 },
    }
}

/// Waits until so many more requests have been answered.
pub(crate) fn serve_more(load: &Load, count: usize) {
    let goal = load.answered() + count;
    until("requests are answered", || (load.answered() >= goal).then_some(()));
}

#[test]
fn k11_no_request_notices_that_the_router_is_replaced() {
    let backends = [Backend::start("backend 1"), Backend::start("backend 2")];
    let mut router = Router::start(&backends.each_ref(), &[]);
    let load = Load::start(&router, plan());
    for _ in 0..REPLACED {
        serve_more(&load, 50);
        router.replace();
        serve_more(&load, 50);
    }
    let outcome = load.stop();
    assert_eq!(outcome.failures, [""; 0], "{:?} were answered; {}", outcome.answered, router.log());
    assert!(outcome.answered.iter().all(|count| *count > 0), "{:?}", outcome.answered);
    router.program.signal(Signal::TERM);
    assert_eq!(router.program.wait(), 0, "the process that was started first ends last, and well");
}

#[test]
fn a_router_that_comes_by_the_meeting_point_takes_over_and_gives_back() {
    let backend = Backend::start("backend 1");
    let folder = tempfile::tempdir().expect("a folder");
    let point = folder.path().join("handover");
    let router = Router::start(&[&backend], &["--handover", &point.to_string_lossy()]);
    let load = Load::start(&router, plan());
    for round in 1..=3 {
        serve_more(&load, 50);
        let mut second = router.again();
        until("the second router serves", || {
            (router.logged("another process takes the connections") == round).then_some(())
        });
        serve_more(&load, 50);
        // Is rolled back: the first one has not been told to end.
        second.signal(Signal::TERM);
        assert_eq!(second.wait(), 0);
        until("the first router serves again", || (router.logged("this one serves again") == round).then_some(()));
        // It opens the meeting point only once.
        drop(second);
        until("the meeting point is the first one's", || point.exists().then_some(()));
    }
    serve_more(&load, 50);
    let outcome = load.stop();
    assert_eq!(outcome.failures, [""; 0], "{:?} were answered; {}", outcome.answered, router.log());
}

#[test]
fn a_successor_that_dies_changes_nothing() {
    let backend = Backend::start("backend 1");
    let router = Router::start(&[&backend], &[]);
    let load = Load::start(&router, plan());
    // Cannot be read: the successor fails after it got the sockets.
    let routes = std::fs::read_to_string(router.routes_file()).expect("it was written");
    std::fs::write(router.routes_file(), "{").expect("the folder is ours");
    router.program.signal(Signal::USR2);
    until("the successor fails", || (router.logged("the other one does not take over") == 1).then_some(()));
    std::fs::write(router.routes_file(), routes).expect("the folder is ours");
    serve_more(&load, 50);
    // Is killed the moment it has them.
    router.program.signal(Signal::USR2);
    until("the successor has the sockets", || (router.logged("took over the sockets") == 2).then_some(()));
    for child in descendants(router.program.pid()) {
        flynn_handover::signal_to(child, Signal::KILL);
    }
    until("the router serves alone again", || {
        let gave_up = router.logged("the other one does not take over") == 2;
        (gave_up || router.logged("this one serves again") == 1).then_some(())
    });
    serve_more(&load, 50);
    router.replace();
    serve_more(&load, 50);
    let outcome = load.stop();
    // Killed after it served, it takes the connections with it that it had accepted.
    let lost_with_it = router.logged("this one serves again") > 0;
    assert!(outcome.failures.is_empty() || lost_with_it, "{:?}; {}", outcome.failures, router.log());
}

#[test]
fn a_predecessor_that_is_killed_leaves_its_sockets() {
    let backend = Backend::start("backend 1");
    let folder = tempfile::tempdir().expect("a folder");
    let point = folder.path().join("handover");
    let mut router = Router::start(&[&backend], &["--handover", &point.to_string_lossy()]);
    let second = router.again();
    until("the second router has the sockets", || (router.logged("took over the sockets") == 1).then_some(()));
    router.program.child.kill().expect("it is our child");
    router.program.child.wait().expect("it is our child");
    assert!(router.get().ends_with("\r\n\r\nbackend 1"), "{}", router.log());
    // Before it gives anything: the third one finds a socket where nobody is.
    drop(second);
    let third = router.again();
    assert!(router.get().ends_with("\r\n\r\nbackend 1"), "{}", router.log());
    drop(third);
}

#[test]
fn an_idle_connection_is_answered_after_the_router_was_replaced() {
    let backend = Backend::start("backend 1");
    let router = Router::start(&[&backend], &["--tunnel-drain-seconds", "2", "--drain-seconds", "60"]);
    let mut idle = connect(router.http);
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("the router reads");
    let mut answer = [0; 512];
    let length = idle.read(&mut answer).expect("an answer");
    assert!(answer[..length].ends_with(b"backend 1"));
    let mut websocket = connect(router.http);
    websocket
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        .expect("sent");
    let length = websocket.read(&mut answer).expect("an answer");
    assert!(answer[..length].starts_with(b"HTTP/1.1 101 "));
    router.replace();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("the router reads");
    let mut last = String::new();
    idle.read_to_string(&mut last).expect("an answer, and the end");
    assert!(last.to_lowercase().contains("connection: close") && last.ends_with("backend 1"), "{last}");
    // A tunnel ends with its own time.
    websocket.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    assert_eq!(websocket.read(&mut answer).expect("the connection ends well"), 0);
    until("the former process only supervises", || only_supervises(router.program.pid()).then_some(()));
    assert!(router.get().ends_with("backend 1"));
}

#[test]
fn k6_a_backend_is_drained_when_the_former_process_has_answered_too() {
    let (slow, other) = (Backend::start("slow"), Backend::start("other"));
    let router = Router::start(&[], &[]);
    let draining = |backends: &[&Backend]| {
        let mut document = routes(backends, &[]);
        document["routes"][0]["drain_backends"] = true.into();
        router.write(&document);
    };
    draining(&[&slow]);
    until("the backend answers", || router.get().ends_with("slow").then_some(()));
    // Its tunnel stays with the process that is replaced.
    let mut tunnel = connect(router.http);
    tunnel.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").expect("sent");
    let mut answer = [0; 512];
    let length = tunnel.read(&mut answer).expect("an answer");
    assert!(answer[..length].starts_with(b"HTTP/1.1 101 "));
    router.replace();
    let mut events = router.events("backend-up,backend-down,backend-drained");
    assert_eq!(events.next(), format!("backend-up {}", slow.address()));
    draining(&[&other]);
    let mut said: Vec<String> = (0..2).map(|_| events.next()).collect();
    said.sort();
    assert_eq!(said, [format!("backend-down {}", slow.address()), format!("backend-up {}", other.address())]);
    assert_eq!(events.within(Duration::from_millis(500)), None, "the tunnel is in use");
    drop(tunnel);
    assert_eq!(events.next(), format!("backend-drained {}", slow.address()));
}

#[test]
fn tcp_routes_are_handed_over_too() {
    let backend = Backend::start("backend 1");
    let mut router = Router::start(&[&backend], &[]);
    let port = free_port();
    router.write(&routes(&[&backend], &[serde_json::json!({"type": "tcp", "port": port, "service": "s"})]));
    drop(connect(port));
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let mut stream = TcpStream::connect(("127.0.0.1", port))?;
                stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
                let mut answer = [0; 17];
                stream.read_exact(&mut answer)?;
                assert_eq!(&answer, b"HTTP/1.1 200 OK\r\n");
                asked.fetch_add(1, Ordering::Relaxed);
            }
            std::io::Result::Ok(())
        });
        for _ in 0..5 {
            let goal = asked.load(Ordering::Relaxed) + 20;
            until("requests are answered", || {
                (asked.load(Ordering::Relaxed) >= goal || client.is_finished()).then_some(())
            });
            router.replace();
        }
        stop.store(true, Ordering::Relaxed);
        let ended = client.join().expect("no panic");
        assert!(ended.is_ok(), "{ended:?}; {}", router.log());
    });
    router.program.signal(Signal::TERM);
    assert_eq!(router.program.wait(), 0);
}

#[test]
fn what_a_test_has_started_ends_with_it() {
    let backend = Backend::start("backend 1");
    let mut router = Router::start(&[&backend], &[]);
    router.replace();
    // Its successor is nobody's child.
    router.program.child.kill().expect("it is our child");
    router.program.child.wait().expect("it is our child");
    assert!(router.get().ends_with("backend 1"), "{}", router.log());
    let mark = router.program.mark().to_owned();
    assert_ne!(marked(&mark), [0; 0]);
    drop(router);
    assert_eq!(marked(&mark), [0; 0]);
}
