//! When a job serves, and how it is taken out of service (spec J8 to J12 and J28); sinks (spec N1 to N4).

use std::collections::BTreeMap;
use std::time::Duration;

use flynn_types::controller::Sink;
use flynn_types::host::SinkInfo;
use flynn_types::id::HostId;
use flynn_types::router::{Backend, Route, StreamEvent, StreamEventKind};
use uuid::Uuid;

use super::cluster::{Cluster, formation, with};
use crate::event::Answer;
use crate::world::Phase;
use crate::{Action, Event};

/// An app with a service, and two routers; `routed` have a route for it.
fn with_service(routed: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(1);
    for router in ["router1", "router2"] {
        cluster.event(&Event::RouterUp(router.into()));
        if routed.contains(&router) {
            let route = Route { id: "route".into(), service: "shop-web".into(), ..Route::default() };
            let event = StreamEvent { route: Some(route), ..StreamEvent::new(StreamEventKind::Set) };
            cluster.event(&Event::Router { router: router.into(), event });
        }
    }
    cluster.settle();
    cluster.put(with(formation("shop", "r1", &[("web", 1)]), "web", |web| web.service = "shop-web".into()));
    cluster
}

fn backend(cluster: &mut Cluster, router: &str, kind: StreamEventKind, host: &HostId, job: Uuid) {
    let backend = Backend { service: "shop-web".into(), job_id: format!("{host}-{job}"), ..Backend::default() };
    let event = StreamEvent { backend: Some(backend), ..StreamEvent::new(kind) };
    cluster.event(&Event::Router { router: router.into(), event });
    cluster.settle();
}

fn phase(cluster: &Cluster, job: Uuid) -> &'static str {
    cluster.world().job(job).map_or("gone", |job| job.state().as_str())
}

#[test]
fn j8_j11_a_job_with_a_service_is_up_when_the_service_is() {
    let mut cluster = with_service(&[]);
    cluster.host("host1").slow = true;
    cluster.settle();
    let (host, job) = cluster.only("shop", "r1", "web");
    // It runs, and nothing is registered.
    let mut report = cluster.hosts[&host].jobs[&job].report.clone();
    report.status = flynn_types::host::JobStatus::Running;
    cluster.event(&Event::HostJob { host, report: Box::new(report) });
    cluster.run(Duration::from_secs(20));
    assert_eq!(phase(&cluster, job), "starting");
    let instance = Event::InstanceUp { service: "shop-web".into(), instance: "i".into(), job };
    cluster.event(&instance);
    cluster.settle();
    assert_eq!(phase(&cluster, job), "up", "no router has a route for it");
}

#[test]
fn j8_a_job_seen_for_the_first_time_is_up_when_its_host_says_so() {
    let mut cluster = with_service(&["router1"]);
    cluster.run(Duration::from_secs(12));
    let (_, job) = cluster.only("shop", "r1", "web");
    cluster.start_scheduler(99);
    cluster.settle();
    let world = &cluster.schedulers[1].world;
    assert_eq!(world.job(job).unwrap().state().as_str(), "up");
}

#[test]
fn j9_all_routers_with_a_route_have_to_know_the_backend() {
    let mut cluster = with_service(&["router1", "router2"]);
    cluster.settle();
    let (host, job) = cluster.only("shop", "r1", "web");
    assert_eq!(phase(&cluster, job), "starting");
    backend(&mut cluster, "router1", StreamEventKind::BackendUp, &host, job);
    assert_eq!(phase(&cluster, job), "starting", "one of two");
    backend(&mut cluster, "router2", StreamEventKind::BackendUp, &host, job);
    assert_eq!(phase(&cluster, job), "up");
}

#[test]
fn j9_a_router_that_says_nothing_is_waited_for_ten_seconds() {
    let mut cluster = with_service(&["router1"]);
    cluster.run(Duration::from_secs(9));
    let (_, job) = cluster.only("shop", "r1", "web");
    assert_eq!(phase(&cluster, job), "starting");
    cluster.run(Duration::from_secs(2));
    assert_eq!(phase(&cluster, job), "up");
    cluster.check();
}

#[test]
fn j12_w19_a_router_that_is_gone_is_not_waited_for() {
    let mut cluster = with_service(&["router1"]);
    cluster.event(&Event::RouterDown("router1".into()));
    cluster.settle();
    let (_, job) = cluster.only("shop", "r1", "web");
    assert_eq!(phase(&cluster, job), "up");
}

