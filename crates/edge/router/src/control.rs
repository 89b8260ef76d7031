//! Applies what sources tell: keeps the routes, builds the next snapshot, publishes it. The only writer there is.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flynn_acme::{Domain, Issued, View};
use flynn_types::error::with_causes;
use flynn_types::router::Route;
use rustls::sign::CertifiedKey;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use crate::http::secure::hsts;
use crate::names::{Names, NeededNames};
use crate::route::{BackendProtocol, HttpRoute, InvalidRoute, Place, TcpRoute, place};
use crate::service::Service;
use crate::shared::{Shared, Snapshot};
use crate::source::{Change, Membership};
use crate::table::Mount;
use crate::tls::{CertificateCache, Challenges};

/// Changes applied before the result is published, when they come fast.
const BATCH: usize = 256;

/// Changes after which the certificates are looked through for such as no route uses.
const CERTIFICATES_LEFT: u32 = 1000;
/// How long changes are applied without letting other tasks run.
const LONGEST_BREATH: Duration = Duration::from_millis(5);
/// The state behind the snapshots.
pub(crate) struct Control {
    shared: Arc<Shared>,
    /// As the sources told them, by id.
    routes: BTreeMap<Arc<str>, Route>,
    next: Snapshot,
    services: BTreeMap<Arc<str>, Arc<Service>>,
    /// The last told instances of services, among them those from [`Change::Everything`] that no route names yet.
    memberships: BTreeMap<Box<str>, Membership>,
    /// Services of the last [`Change::Everything`].
    told_with_routes: BTreeSet<Box<str>>,
    /// Number of routes of a service that drain its backends, where there are any.
    draining: BTreeMap<Box<str>, usize>,
    certificates: CertificateCache,
    /// Changes that may have left a certificate without a route, since the cache was last looked through.
    certificates_left: u32,
    automatic: Arc<View>,
    invalid: BTreeSet<Box<str>>,
    needed_services: NeededNames,
    needed_domains: NeededNames,
    changed: watch::Sender<()>,
    synced: watch::Sender<bool>,
    complete: watch::Sender<bool>,
}

/// What others see of the control.
pub(crate) struct Views {
    pub(crate) interest: watch::Receiver<Names>,
    /// Domains of routes whose certificates are automatic.
    pub(crate) automatic: watch::Receiver<Names>,
    pub(crate) changed: watch::Receiver<()>,
    pub(crate) synced: watch::Receiver<bool>,
    pub(crate) complete: watch::Receiver<bool>,
}

impl Control {
    pub(crate) fn new(shared: Arc<Shared>) -> (Self, Views) {
        let (needed_services, interest) = NeededNames::new();
        let (needed_domains, automatic) = NeededNames::new();
        let (changed, changed_view) = watch::channel(());
        let (synced, synced_view) = watch::channel(false);
        let (complete, complete_view) = watch::channel(false);
        let control = Self {
            shared,
            routes: BTreeMap::new(),
            next: Snapshot::default(),
            services: BTreeMap::new(),
            memberships: BTreeMap::new(),
            told_with_routes: BTreeSet::new(),
            draining: BTreeMap::new(),
            certificates: CertificateCache::default(),
            certificates_left: 0,
            automatic: Arc::default(),
            invalid: BTreeSet::new(),
            needed_services,
            needed_domains,
            changed,
            synced,
            complete,
        };
        let views = Views { interest, automatic, changed: changed_view, synced: synced_view, complete: complete_view };
        (control, views)
    }

    /// Applies changes until all sources are gone.
    pub(crate) async fn run(mut self, mut changes: mpsc::Receiver<Change>) {
        let mut batch = Vec::new();
        while changes.recv_many(&mut batch, BATCH).await > 0 {
            let mut breath = Breath::default();
            for change in batch.drain(..) {
                self.apply(change, &mut breath).await;
            }
            self.publish();
        }
    }

    async fn apply(&mut self, change: Change, breath: &mut Breath) {
        match change {
            Change::Everything { routes, services } => {
                let told: BTreeSet<Box<str>> = services.iter().map(|membership| membership.service.clone()).collect();
                // Services that another source tells stay as they are.
                let gone: Vec<_> = self.told_with_routes.difference(&told).cloned().collect();
                for service in &gone {
                    self.memberships.remove(service);
                }
                let known = services.iter().map(|membership| (membership.service.clone(), membership.clone()));
                self.memberships.extend(known);
                let gone = gone.into_iter().map(|service| Membership { service, ..Membership::default() });
                let memberships: Vec<Membership> = services.into_iter().chain(gone).collect();
                self.told_with_routes = told;
                self.replace(routes, breath).await;
                memberships.into_iter().for_each(|membership| self.update(&membership));
            }
            Change::Routes(routes) => self.replace(routes, breath).await,
            Change::Set(route) => self.set(*route),
            Change::Remove { id } => self.remove(&id),
            Change::Automatic(view) => self.take_automatic(view),
            Change::Members(membership) => {
                if self.services.contains_key(&*membership.service) {
                    self.update(&membership);
                    self.memberships.insert(membership.service.clone(), membership);
                }
            }
        }
        breath.take().await;
    }

