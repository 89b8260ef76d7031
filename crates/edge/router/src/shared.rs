//! What all workers see.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::events::Events;
use crate::guard::Crowd;
use crate::metrics::RouterMetrics;
use crate::route::{HttpRoute, TcpRoute};
use crate::settings::Settings;
use crate::source::controller::Contact;
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

/// How a router ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drain {
    /// Another process takes connections from the same sockets: whoever waits there is its client.
    pub(crate) handed_over: bool,
    /// How long a connection may still bring a request: one may be on its way, and closing then would lose it. Its
    /// answer tells the client that it was the last.
    pub(crate) idle: Duration,
    /// How long requests, tunnels and TCP connections may take. What is left then is cut off.
    pub(crate) busy: Duration,
}

/// What all workers see, and nobody waits for.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) metrics: RouterMetrics,
    pub(crate) events: Arc<Events>,
    pub(crate) crowd: Arc<Crowd>,
    /// With the controller, where routes come from there.
    pub(crate) contact: Arc<Contact>,
    /// How the router ends; set before `draining` is cancelled.
    pub(crate) drain: OnceLock<Drain>,
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

    pub(crate) fn begin_drain(&self, drain: Drain) {
        let _ = self.drain.set(drain); // the first one counts
        self.draining.cancel();
    }

    /// Waits until another process has the listening sockets.
    pub(crate) async fn handed_over(&self) {
        self.draining.cancelled().await;
        if !self.drain.get().is_some_and(|drain| drain.handed_over) {
            std::future::pending().await
        }
    }

    /// Waits until a connection without a request may be closed.
    pub(crate) async fn idle_are_closed(&self) {
        self.draining.cancelled().await;
        tokio::time::sleep(self.drain.get().map_or(Duration::ZERO, |drain| drain.idle)).await;
    }
}