#[test]
fn j10_a_service_is_watched_while_something_of_it_is_wanted() {
    let mut cluster = with_service(&[]);
    cluster.settle();
    assert_eq!(cluster.world().services().collect::<Vec<_>>(), ["shop-web"]);
    cluster.scale("shop", "r1", &[("web", 0)]);
    cluster.settle();
    assert_eq!(cluster.world().services().count(), 0);
}

/// A job that serves behind `router1`, and is being stopped.
fn stopping() -> (Cluster, HostId, Uuid) {
    let mut cluster = with_service(&["router1"]);
    cluster.settle();
    let (host, job) = cluster.only("shop", "r1", "web");
    backend(&mut cluster, "router1", StreamEventKind::BackendUp, &host, job);
    cluster.ordered.clear();
    cluster.scale("shop", "r1", &[("web", 0)]);
    cluster.settle();
    assert!(matches!(cluster.world().job(job).unwrap().phase, Phase::Stopping { .. }));
    assert!(cluster.ordered.iter().any(|action| matches!(action, Action::Withdraw { .. })), "withdrawn first");
    assert_eq!(cluster.count("shop", "r1", "web"), 1, "and not ended");
    (cluster, host, job)
}

#[test]
fn j28_t28_a_job_that_serves_is_ended_when_routers_have_drained_it() {
    let (mut cluster, host, job) = stopping();
    backend(&mut cluster, "router1", StreamEventKind::BackendDown, &host, job);
    assert_eq!(cluster.count("shop", "r1", "web"), 1, "requests are in flight");
    backend(&mut cluster, "router1", StreamEventKind::BackendDrained, &host, job);
    assert_eq!(cluster.count("shop", "r1", "web"), 0);
    cluster.check();
}

#[test]
fn j28_a_router_that_does_not_drain_is_waited_for_ten_seconds() {
    let (mut cluster, _, _) = stopping();
    cluster.run(Duration::from_secs(9));
    assert_eq!(cluster.count("shop", "r1", "web"), 1);
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.count("shop", "r1", "web"), 0);
}

#[test]
fn j12_the_loss_of_a_router_counts_as_drained() {
    let (mut cluster, _, _) = stopping();
    cluster.event(&Event::RouterDown("router1".into()));
    cluster.settle();
    assert_eq!(cluster.count("shop", "r1", "web"), 0);
}

#[test]
fn j28_a_job_that_no_router_knows_is_ended_at_once() {
    let mut cluster = with_service(&[]);
    cluster.settle();
    cluster.ordered.clear();
    cluster.scale("shop", "r1", &[("web", 0)]);
    cluster.settle();
    assert_eq!(cluster.count("shop", "r1", "web"), 0);
    assert!(!cluster.ordered.iter().any(|action| matches!(action, Action::Withdraw { .. })));
}

fn config(text: &str) -> Option<Box<serde_json::value::RawValue>> {
    Some(serde_json::value::RawValue::from_string(text.into()).unwrap())
}

#[test]
fn n1_n2_n3_n4_every_scheduler_keeps_the_sinks_of_every_host() {
    let mut cluster = Cluster::with(2, 2, 5);
    let sink = |id: &str, text: &str| Sink { id: id.into(), config: config(text), ..Sink::default() };
    let found = |id: &str, text: &str, host_managed| SinkInfo {
        id: id.into(),
        config: config(text),
        host_managed,
        ..SinkInfo::default()
    };
    let on_host1 = vec![
        found("same", "1", false),
        found("changed", "1", false),
        found("gone", "1", false),
        found("own", "1", true),
    ];
    let host = |name: &str| name.parse::<HostId>().unwrap();
    let mut wanted = BTreeMap::new();
    for scheduler in 0..2 {
        cluster.ordered.clear();
        let sinks = vec![sink("same", "1"), sink("changed", "2"), sink("missing", "1")];
        cluster.event_to(scheduler, Event::Sinks(sinks));
        for (name, sinks) in [("host1", on_host1.clone()), ("host2", Vec::new())] {
            let event = Answer::SinksSynced { host: host(name), sinks: Some(sinks) };
            cluster.event_to(scheduler, Event::Answer(event));
        }
        cluster.settle();
        for action in &cluster.ordered {
            if let Action::SyncSinks { host, put, remove } = action {
                wanted.insert(host.to_string(), (put.join(" "), remove.join(" ")));
            }
        }
        let expected = [("host1", "changed missing", "gone"), ("host2", "changed missing same", "")]
            .map(|(host, put, remove)| (host.to_owned(), (put.to_owned(), remove.to_owned())));
        assert_eq!(std::mem::take(&mut wanted), BTreeMap::from(expected));
    }
}
