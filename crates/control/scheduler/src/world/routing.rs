//! Who serves, as discovery and the routers say.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use flynn_types::router::{StreamEvent, StreamEventKind};
use uuid::Uuid;

use crate::time::Time;

/// Longest wait for routers to take a backend up, and to drain one (spec section 5).
pub const ROUTER_PATIENCE: Duration = Duration::from_secs(10);

/// Services, their jobs, and what routers know of both.
#[derive(Clone, Default)]
pub(crate) struct Routing {
    /// By service, then by instance: the job behind it.
    services: BTreeMap<String, BTreeMap<String, Uuid>>,
    /// Since when a job is registered.
    up: HashMap<Uuid, Time>,
    routers: BTreeMap<String, Router>,
}

#[derive(Clone, Default)]
struct Router {
    /// Service by route.
    routes: HashMap<String, String>,
    /// Jobs it sends requests to, and whether it still does.
    backends: HashMap<Uuid, Backend>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Up,
    Down,
}

impl Routing {
    /// An instance of a service was registered.
    pub(crate) fn instance_up(&mut self, service: &str, instance: &str, job: Uuid, now: Time) {
        self.services.entry(service.to_owned()).or_default().insert(instance.to_owned(), job);
        self.up.entry(job).or_insert(now);
    }

    /// The job whose instance it was.
    pub(crate) fn instance_down(&mut self, service: &str, instance: &str) -> Option<Uuid> {
        let instances = self.services.get_mut(service)?;
        let job = instances.remove(instance);
        if instances.is_empty() {
            self.services.remove(service);
        }
        self.up.remove(&job?);
        job
    }

    /// The service is watched no longer.
    pub(crate) fn forget_service(&mut self, service: &str) {
        for job in self.services.remove(service).into_iter().flatten().map(|(_, job)| job) {
            self.up.remove(&job);
        }
    }

    /// The events of a router begin anew.
    pub(crate) fn router_up(&mut self, router: &str) {
        self.routers.insert(router.to_owned(), Router::default());
    }

    /// A router that is gone drains nothing. Jobs it knew.
    pub(crate) fn router_down(&mut self, router: &str) -> Vec<Uuid> {
        let known = self.routers.remove(router).map(|router| router.backends).unwrap_or_default();
        BTreeSet::from_iter(known.into_keys()).into_iter().collect()
    }

    /// What a router says; the job that it is about.
    pub(crate) fn router_event(&mut self, router: &str, event: &StreamEvent) -> Option<Uuid> {
        let router = self.routers.entry(router.to_owned()).or_default();
        if let Some(route) = &event.route {
            match event.event {
                StreamEventKind::Set => drop(router.routes.insert(route.id.clone(), route.service.clone())),
                StreamEventKind::Remove => drop(router.routes.remove(&route.id)),
                StreamEventKind::BackendUp | StreamEventKind::BackendDown | StreamEventKind::BackendDrained => {}
            }
        }
        let backend = event.backend.as_ref()?;
        let job: Uuid = backend.job_id.split_once('-')?.1.parse().ok()?;
        let state = match event.event {
            StreamEventKind::BackendUp => Some(Backend::Up),
            StreamEventKind::BackendDown => Some(Backend::Down),
            StreamEventKind::BackendDrained => None,
            StreamEventKind::Set | StreamEventKind::Remove => return None,
        };
        match state {
            Some(state) => router.backends.insert(job, state),
            None => router.backends.remove(&job),
        };
        Some(job)
    }

    /// Whether a job serves (spec J9); otherwise when at the latest it counts as if, if it is registered at all.
    pub(crate) fn serves(&self, service: &str, job: Uuid, now: Time) -> Result<(), Option<Time>> {
        let since = *self.up.get(&job).ok_or(None)?;
        let mut with_route = self.routers.values().filter(|router| router.routes.values().any(|name| name == service));
        let all_up = with_route.all(|router| router.backends.get(&job) == Some(&Backend::Up));
        let limit = since + ROUTER_PATIENCE;
        if all_up || now >= limit { Ok(()) } else { Err(Some(limit)) }
    }

    /// Whether some router may still send requests to the job.
    pub(crate) fn is_backend(&self, job: Uuid) -> bool {
        self.routers.values().any(|router| router.backends.contains_key(&job))
    }

    /// The job is gone.
    pub(crate) fn forget(&mut self, job: Uuid) {
        self.up.remove(&job);
        for router in self.routers.values_mut() {
            router.backends.remove(&job);
        }
    }
}
