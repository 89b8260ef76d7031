//! The loop: looks at the store, decides, and has carried out what is decided. It trusts nothing that it remembers: after
//! losing all memory it works equally well.

mod attempt;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use flynn_telemetry::Metrics;
use flynn_types::error::with_causes;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info, warn};

use self::attempt::{Attempt, Ended, Orders};
use crate::domain::Domain;
use crate::metrics::AcmeMetrics;
use crate::next::{Action, next};
use crate::settings::Settings;
use crate::store::{Contents, Lease, Store, StoreError, WANT_AGAIN};
use crate::view::View;

/// Pause after the store did not answer.
const STORE_AGAIN: Duration = Duration::from_secs(2);
/// How often a process asks for the lease that another one has.
const LEAD_AGAIN: Duration = Duration::from_secs(2);
/// Longest sleep: a clock that was set is noticed after this time.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// The domains that routes name, as they are written there.
pub type Names = watch::Receiver<Arc<BTreeSet<Arc<str>>>>;

/// Follows the store, and orders what is missing if nobody else does.
pub struct Engine {
    stop: DropGuard,
    task: JoinHandle<()>,
    view: watch::Receiver<Arc<View>>,
}

impl Engine {
    /// Starts with the domains that routes name.
    pub fn start(settings: Settings, store: Arc<dyn Store>, names: Names, metrics: &Metrics) -> Self {
        let (view, view_of) = watch::channel(Arc::default());
        let stop = CancellationToken::new();
        let this = Loop {
            orders: Arc::new(Orders::new(settings, store.propagation(), AcmeMetrics::new(metrics))),
            store,
            names,
            view,
            wanted: BTreeSet::new(),
            told_at: None,
            lease: None,
            contents: Contents::default(),
            has_read: false,
            running: BTreeSet::new(),
            attempts: JoinSet::new(),
            not_before: BTreeMap::new(),
        };
        let task = tokio::spawn(this.run(stop.clone()));
        Self { stop: stop.drop_guard(), task, view: view_of }
    }

    /// What there is to present and to answer, as it changes: for the first time when the store was read.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Ends. Orders that are open are taken up by whoever orders next.
    pub async fn stop(self) {
        drop(self.stop);
        if self.task.await.is_err() {
            warn!("the loop of automatic certificates had ended before");
        }
    }
}

struct Loop {
    orders: Arc<Orders>,
    store: Arc<dyn Store>,
    names: Names,
    view: watch::Sender<Arc<View>>,
    /// Of the names, those that can be ordered.
    wanted: BTreeSet<Domain>,
    told_at: Option<tokio::time::Instant>,
    lease: Option<Arc<dyn Lease>>,
    contents: Contents,
    /// Whether the store was read, so that what is told is more than a beginning.
    has_read: bool,
    running: BTreeSet<Domain>,
    attempts: JoinSet<Ended>,
    /// When domains may be tried again, also when the store did not take the failure.
    not_before: BTreeMap<Domain, DateTime<Utc>>,
}

