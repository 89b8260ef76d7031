//! Whatever happens to backends, routes, certificates and the router itself: where a healthy backend is, no request fails
//! (reliability goals G9 to G12).

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::backend::Backend;
use crate::certificate::Certificate;
use crate::handover::{is_thorough, repeat, serve_more};
use crate::load::{Load, Plan};
use crate::rig::{Router, routes_to, until, write_routes};

/// What a router logs that another one has taken over from.
const REPLACED: &str = "another process takes the connections";

/// Requests per second at most: a machine that is slower carries what it can, which the test tells in the end.
fn plan() -> Plan {
    match is_thorough() {
        true => Plan { keep_alive: 1300, handshakes: 200, http2: 500, websockets: 0 },
        false => Plan { keep_alive: 220, handshakes: 20, http2: 80, websockets: 0 },
    }
}

/// What happens, one after another.
const EVENTS: u32 = 13;

/// A minute for all events at 100 repetitions, and ten seconds at least.
fn after_each() -> Duration {
    (Duration::from_secs(60) * repeat() / 100).max(Duration::from_secs(10)) / EVENTS
}

/// Lets requests go on for the time of an event; some must be answered, however slow the machine is.
fn go_on(load: &Load) {
    let begin = Instant::now();
    serve_more(load, 50);
    std::thread::sleep(after_each().saturating_sub(begin.elapsed()));
}

/// Changes other routes and their certificates ten times per second, until it is told to stop.
fn change_other_routes(file: &Path, served: &Mutex<Vec<String>>, stop: &AtomicBool) {
    let certificates = [Certificate::new("other.example.com"), Certificate::new("other.example.com")];
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let certificate = &certificates[round % 2];
        let mut others: Vec<_> = (0..round % 5)
            .map(|number| serde_json::json!({"domain": format!("{number}.example.com"), "service": "nobody"}))
            .collect();
        others.push(serde_json::json!({"domain": "other.example.com", "service": "s",
            "certificate": {"cert": certificate.chain, "key": certificate.key}}));
        let addresses = served.lock().expect("no panic").clone();
        write_routes(file, &routes_to(&addresses, &others));
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "the rate is a result")]
fn no_request_fails_where_a_healthy_backend_is() {
    let mut backends: Vec<Backend> = (1..=4).map(|number| Backend::start(&format!("backend {number}"))).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let point = folder.path().join("handover").to_string_lossy().into_owned();
    let mut router =
        Router::start(&backends.iter().collect::<Vec<_>>(), &["--backend-silence-seconds", "1", "--handover", &point]);
    let address = |backend: &Backend| backend.address().to_string();
    let served = Mutex::new(backends.iter().map(address).collect::<Vec<_>>());
    let (stop, file) = (AtomicBool::new(false), router.routes_file());
    // WebSockets are not what this is about: they end with their backends.
    let (load, begin) = (Load::start(&router, plan()), Instant::now());
    // Lives until the load has ended.
    let mut upgraded = None;
    std::thread::scope(|scope| {
        scope.spawn(|| change_other_routes(&file, &served, &stop));
        let happened = catch_unwind(AssertUnwindSafe(|| {
            go_on(&load);
            // Added.
            backends.push(Backend::start("backend 5"));
            served.lock().expect("no panic").push(address(&backends[4]));
            go_on(&load);
            // Drained: taken from the list, and ended when it has nothing more to do.
            served.lock().expect("no panic").remove(0);
            go_on(&load);
            backends[0].signal(Signal::TERM);
            go_on(&load);
            // Killed, while the list still has it.
            backends[1].signal(Signal::KILL);
            go_on(&load);
            // Stopped: it goes on to take connections, and answers nothing.
            backends[2].signal(Signal::STOP);
            until("it is noticed", || (router.logged("backend hangs") > 0).then_some(()));
            go_on(&load);
            backends[2].signal(Signal::CONT);
            until("it is taken back", || (router.logged("backend answers again") > 0).then_some(()));
            go_on(&load);
            backends[3].be("slow");
            go_on(&load);
            backends[3].be("garbage");
            go_on(&load);
            backends[3].signal(Signal::KILL);
            go_on(&load);
            // The router starts anew.
            for _ in 0..2 {
                router.replace();
                go_on(&load);
            }
            // And is upgraded as a deployment does it: the next one comes by itself, then the former is told to end.
            let before = router.logged(REPLACED);
            upgraded = Some(router.again());
            until("the next router serves", || (router.logged(REPLACED) > before).then_some(()));
            router.program.signal(Signal::TERM);
            assert_eq!(router.program.wait(), 0, "{}", router.log());
            go_on(&load);
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = happened {
            resume_unwind(panic);
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    let outcome = load.stop();
    assert_eq!(outcome.failures, [""; 0], "{:?} were answered; {}", outcome.answered, router.log());
    let offered = plan().keep_alive + plan().handshakes + plan().http2;
    let answered: usize = outcome.answered.iter().sum();
    eprintln!("{offered} requests per second at most: {answered} in {seconds:.0} s, and none failed");
}

#[test]
fn a_request_that_only_a_hanging_backend_could_answer_waits_for_it() {
    let backend = Backend::start("backend 1");
    let router = Router::start(&[&backend], &["--backend-silence-seconds", "1"]);
    let load = Load::start(&router, Plan { keep_alive: 20, handshakes: 0, http2: 0, websockets: 0 });
    serve_more(&load, 20);
    backend.signal(Signal::STOP);
    until("it is noticed", || (router.logged("backend hangs") > 0).then_some(()));
    backend.signal(Signal::CONT);
    serve_more(&load, 20);
    let outcome = load.stop();
    assert_eq!(outcome.failures, [""; 0], "{:?} were answered; {}", outcome.answered, router.log());
}
