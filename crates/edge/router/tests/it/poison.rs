//! A long random history of routes, certificates and services, many of them wrong: after it the router serves what a
//! simple model says.
//!
//! `FLYNN_ROUTER_EVENTS=1000000` makes it long, and `FLYNN_ROUTER_SEED` repeats one that failed. Printed at the end: the
//! longest time for which taking the events in let no other task run, in processor time, because a busy machine takes
//! away the other kind.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use flynn_router::source::{Change, Instance, Membership};
use flynn_router::{Router, Serving, Sockets};
use flynn_telemetry::Metrics;
use flynn_types::router::{Certificate, Route, RouteKind};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::backend::Backend;
use crate::client::Client;
use crate::rig::{LIMIT, led, members, route, settings, within};
use crate::tls::{Authority, Pair, with_certificate};

const SERVICES: usize = 8;
const DOMAINS: usize = 60;
/// Events between two looks at what is served, at least; of a long history there are some hundred looks.
const ROUND: usize = 500;

/// What should be served.
#[derive(Default)]
struct Model {
    /// By id.
    routes: BTreeMap<String, Route>,
    services: BTreeMap<String, Membership>,
}

impl Model {
    /// The status and body of a `GET /` for a route's domain; `backends` have these addresses in order.
    fn expected(&self, domain: &str, backends: &[SocketAddr]) -> (u16, Vec<&'static str>) {
        let Some(route) = self.routes.get(&format!("{domain}/")) else { return (404, vec!["Not Found\n"]) };
        if route.maintenance {
            return (503, vec!["Down for maintenance\n"]);
        }
        let none = Membership::default();
        let service = self.services.get(&route.service).unwrap_or(&none);
        let may_answer = |address: &&SocketAddr| !route.leader || service.leader == Some(**address);
        let all: Vec<_> = service.instances.iter().map(|instance| instance.address).collect();
        let answering: Vec<_> = all.iter().filter(may_answer).collect();
        if answering.is_empty() {
            return (503, vec!["Service Unavailable\n"]);
        }
        let name = |address: &&SocketAddr| NAMES[backends.iter().position(|known| known == *address).expect("known")];
        (200, answering.iter().map(name).collect())
    }
}

const NAMES: [&str; 3] = ["one", "two", "three"];

struct History {
    random: StdRng,
    model: Model,
    backends: Vec<SocketAddr>,
    pairs: Vec<Pair>,
}

impl History {
    fn domain(&mut self) -> String {
        format!("d{}.org", self.random.random_range(0..DOMAINS))
    }

    fn service(&mut self) -> String {
        format!("s{}", self.random.random_range(0..SERVICES))
    }

    /// A route that can be served.
    fn good(&mut self) -> Route {
        let (domain, service) = (self.domain(), self.service());
        let mut good = route(&domain, &service);
        good.leader = self.random.random_bool(0.2);
        good.sticky = self.random.random_bool(0.2);
        good.maintenance = self.random.random_bool(0.1);
        good.drain_backends = self.random.random_bool(0.5);
        good.max_body_bytes = self.random.random_range(0..3);
        if self.random.random_bool(0.3) {
            let pair = &self.pairs[self.random.random_range(0..self.pairs.len())];
            good = with_certificate(good, pair);
        }
        if self.random.random_bool(0.1) {
            // A certificate that is none spoils only itself.
            let cert = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into();
            good.certificate = Some(Certificate { cert, key: "key".into(), ..Certificate::default() });
        }
        good
    }

    /// A route that cannot be served.
    fn poisoned(&mut self) -> Route {
        let good = self.good();
        match self.random.random_range(0..9) {
            0 => Route { service: String::new(), ..good },
            1 => Route { domain: "a b".into(), ..good },
            2 => Route { domain: String::new(), ..good },
            3 => Route { path: "no/slash".into(), ..good },
            4 => Route { backend_protocol: "h9".into(), ..good },
            5 => Route { kind: RouteKind::Tcp, port: 0, ..good },
            6 => Route { kind: RouteKind::Tcp, port: 3000, proxy_protocol: "v9".into(), ..good },
            7 => Route { domain: "x".repeat(300), ..good },
            _ => Route { domain: "\u{0}/*".into(), ..good },
        }
    }

    fn membership(&mut self) -> Membership {
        let service = self.service();
        let backends = self.backends.clone();
        let chosen: Vec<_> = backends.into_iter().filter(|_| self.random.random_bool(0.6)).collect();
        match self.random.random_range(0..4) {
            0 => led(&service, &chosen, ([10, 255, 255, 1], 1).into()),
            1 if !chosen.is_empty() => led(&service, &chosen, chosen[0]),
            // The same one twice.
            2 => {
                let mut twice = members(&service, &chosen);
                twice.instances.extend(chosen.first().map(|address| Instance::new(*address)));
                twice
            }
            _ => members(&service, &chosen),
        }
    }

