//! One try to get a certificate, and what is noted of it.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Mutex;
use tracing::{error, info, warn};

use crate::authority::{Context, OrderError, Transport, finish, forget, place};
use crate::domain::Domain;
use crate::managed::{Issued, Managed};
use crate::metrics::AcmeMetrics;
use crate::next::{Action, failed};
use crate::settings::Settings;
use crate::store::Lease;

/// What all orders share.
pub(super) struct Orders {
    pub(super) settings: Settings,
    pub(super) metrics: AcmeMetrics,
    propagation: Duration,
    transport: Transport,
    accounts: Mutex<()>,
}

impl Orders {
    pub(super) fn new(settings: Settings, propagation: Duration, metrics: AcmeMetrics) -> Self {
        let transport = Transport::new(&settings.directory, settings.roots.as_deref());
        Self { settings, metrics, propagation, transport, accounts: Mutex::default() }
    }
}

pub(super) struct Attempt {
    pub(super) orders: Arc<Orders>,
    pub(super) lease: Arc<dyn Lease>,
    pub(super) domain: Domain,
}

/// An attempt is over.
pub(super) struct Ended {
    pub(super) domain: Domain,
    /// The next one is not before this time.
    pub(super) not_before: Option<DateTime<Utc>>,
}

impl Attempt {
    /// Does what was decided. `managed` is what the store has of the domain.
    pub(super) async fn run(self, managed: Option<Arc<Managed>>, action: Action) -> Ended {
        let id = || uuid::Uuid::new_v4().to_string();
        let mut managed = match managed {
            Some(managed) => Managed::clone(&managed),
            None => Managed::new(self.domain.clone(), id(), Utc::now()),
        };
        self.orders.metrics.orders.inc();
        let transport = self.orders.transport.for_order();
        let outcome = self.order(&transport, &mut managed, action).await;
        let not_before = match outcome {
            Ok(issued) => self.note_success(managed, issued).await,
            Err(err) => Some(self.note_failure(managed, &err, transport.retry_after()).await),
        };
        Ended { domain: self.domain, not_before }
    }

    async fn order(&self, transport: &Transport, managed: &mut Managed, action: Action) -> Result<Issued, OrderError> {
        let orders = &self.orders;
        let context = Context {
            settings: &orders.settings,
            lease: &self.lease,
            propagation: orders.propagation,
            accounts: &orders.accounts,
        };
        let kind = match action {
            Action::Order(kind) => kind,
            Action::Resume(open) => {
                info!(domain = %self.domain, order = open.url, "open order is taken up again");
                match finish(&context, transport, &self.domain, &open).await {
                    Err(err @ OrderError::Refused { .. }) if !err.keeps_order() => {
                        // An order that its authority has forgotten, or ended; the domain gets another one at once.
                        warn!(domain = %self.domain, %err, "open order is given up for a new one");
                        if err.lost_account() {
                            forget(&context).await?;
                        }
                        open.challenge
                    }
                    outcome => return outcome,
                }
            }
            Action::Remove | Action::Wait(_) => unreachable!("attempts are for orders"),
        };
        let open = match place(&context, transport, managed, kind).await {
            Err(err) if err.lost_account() => {
                warn!(domain = %self.domain, %err, "a new account is made");
                forget(&context).await?;
                place(&context, transport, managed, kind).await?
            }
            placed => placed?,
        };
        info!(domain = %self.domain, order = open.url, challenge = %kind, "certificate is ordered");
        finish(&context, transport, &self.domain, &open).await
    }

    async fn note_success(&self, managed: Managed, issued: Issued) -> Option<DateTime<Utc>> {
        self.orders.metrics.issued.inc();
        let not_after = issued.not_after;
        let managed = Managed { issued: Some(issued), order: None, failure: None, updated_at: Utc::now(), ..managed };
        match self.lease.put(&managed).await {
            Ok(()) => {
                info!(domain = %self.domain, %not_after, "automatic certificate is issued");
                None
            }
            // The order is still noted: it is taken up again and gives the same certificate.
            Err(err) => Some(self.note_failure(managed, &err.into(), None).await),
        }
    }

    /// Notes why there is no certificate. Gives when it is tried again.
    async fn note_failure(&self, managed: Managed, err: &OrderError, asked: Option<Duration>) -> DateTime<Utc> {
        self.orders.metrics.failures.inc();
        let now = Utc::now();
        let failure = failed(&managed, err.cause(asked), &self.orders.settings, now);
        let retry_at = failure.retry_at;
        warn!(domain = %self.domain, err = failure.last_error, %retry_at, "automatic certificate is not issued");
        let order = managed.order.clone().filter(|_| err.keeps_order());
        let managed = Managed { order, failure: Some(failure), updated_at: now, ..managed };
        if let Err(err) = self.lease.put(&managed).await {
            error!(domain = %self.domain, err = %OrderError::from(err), "the failure cannot be noted");
        }
        retry_at
    }
}