    fn update(&self, membership: &Membership) {
        if let Some(service) = self.services.get(&*membership.service) {
            service.update(&membership.instances, membership.leader);
            self.announce(service);
        }
    }

    async fn replace(&mut self, routes: Vec<Route>, breath: &mut Breath) {
        let listed: HashSet<&str> = routes.iter().map(|route| &*route.id).collect();
        let gone: Vec<_> = self.routes.keys().filter(|id| !listed.contains(&***id)).cloned().collect();
        self.invalid.retain(|id| listed.contains(&**id));
        for id in gone {
            self.remove(&id);
            breath.take().await;
        }
        for route in routes {
            self.set(route);
            breath.take().await;
        }
        self.next.synced = true;
    }

    /// Takes a route over. One that cannot be used is skipped, and what was known of it before stays.
    fn set(&mut self, route: Route) {
        if self.routes.get(&*route.id) == Some(&route) {
            return;
        }
        match self.checked(&route) {
            Ok(place) => {
                self.invalid.remove(&*route.id);
                self.put(route, place);
            }
            Err(err) => {
                error!(route_id = route.id, %err, "route cannot be used");
                self.invalid.insert((*route.id).into());
            }
        }
    }

    fn checked(&self, route: &Route) -> Result<Place, InvalidRoute> {
        let place = place(route)?;
        match place {
            Place::Tcp { port, .. } if self.shared.settings.owns(port) => {
                Err(InvalidRoute::OwnPort { id: (*route.id).into(), port })
            }
            place => Ok(place),
        }
    }

    fn put(&mut self, route: Route, place: Place) {
        let id: Arc<str> = (*route.id).into();
        let former = self.routes.remove(&id);
        // The new one first: a name that stays is never given up.
        self.needed_services.add(&route.service);
        self.needed_domain(&route, true);
        if let Some(former) = &former {
            self.needed_domain(former, false);
            if former.service != route.service || former.kind != route.kind || former.port != route.port {
                self.take_out(former);
            }
            self.count_drain(former, false);
            self.needed_services.drop(&former.service);
            self.certificates_left += 1;
        }
        match place {
            Place::Http { mount, protocol } => self.mount(&route, mount, protocol),
            Place::Tcp { port, proxy_header } => {
                let service = self.service(&route.service);
                let metrics = self.shared.metrics.route(&id, &route.service);
                let tcp = TcpRoute { id: Arc::clone(&id), service, leader: route.leader, proxy_header, metrics };
                if let Some(other) = self.next.tcp.insert(port, Arc::new(tcp)).filter(|other| other.id != id) {
                    warn!(route_id = %id, other = %other.id, port, "two TCP routes have one port, the newer one gets it");
                }
            }
        }
        self.count_drain(&route, true);
        self.shared.events.route_set(&route);
        if let Some(former) = former.filter(|former| former.service != route.service) {
            self.announce_named(&former.service);
        }
        self.announce_named(&route.service);
        self.routes.insert(id, route);
    }

    /// Lets requests find an HTTP route, as it is now with its service and certificate.
    fn mount(&mut self, route: &Route, mount: Mount, protocol: BackendProtocol) {
        let id: Arc<str> = (*route.id).into();
        let http = HttpRoute {
            service: self.service(&route.service),
            leader: route.leader,
            sticky: route.sticky,
            keep_alive: !route.disable_keep_alives,
            protocol,
            maintenance: route.maintenance,
            max_body: (route.max_body_bytes > 0).then_some(route.max_body_bytes),
            certificate: self.certificate(route),
            https_redirect: route.https_redirect,
            hsts: route.hsts.as_ref().map(hsts),
            metrics: self.shared.metrics.route(&id, &route.service),
        };
        self.next.table.set(&id, mount, Arc::new(http));
    }

    /// The certificate of a route: the automatic one, as soon as there is one, else its own.
    fn certificate(&mut self, route: &Route) -> Option<Arc<CertifiedKey>> {
        let automatic = issued(&self.automatic, route).map(|issued| (&*issued.chain, issued.key.reveal()));
        [automatic, route.key_pair()].into_iter().flatten().find_map(|(chain, key)| {
            let certificate = self.certificates.get(chain.trim(), key.trim());
            certificate
                .inspect_err(|err| {
                    let reason = with_causes(err);
                    error!(route_id = route.id, reason, "certificate cannot be used, the default one is");
                })
                .ok()
        })
    }