impl Loop {
    async fn run(mut self, stop: CancellationToken) {
        self.take_names();
        loop {
            let sleep = match self.round().await {
                Ok(sleep) => sleep,
                Err(err) => {
                    error!(err = %with_causes(&err), "the store of automatic certificates does not answer");
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(STORE_AGAIN) => continue,
                    }
                }
            };
            let store = Arc::clone(&self.store);
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(sleep) => {}
                () = store.changed() => {}
                changed = self.names.changed() => match changed {
                    Ok(()) => self.take_names(),
                    Err(_) => break,
                },
                Some(ended) = self.attempts.join_next() => self.take_end(ended),
            }
        }
        self.attempts.shutdown().await;
    }

    fn take_names(&mut self) {
        let names = Arc::clone(&self.names.borrow_and_update());
        self.wanted.clear();
        for name in names.iter() {
            match name.parse() {
                Ok(domain) => drop(self.wanted.insert(domain)),
                Err(err) => warn!(%err, "no certificate can be ordered for the domain of a route"),
            }
        }
        self.told_at = None;
    }

    fn take_end(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        match ended {
            Ok(Ended { domain, not_before }) => {
                self.running.remove(&domain);
                match not_before {
                    Some(time) => drop(self.not_before.insert(domain, time)),
                    None => drop(self.not_before.remove(&domain)),
                }
            }
            Err(err) => {
                error!(%err, "an order ended in a panic");
                // Which one is not known: all that run are stopped and taken up again.
                self.attempts.abort_all();
                self.attempts.detach_all();
                self.running.clear();
            }
        }
    }

    /// Looks once at everything. Gives how long nothing more is to be done.
    async fn round(&mut self) -> Result<Duration, StoreError> {
        if self.told_at.is_none_or(|told| told.elapsed() >= WANT_AGAIN) {
            self.store.want(&self.wanted).await?;
            self.told_at = Some(tokio::time::Instant::now());
        }
        self.contents = self.store.read().await?;
        let view = View::of(&self.contents);
        // The first one is told even when it is empty: somebody waits for it.
        let is_first = !std::mem::replace(&mut self.has_read, true);
        self.view.send_if_modified(|present| {
            let differ = is_first || **present != view;
            if differ {
                *present = Arc::new(view);
            }
            differ
        });
        self.orders.metrics.tell(&self.contents, &self.wanted);
        self.keep_lease().await?;
        match self.lease.clone() {
            Some(lease) => self.lead(&lease).await,
            None => Ok(LEAD_AGAIN),
        }
    }

    async fn keep_lease(&mut self) -> Result<(), StoreError> {
        if self.lease.as_ref().is_some_and(|lease| !lease.is_held()) {
            warn!("the lease on automatic certificates is lost: another router may order now");
            self.attempts.shutdown().await;
            self.running.clear();
            self.lease = None;
        }
        if self.lease.is_none() {
            self.lease = self.store.lead().await?;
            self.orders.metrics.leads.set(i64::from(self.lease.is_some()));
            if self.lease.is_some() {
                info!("this router orders automatic certificates");
                // What another one wrote until a moment ago counts.
                self.contents = self.store.read().await?;
            }
        }
        Ok(())
    }

    /// Does what is to be done for each domain.
    async fn lead(&mut self, lease: &Arc<dyn Lease>) -> Result<Duration, StoreError> {
        let now = Utc::now();
        let mut sleep = LONGEST_SLEEP;
        let wanted: BTreeSet<Domain> = self.contents.wanted.union(&self.wanted).cloned().collect();
        let known: BTreeSet<Domain> = self.contents.certificates.keys().cloned().collect();
        for domain in wanted.union(&known).filter(|domain| !self.running.contains(*domain)).cloned().collect::<Vec<_>>()
        {
            let managed = self.contents.certificates.get(&domain);
            let mut action =
                next(managed.map(|managed| &**managed), wanted.contains(&domain), &self.orders.settings, now);
            if let Some(time) = self.not_before.get(&domain).filter(|time| now < **time) {
                action = Action::Wait(*time);
            }
            match action {
                Action::Wait(until) => sleep = sleep.min((until - now).to_std().unwrap_or_default()),
                Action::Remove => {
                    info!(%domain, "no route needs this automatic certificate any more");
                    lease.remove(&domain).await?;
                    self.not_before.remove(&domain);
                }
                // The others wait for one to end.
                _ if self.running.len() >= self.orders.settings.pace.parallel.max(1) => {}
                action => {
                    let managed = managed.cloned();
                    let attempt =
                        Attempt { orders: Arc::clone(&self.orders), lease: Arc::clone(lease), domain: domain.clone() };
                    self.attempts.spawn(attempt.run(managed, action));
                    self.running.insert(domain);
                }
            }
        }
        for domain in self.contents.challenges.keys().filter(|domain| !self.running.contains(*domain)) {
            lease.remove_challenge(domain).await?;
        }
        // Never at once: what fails without a pause would spin.
        Ok(sleep.max(Duration::from_millis(20)))
    }
}
