//! This node's copy of the registry, and everybody who watches it.
//!
//! One lock guards the registry and the list of subscribers together, so that a subscriber's replay and its live events
//! join without gap or overlap. Under it only memory is touched: events go into bounded queues with `try_send`, and
//! whoever lets its queue fill up is dropped and told so.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use flynn_types::discoverd::{Event, EventKind, Instance, LeaderType, ServiceMeta};
use openraft::{LogId, StoredMembership};
use tokio::sync::{Notify, mpsc, watch};

use crate::consensus::Member;
use crate::registry::{Command, Registry, Reply};

/// Live events that wait for one subscriber; the one that finds the queue full is cut off.
pub const SUBSCRIBER_QUEUE: usize = 4096;
/// Bytes (about) that may wait for one subscriber.
const SUBSCRIBER_BYTES: usize = 16 << 20;

/// A set of event kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    pub const UP: Self = Self(1);
    pub const UPDATE: Self = Self(2);
    pub const DOWN: Self = Self(4);
    pub const LEADER: Self = Self(8);
    pub const CURRENT: Self = Self(16);
    pub const SERVICE_META: Self = Self(32);
    pub const ALL: Self = Self(63);
    /// What a stream of a service's instances shows.
    pub const INSTANCES: Self = Self(7);

    fn of(kind: EventKind) -> Self {
        match kind {
            EventKind::Up => Self::UP,
            EventKind::Update => Self::UPDATE,
            EventKind::Down => Self::DOWN,
            EventKind::Leader => Self::LEADER,
            EventKind::Current => Self::CURRENT,
            EventKind::ServiceMeta => Self::SERVICE_META,
            EventKind::Unknown => Self(0),
        }
    }

    pub fn contains(self, kind: EventKind) -> bool {
        self.0 & Self::of(kind).0 != 0
    }
}

impl std::ops::BitOr for Kinds {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// An event shared by all its subscribers, serialised at most once.
#[derive(Debug)]
pub struct Published {
    pub event: Event,
    frame: OnceLock<Bytes>,
}

impl Published {
    pub(crate) fn new(event: Event) -> Arc<Self> {
        Arc::new(Self { event, frame: OnceLock::new() })
    }

    /// About the length of the frame.
    fn size(&self) -> usize {
        let meta = self.event.service_meta.as_ref().and_then(|m| m.data.as_ref()).map_or(0, |d| d.get().len());
        let values = |i: &Instance| i.meta.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
        256 + meta + self.event.instance.as_ref().map_or(0, values)
    }

    /// The event as a frame of a stream: `data: <compact JSON>\n\n`.
    pub fn frame(&self) -> Bytes {
        self.frame
            .get_or_init(|| {
                let mut text = b"data: ".to_vec();
                // cannot fail: string keys only
                let _ = serde_json::to_writer(&mut text, &self.event);
                text.extend_from_slice(b"\n\n");
                text.into()
            })
            .clone()
    }
}

/// The replicated state with its position in the log.
#[derive(Debug, Default)]
pub(crate) struct Replicated {
    pub(crate) registry: Registry,
    pub(crate) last_applied: Option<LogId<u64>>,
    pub(crate) membership: StoredMembership<u64, Member>,
}

#[derive(Debug)]
pub(crate) struct Replica {
    inner: RwLock<Inner>,
    applied: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Replicated,
    subscribers: BTreeMap<String, Vec<Subscriber>>,
    closed: bool,
}

#[derive(Debug)]
struct Subscriber {
    kinds: Kinds,
    queue: mpsc::Sender<Arc<Published>>,
    cut: Arc<Cut>,
}

/// Tells a subscriber, and whoever writes to its peer, that it was too slow.
#[derive(Debug, Default)]
struct Cut {
    flag: AtomicBool,
    waiting_bytes: AtomicUsize,
    notify: Arc<Notify>,
}

/// Why a subscription ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    #[error("discoverd: channel send failed due to blocked receiver")]
    TooSlow,
    #[error("discoverd: shutting down")]
    Stopped,
}

/// The replay and then the live events of one service.
#[derive(Debug)]
pub struct Subscription {
    replay: VecDeque<Arc<Published>>,
    live: mpsc::Receiver<Arc<Published>>,
    cut: Arc<Cut>,
}

impl Subscription {
    /// The next event, in order. Cancel safe.
    pub async fn next(&mut self) -> Result<Arc<Published>, Ended> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    pub(crate) fn poll_next(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<Arc<Published>, Ended>> {
        if let Some(event) = self.replay.pop_front() {
            return std::task::Poll::Ready(Ok(event));
        }
        let polled = self.live.poll_recv(context);
        if let std::task::Poll::Ready(Some(event)) = &polled {
            self.cut.waiting_bytes.fetch_sub(event.size(), Ordering::AcqRel);
        }
        polled.map(|event| event.ok_or_else(|| self.ended()))
    }

    fn ended(&self) -> Ended {
        if self.cut.flag.load(Ordering::Acquire) { Ended::TooSlow } else { Ended::Stopped }
    }

    /// Notified when the subscriber is cut off for being slow, even if nobody polls it.
    pub(crate) fn cut_off(&self) -> Arc<Notify> {
        self.cut.notify.clone()
    }
}

impl Replica {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { inner: RwLock::default(), applied: watch::Sender::new(0) })
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the state under the lock: keep it short.
    pub(crate) fn with<T>(&self, read: impl FnOnce(&Replicated) -> T) -> T {
        read(&self.read().state)
    }

