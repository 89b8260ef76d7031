//! What the scheduler is told of routes and backends, in order (spec router section 3.1).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use flynn_types::router::{Route, StreamEvent, StreamEventKind};
use futures_util::Stream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::task::TaskTracker;

use crate::former::Former;
use crate::service::{Backend, Members};

/// Events that a subscriber may be behind; who is further behind is disconnected and has to begin anew.
const BACKLOG: usize = 4096;
/// Requests that chose a backend in the moment of its end count themselves within this time.
const SETTLE: Duration = Duration::from_millis(20);

/// Publishes events of services whose routes drain their backends.
pub(crate) struct Events {
    state: Mutex<State>,
    live: broadcast::Sender<StreamEvent>,
    drains: TaskTracker,
    /// Set before the router serves.
    former: OnceLock<Arc<Former>>,
}

#[derive(Default)]
struct State {
    /// Routes that drain their backends, by id.
    routes: BTreeMap<String, Route>,
    /// Backends that are up, by service and address.
    up: BTreeMap<Arc<str>, BTreeMap<SocketAddr, Arc<Backend>>>,
}

impl Events {
    pub(crate) fn new() -> Arc<Self> {
        let (live, _) = broadcast::channel(BACKLOG);
        Arc::new(Self { state: Mutex::default(), live, drains: TaskTracker::new(), former: OnceLock::new() })
    }

    /// Backends count as drained when this process has released them too.
    pub(crate) fn replaces(&self, former: Arc<Former>) {
        let _ = self.former.set(former); // there is one at most
    }

    /// Names of backends as they are drained here, from now on.
    pub(crate) fn drained(&self) -> impl Stream<Item = String> + Send + use<> {
        futures_util::stream::unfold(self.live.subscribe(), |mut live| async move {
            loop {
                match live.recv().await {
                    Ok(StreamEvent { event: StreamEventKind::BackendDrained, backend: Some(backend), .. }) => {
                        return Some((name(&backend.addr, &backend.job_id), live));
                    }
                    // What was missed is released with the process's end.
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        })
    }

    /// A route is new or changed.
    pub(crate) fn route_set(&self, route: &Route) {
        let route = route.clone().without_key();
        let mut state = self.state();
        if route.drain_backends {
            state.routes.insert(route.id.clone(), route.clone());
        } else {
            state.routes.remove(&route.id);
        }
        self.publish(StreamEvent { route: Some(route), ..StreamEvent::new(StreamEventKind::Set) });
    }

    /// A route is gone.
    pub(crate) fn route_removed(&self, route: &Route) {
        self.state().routes.remove(&route.id);
        let route = route.clone().without_key();
        self.publish(StreamEvent { route: Some(route), ..StreamEvent::new(StreamEventKind::Remove) });
    }

    /// The backends of a service are these now; none for one that is not followed.
    pub(crate) fn backends_are(self: &Arc<Self>, service: &Arc<str>, members: Option<&Members>) {
        let now: BTreeMap<SocketAddr, &Arc<Backend>> = members
            .into_iter()
            .flat_map(|members| &members.backends)
            .map(|backend| (backend.address, backend))
            .collect();
        let mut state = self.state();
        let up = match state.up.entry(Arc::clone(service)) {
            Entry::Vacant(_) if now.is_empty() => return,
            entry => entry.or_default(),
        };
        let gone: Vec<_> =
            up.values().filter(|known| now.get(&known.address).is_none_or(|new| new.id != known.id)).cloned().collect();
        for backend in gone {
            up.remove(&backend.address);
            self.publish(event(StreamEventKind::BackendDown, service, &backend));
            self.tell_when_drained(Arc::clone(service), backend);
        }
        for (address, backend) in now {
            if let Entry::Vacant(new) = up.entry(address) {
                new.insert(Arc::clone(backend));
                self.publish(event(StreamEventKind::BackendUp, service, backend));
            }
        }
        if up.is_empty() {
            state.up.remove(service);
        }
    }

    fn tell_when_drained(self: &Arc<Self>, service: Arc<str>, backend: Arc<Backend>) {
        let events = Arc::clone(self);
        self.drains.spawn(async move {
            tokio::time::sleep(SETTLE).await;
            backend.drained().await;
            if let Some(former) = events.former.get() {
                former.has_released(&name(&backend.address.to_string(), &backend.instance.job_id)).await;
            }
            events.publish(event(StreamEventKind::BackendDrained, &service, &backend));
        });
    }

    /// What is now, and then what happens. Ends for a subscriber that does not keep up.
    pub(crate) fn subscribe(&self) -> impl Stream<Item = StreamEvent> + Send + use<> {
        // One lock over both: nothing is missed or told twice.
        let state = self.state();
        let receiver = self.live.subscribe();
        let routes = state
            .routes
            .values()
            .map(|route| StreamEvent { route: Some(route.clone()), ..StreamEvent::new(StreamEventKind::Set) });
        let backends = state.up.iter().flat_map(|(service, backends)| {
            backends.values().map(|backend| event(StreamEventKind::BackendUp, service, backend))
        });
        let replay: Vec<_> = routes.chain(backends).collect();
        drop(state);
        futures_util::stream::unfold((replay.into_iter(), receiver), |(mut replay, mut receiver)| async move {
            if let Some(event) = replay.next() {
                return Some((event, (replay, receiver)));
            }
            match receiver.recv().await {
                Ok(event) => Some((event, (replay, receiver))),
                Err(RecvError::Lagged(_) | RecvError::Closed) => None,
            }
        })
    }

    fn publish(&self, event: StreamEvent) {
        // Nobody listening is fine: who comes later gets what is then.
        let _ = self.live.send(event);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names a backend in another process; a job has one address for as long as it runs.
fn name(address: &str, job_id: &str) -> String {
    format!("{address} {job_id}")
}

fn event(kind: StreamEventKind, service: &str, backend: &Backend) -> StreamEvent {
    let backend = flynn_types::router::Backend {
        service: service.to_owned(),
        addr: backend.address.to_string(),
        app: backend.instance.app.to_string(),
        job_id: backend.instance.job_id.to_string(),
    };
    StreamEvent { backend: Some(backend), ..StreamEvent::new(kind) }
}
