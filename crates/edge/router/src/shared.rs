//! What all workers see.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::events::Events;
use crate::metrics::RouterMetrics;
use crate::route::{HttpRoute, TcpRoute};
use crate::service::Service;
use crate::settings::Settings;
use crate::table::Table;
use crate::tls::Challenges;

/// The routes at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) table: Table<Arc<HttpRoute>>,
    /// By port.
    pub(crate) tcp: BTreeMap<u16, Arc<TcpRoute>>,
    pub(crate) challenges: Arc<Challenges>,
    /// Whether there ever was a complete list of routes.
    pub(crate) synced: bool,
}

/// What all workers see, and nobody waits for.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    /// All services that routes name.
    pub(crate) services: ArcSwap<BTreeMap<Arc<str>, Arc<Service>>>,
    pub(crate) metrics: RouterMetrics,
    pub(crate) events: Arc<Events>,
    /// The default port of HTTPS, as soon as it is bound.
    pub(crate) https_port: OnceLock<u16>,
    /// Cancelled when the router is to end: no new connections, each answer says that it is the connection's last.
    pub(crate) draining: CancellationToken,
    /// Cancelled when waiting for clients is over.
    pub(crate) cut_off: CancellationToken,
}

impl Shared {
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }
}