    /// Applies one log entry.
    pub(crate) fn apply(&self, at: LogId<u64>, change: Change) -> Option<Reply> {
        let mut inner = self.write();
        inner.state.last_applied = Some(at);
        let reply = match change {
            Change::Nothing => None,
            Change::Membership(membership) => {
                inner.state.membership = membership;
                None
            }
            Change::Command(command) => {
                let (reply, events) = inner.state.registry.apply(at.index, command);
                inner.publish(events);
                Some(reply)
            }
        };
        drop(inner);
        self.applied.send_replace(at.index);
        reply
    }

    /// Replaces the state by a later one; subscribers hear the difference.
    pub(crate) fn restore(&self, state: Replicated) {
        let index = state.last_applied.map_or(0, |l| l.index);
        let mut inner = self.write();
        let events = inner.state.registry.events_to(&state.registry);
        inner.state = state;
        inner.publish(events);
        drop(inner);
        self.applied.send_replace(index);
    }

    /// The index of the last applied entry, as it grows.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    pub(crate) fn applied_index(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Ends every subscription, now and later.
    pub(crate) fn close(&self) {
        let mut inner = self.write();
        inner.closed = true;
        inner.subscribers.clear();
    }

    /// Ends the subscriptions that there are.
    pub(crate) fn end_subscriptions(&self) {
        self.write().subscribers.clear();
    }

    fn subscribe(&self, service: &str, kinds: Kinds) -> Subscription {
        let (queue, live) = mpsc::channel(SUBSCRIBER_QUEUE);
        let cut = Arc::new(Cut::default());
        let mut inner = self.write();
        let replay = inner.state.registry.replay(service);
        if !inner.closed {
            let list = inner.subscribers.entry(service.to_owned()).or_default();
            list.retain(|s| !s.queue.is_closed());
            list.push(Subscriber { kinds, queue, cut: cut.clone() });
        }
        drop(inner);
        let mut replay: VecDeque<_> =
            replay.into_iter().filter(|e| kinds.contains(e.kind)).map(Published::new).collect();
        if kinds.contains(EventKind::Current) {
            let service = service.to_owned();
            replay.push_back(Published::new(Event {
                service,
                kind: EventKind::Current,
                instance: None,
                service_meta: None,
            }));
        }
        Subscription { replay, live, cut }
    }
}

impl Inner {
    fn publish(&mut self, events: Vec<Event>) {
        for event in events {
            let Some(list) = self.subscribers.get_mut(&event.service) else { continue };
            let kind = event.kind;
            let published = Published::new(event);
            list.retain(|s| !kind_matches(s, kind) || s.offer(&published));
            if list.is_empty() {
                self.subscribers.remove(&published.event.service);
            }
        }
    }
}

fn kind_matches(subscriber: &Subscriber, kind: EventKind) -> bool {
    subscriber.kinds.contains(kind)
}

impl Subscriber {
    /// Whether the subscriber is still with us.
    fn offer(&self, event: &Arc<Published>) -> bool {
        let size = event.size();
        // an event alone is never too large
        let waiting = self.cut.waiting_bytes.fetch_add(size, Ordering::AcqRel);
        if waiting == 0 || waiting + size <= SUBSCRIBER_BYTES {
            match self.queue.try_send(event.clone()) {
                Ok(()) => return true,
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
                Err(mpsc::error::TrySendError::Full(_)) => {}
            }
        }
        self.cut.flag.store(true, Ordering::Release);
        self.cut.notify.notify_one();
        false
    }
}

/// What one log entry holds.
pub(crate) enum Change {
    Nothing,
    Membership(StoredMembership<u64, Member>),
    Command(Command),
}

/// Reads this node's copy of the registry. Cheap to clone; answers may be as stale as the replica.
#[derive(Clone, Debug)]
pub struct RegistryHandle {
    replica: Arc<Replica>,
}

impl RegistryHandle {
    pub(crate) fn new(replica: Arc<Replica>) -> Self {
        Self { replica }
    }

    /// Instances by ascending index; empty also for an unknown service.
    pub fn instances(&self, service: &str) -> Vec<Arc<Instance>> {
        self.replica.with(|s| s.registry.instances(service))
    }

    /// The leader, if it is registered.
    pub fn leader(&self, service: &str) -> Option<Arc<Instance>> {
        self.replica.with(|s| s.registry.leader(service))
    }

    /// Sorted.
    pub fn service_names(&self) -> Vec<String> {
        self.replica.with(|s| s.registry.service_names())
    }

    pub fn meta(&self, service: &str) -> Option<ServiceMeta> {
        self.replica.with(|s| s.registry.meta(service))
    }

    pub fn leader_type(&self, service: &str) -> Option<LeaderType> {
        self.replica.with(|s| s.registry.leader_type(service))
    }

    /// The replay of what is, then everything that happens. A subscriber that leaves [`SUBSCRIBER_QUEUE`] events or
    /// 16 MiB unread is cut off.
    pub fn subscribe(&self, service: &str, kinds: Kinds) -> Subscription {
        self.replica.subscribe(service, kinds)
    }

    /// Index of the last applied log entry.
    pub fn applied_index(&self) -> u64 {
        self.replica.applied_index()
    }

    /// False until this node has received the cluster's state once.
    pub fn is_filled(&self) -> bool {
        self.replica.with(|s| s.last_applied.is_some())
    }
}
