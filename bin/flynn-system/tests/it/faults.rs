//! Whatever happens to backends, routes, certificates and the router itself: where a healthy backend is, no request fails
//! (reliability goals G9 to G12).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::backend::Backend;
use crate::certificate::Certificate;
use crate::handover::{is_thorough, serve_more};
use crate::load::{Load, Plan};
use crate::rig::{Router, routes_to, until};

fn plan() -> Plan {
    match is_thorough() {
        true => Plan { keep_alive: 1300, handshakes: 200, http2: 500, websockets: 100 },
        false => Plan { keep_alive: 150, handshakes: 20, http2: 80, websockets: 20 },
    }
}

/// Requests after each event, so that the thorough run takes its minute.
fn after_each() -> usize {
    if is_thorough() { 8000 } else { 250 }
}

/// Changes other routes and their certificates ten times per second, until it is told to stop.
fn change_other_routes(router: &Router, served: &std::sync::Mutex<Vec<String>>, stop: &AtomicBool) {
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
        router.write(&routes_to(&addresses, &others));
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn no_request_fails_where_a_healthy_backend_is() {
    let mut backends: Vec<Backend> = (1..=4).map(|number| Backend::start(&format!("backend {number}"))).collect();
    let router = Router::start(&backends.iter().collect::<Vec<_>>(), &["--backend-silence-seconds", "1"]);
    let address = |backend: &Backend| backend.address().to_string();
    let served = std::sync::Mutex::new(backends.iter().map(address).collect::<Vec<_>>());
    let stop = AtomicBool::new(false);
    // WebSockets are not what this is about: they end with their backends.
    let load = Load::start(&router, Plan { websockets: 0, ..plan() });
    std::thread::scope(|scope| {
        scope.spawn(|| change_other_routes(&router, &served, &stop));
        let happened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            serve_more(&load, after_each());
            // Added.
            backends.push(Backend::start("backend 5"));
            served.lock().expect("no panic").push(address(&backends[4]));
            serve_more(&load, after_each());
            // Drained: taken from the list, and ended when it has nothing more to do.
            served.lock().expect("no panic").remove(0);
            serve_more(&load, after_each());
            backends[0].signal(Signal::TERM);
            serve_more(&load, after_each());
            // Killed, while the list still has it.
            backends[1].signal(Signal::KILL);
            serve_more(&load, after_each());
            // Stopped: it goes on to take connections, and answers nothing.
            backends[2].signal(Signal::STOP);
            until("it is noticed", || (router.logged("backend hangs") > 0).then_some(()));
            serve_more(&load, after_each());
            backends[2].signal(Signal::CONT);
            until("it is taken back", || (router.logged("backend answers again") > 0).then_some(()));
            serve_more(&load, after_each());
            backends[3].be("slow");
            serve_more(&load, after_each());
            backends[3].be("garbage");
            serve_more(&load, after_each());
            backends[3].signal(Signal::KILL);
            for _ in 0..2 {
                router.replace();
                serve_more(&load, after_each());
            }
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = happened {
            std::panic::resume_unwind(panic);
        }
    });
    let outcome = load.stop();
    assert_eq!(outcome.failures, [""; 0], "{:?} were answered; {}", outcome.answered, router.log());
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
