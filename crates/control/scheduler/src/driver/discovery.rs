//! What discovery says of hosts, of services, and of who leads.

use std::time::Duration;

use flynn_discoverd_client::Client;
use flynn_types::discoverd::{EventKind, Instance};
use tokio_util::sync::DropGuard;
use uuid::Uuid;

use super::{Inbox, SERVICE};
use crate::Event;
use crate::event::HostNews;

const HOSTS: &str = "flynn-host";
/// From one comparison of all hosts to the next (spec section 5, host sync).
const COMPARE: Duration = Duration::from_secs(10);

/// Follows the hosts of the cluster.
pub(super) fn watch_hosts(inbox: &Inbox, discoverd: &Client) {
    let (inbox, mut watch) = (inbox.clone(), discoverd.watch(HOSTS));
    inbox.clone().spawn(async move {
        let mut compare = tokio::time::interval(COMPARE);
        let mut current = false;
        loop {
            let event = tokio::select! {
                event = watch.next() => event,
                _ = compare.tick() => {
                    if current {
                        let hosts = watch.view().instances.values().filter_map(host_news).collect();
                        inbox.put(Event::Hosts(hosts)).await;
                    }
                    continue;
                }
            };
            current |= event.kind == EventKind::Current;
            let Some(news) = event.instance.as_ref().and_then(host_news) else { continue };
            match event.kind {
                EventKind::Up | EventKind::Update => inbox.put(Event::HostUp(news)).await,
                EventKind::Down => inbox.put(Event::HostDown(news.id)).await,
                EventKind::Leader | EventKind::Current | EventKind::ServiceMeta | EventKind::Unknown => {}
            }
        }
    });
}

/// `None` for an instance that is no host.
fn host_news(instance: &Instance) -> Option<HostNews> {
    let meta = &instance.meta;
    let tag = |(key, value): (&String, &String)| Some((key.strip_prefix("tag:")?.to_owned(), value.clone()));
    Some(HostNews {
        id: meta.get("id")?.parse().ok()?,
        addr: instance.addr.clone(),
        tags: meta.iter().filter_map(tag).collect(),
        draining: meta.get("drain").is_some_and(|value| value == "true"),
        shutting_down: meta.contains_key("shutdown"),
    })
}

/// Follows who leads. The term is the index of the leader's registration: the oldest instance leads, so it only grows.
pub(super) fn watch_leader(inbox: &Inbox, discoverd: &Client, own: &Instance) {
    let (inbox, own, mut watch) = (inbox.clone(), own.addr.clone(), discoverd.watch_leader(SERVICE));
    inbox.clone().spawn(async move {
        loop {
            // No leader: everybody keeps the role (spec S3).
            if let Some(leader) = watch.next().await {
                inbox.put(Event::Leader { ours: leader.addr == own, term: leader.index }).await;
            }
        }
    });
}

/// Follows a service until the guard is dropped.
pub(super) fn watch_service(inbox: &Inbox, discoverd: &Client, service: &str) -> DropGuard {
    let (to, name, mut watch) = (inbox.clone(), service.to_owned(), discoverd.watch(service));
    inbox.spawn_guarded(async move {
        loop {
            let event = watch.next().await;
            let Some(instance) = event.instance else { continue };
            let job = instance.meta.get("FLYNN_JOB_ID").and_then(|id| id.split_once('-')?.1.parse::<Uuid>().ok());
            let (service, instance) = (name.clone(), instance.id);
            match (event.kind, job) {
                (EventKind::Up | EventKind::Update, Some(job)) => {
                    to.put(Event::InstanceUp { service, instance, job }).await;
                }
                (EventKind::Down, _) => to.put(Event::InstanceDown { service, instance }).await,
                _ => {}
            }
        }
    })
}