    /// The next event, which the model knows.
    fn next(&mut self) -> Change {
        match self.random.random_range(0..1000) {
            0..400 => {
                let good = self.good();
                self.model.routes.insert(good.id.clone(), good.clone());
                Change::Set(Box::new(good))
            }
            400..600 => Change::Set(Box::new(self.poisoned())),
            600..750 => {
                let id = format!("{}/", self.domain());
                self.model.routes.remove(&id);
                Change::Remove { id: id.into() }
            }
            750..760 => Change::Remove { id: "unknown".into() },
            760..998 => {
                let membership = self.membership();
                self.model.services.insert(membership.service.to_string(), membership.clone());
                Change::Members(membership)
            }
            _ => {
                // A complete list, with wrong ones among the right. Those take nothing away from what was.
                let mut routes: Vec<_> = (0..DOMAINS / 2).map(|_| self.good()).collect();
                routes.sort_by(|a, b| a.id.cmp(&b.id));
                routes.dedup_by(|a, b| a.id == b.id);
                let listed: BTreeMap<_, _> = routes.iter().map(|good| (good.id.clone(), good.clone())).collect();
                let mut poisoned = Vec::new();
                for _ in 0..5 {
                    let wrong = self.poisoned();
                    if !listed.contains_key(&wrong.id) {
                        poisoned.push(wrong);
                    }
                }
                let known = std::mem::take(&mut self.model.routes);
                let kept = known.into_iter().filter(|(id, _)| poisoned.iter().any(|wrong| wrong.id == *id));
                self.model.routes = kept.chain(listed).collect();
                routes.extend(poisoned);
                Change::Routes(routes)
            }
        }
    }
}

/// Looks at every domain.
async fn check(serving: &Serving, history: &History, round: usize) {
    let mut client = Client::connect(serving.addresses()[0]).await;
    for n in 0..DOMAINS {
        let domain = format!("d{n}.org");
        let (status, bodies) = history.model.expected(&domain, &history.backends);
        let answer = client.get(&domain, "/").await;
        let text = answer.text();
        assert!(
            answer.status == status && bodies.contains(&text.as_str()),
            "round {round}, {domain}: {status} {bodies:?} is right, {} {text:?} was served; {:?}",
            answer.status,
            history.model.routes.get(&format!("{domain}/")),
        );
    }
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or_default(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Notes the longest time for which this thread ran without coming back to it.
async fn probe(stop: Arc<AtomicBool>, longest_us: Arc<AtomicU64>) {
    let mut last = processor_time();
    while !stop.load(Ordering::Relaxed) {
        tokio::task::yield_now().await;
        let now = processor_time();
        let gap = u64::try_from((now - last).as_micros()).unwrap_or(u64::MAX);
        longest_us.fetch_max(gap, Ordering::Relaxed);
        last = now;
    }
}

#[tokio::test]
async fn only_the_poisoned_route_is_lost_in_a_random_history() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let events = usize::try_from(number("FLYNN_ROUTER_EVENTS").unwrap_or(20_000)).expect("it fits");
    let seed = number("FLYNN_ROUTER_SEED").unwrap_or_else(rand::random);
    let backends = [Backend::named(NAMES[0]).await, Backend::named(NAMES[1]).await, Backend::named(NAMES[2]).await];
    let authority = Authority::new();
    let mut history = History {
        random: StdRng::seed_from_u64(seed),
        model: Model::default(),
        backends: backends.iter().map(|backend| backend.address).collect(),
        pairs: (0..20).map(|n| authority.issue(&[&format!("d{n}.org")])).collect(),
    };
    // The control has a thread of its own, together with the probe.
    let (stop, longest_us) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (sender, receiver) = std::sync::mpsc::channel();
    let (probe_stop, probe_longest) = (Arc::clone(&stop), Arc::clone(&longest_us));
    let control = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let router = Router::new(settings(), &Metrics::new("flynn_router"));
            let changes = router.changes();
            changes.send(Change::Routes(Vec::new())).await.expect("the router takes changes");
            let serving = router.listen("v1", Sockets::default()).expect("loopback has free ports");
            sender.send((changes, serving)).expect("the test waits");
            probe(probe_stop, probe_longest).await;
        });
    });
    let (changes, serving) = receiver.recv_timeout(LIMIT).expect("the router begins");
    let length = ROUND.max(events / 200);
    for round in 0..events.div_ceil(length) {
        for _ in 0..length {
            within(changes.send(history.next())).await.expect("the router takes changes");
        }
        // A source of services tells all of a service that routes begin to name.
        for membership in history.model.services.values() {
            within(changes.send(Change::Members(membership.clone()))).await.expect("the router takes changes");
        }
        settle(&serving, &changes, round).await;
        check(&serving, &history, round).await;
    }
    stop.store(true, Ordering::Relaxed);
    control.join().expect("the control goes on");
    let longest = Duration::from_micros(longest_us.load(Ordering::Relaxed));
    print_figures(seed, events, longest);
    drop(serving);
}

/// Waits until all that was sent is served: a route that comes last is.
async fn settle(serving: &Serving, changes: &flynn_router::source::Changes, round: usize) {
    let domain = format!("end{}.org", round % 2);
    let end = Route { maintenance: true, max_body_bytes: round as u64, ..route(&domain, "end") };
    within(changes.send(Change::Remove { id: format!("end{}.org/", (round + 1) % 2).into() })).await.expect("open");
    within(changes.send(Change::Set(Box::new(end)))).await.expect("the router takes changes");
    let ask = async || Client::connect(serving.addresses()[0]).await.get(&domain, "/").await.status;
    crate::rig::eventually(503, ask).await;
}

#[expect(clippy::print_stdout, reason = "figures of a test, shown when it fails or is asked for")]
fn print_figures(seed: u64, events: usize, longest: Duration) {
    println!("seed {seed}: {events} events, at most {longest:?} without letting others run");
}