    /// Takes over which automatic certificates there are, and which challenges are pending.
    fn take_automatic(&mut self, view: Arc<View>) {
        let before = std::mem::replace(&mut self.automatic, view);
        if before.challenges != self.automatic.challenges {
            let pending = self.automatic.challenges.values().map(|challenge| &**challenge);
            self.next.challenges = Arc::new(Challenges::new(pending));
        }
        let changed = |route: &&Route| issued(&before, route) != issued(&self.automatic, route);
        for route in self.routes.values().filter(changed).cloned().collect::<Vec<_>>() {
            if let Ok(Place::Http { mount, protocol }) = place(&route) {
                self.mount(&route, mount, protocol);
            }
        }
    }

    fn remove(&mut self, id: &str) {
        self.invalid.remove(id);
        let Some(route) = self.routes.remove(id) else { return };
        self.take_out(&route);
        self.count_drain(&route, false);
        self.needed_services.drop(&route.service);
        self.needed_domain(&route, false);
        self.certificates_left += 1;
        self.announce_named(&route.service);
        self.shared.events.route_removed(&route);
    }

    /// Lets no request find a route.
    fn take_out(&mut self, route: &Route) {
        self.next.table.remove(&route.id);
        if self.next.tcp.get(&route.port).is_some_and(|tcp| *tcp.id == *route.id) {
            self.next.tcp.remove(&route.port);
        }
        self.shared.metrics.forget(&route.id, &route.service);
    }

    fn count_drain(&mut self, route: &Route, is_there: bool) {
        if !route.drain_backends {
            return;
        }
        let count = self.draining.entry((*route.service).into()).or_default();
        *count = if is_there { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.draining.remove(&*route.service);
        }
    }

    fn needed_domain(&mut self, route: &Route, is_there: bool) {
        match &*route.managed_certificate_domain {
            "" => {}
            domain if is_there => self.needed_domains.add(domain),
            domain => self.needed_domains.drop(domain),
        }
    }

    fn announce_named(&self, service: &str) {
        if let Some(service) = self.services.get(service) {
            self.announce(service);
        }
    }

    /// Tells subscribers the backends of a service, if one of its routes drains them.
    fn announce(&self, service: &Service) {
        let members = service.members();
        let told = self.draining.contains_key(&*service.name).then_some(&**members);
        self.shared.events.backends_are(&service.name, told);
    }

    /// The service of a name, which begins with the instances that are known.
    fn service(&mut self, name: &str) -> Arc<Service> {
        if let Some(service) = self.services.get(name) {
            return Arc::clone(service);
        }
        let service = Arc::new(Service::new(name));
        if let Some(known) = self.memberships.get(name) {
            service.update(&known.instances, known.leader);
        }
        self.services.insert(Arc::clone(&service.name), Arc::clone(&service));
        service
    }

    /// Lets requests see what was applied.
    fn publish(&mut self) {
        if self.needed_services.tell() {
            let needed = &self.needed_services;
            self.services.retain(|name, service| {
                let is_needed = needed.has(name);
                if !is_needed {
                    service.update(&[], None);
                }
                is_needed
            });
            let told = &self.told_with_routes;
            self.memberships.retain(|name, _| needed.has(name) || told.contains(name));
        }
        self.needed_domains.tell();
        // Looking through all certificates for each change would cost more than keeping a few for a while.
        if self.certificates_left >= CERTIFICATES_LEFT {
            self.certificates.prune();
            self.certificates_left = 0;
        }
        let metrics = &self.shared.metrics;
        metrics.routes.set(i64::try_from(self.routes.len()).unwrap_or(i64::MAX));
        metrics.routes_invalid.set(i64::try_from(self.invalid.len()).unwrap_or(i64::MAX));
        self.shared.snapshot.store(Arc::new(self.next.clone()));
        if self.next.synced && !self.synced.send_replace(true) {
            info!(routes = self.routes.len(), "routes are complete");
        }
        let complete = self.next.synced && self.services.keys().all(|name| self.memberships.contains_key(&**name));
        self.complete.send_if_modified(|told| std::mem::replace(told, complete) != complete);
        self.changed.send_replace(());
    }
}

/// The automatic certificate of a route, if there is one.
fn issued<'a>(view: &'a View, route: &Route) -> Option<&'a Issued> {
    let domain: Domain = route.managed_certificate_domain.parse().ok()?;
    view.certificates.get(&domain)?.issued.as_ref()
}

/// Lets other tasks run while a long list is taken in.
struct Breath {
    last: Instant,
}

impl Default for Breath {
    fn default() -> Self {
        Self { last: Instant::now() }
    }
}

impl Breath {
    async fn take(&mut self) {
        if self.last.elapsed() >= LONGEST_BREATH {
            tokio::task::yield_now().await;
            self.last = Instant::now();
        }
    }
}
