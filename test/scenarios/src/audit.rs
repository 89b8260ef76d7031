//! Who was told what about a service.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use flynn_types::discoverd::{Event, EventKind};
use tokio::task::JoinHandle;

use crate::{Node, runtime};

/// Watches a service through several hosts at once, and keeps every event. Ends when dropped.
pub struct Audit {
    events: Arc<Mutex<Vec<(Instant, String, Event)>>>,
    tasks: Vec<JoinHandle<()>>,
    begin: Instant,
}

impl Audit {
    pub fn of<'a>(service: &str, through: impl IntoIterator<Item = Node<'a>>) -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        let watch = |node: Node<'_>| {
            let (id, events) = (node.host.id(), Arc::clone(&events));
            let mut watch = node.discoverd().watch(service);
            runtime().spawn(async move {
                loop {
                    let event = watch.next().await;
                    let entry = (Instant::now(), id.clone(), event);
                    events.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
                }
            })
        };
        let tasks = through.into_iter().map(watch).collect();
        Self { events, tasks, begin: Instant::now() }
    }

    /// Every `down` so far, one line each.
    pub fn downs(&self) -> Vec<String> {
        self.lines(|event| event.kind == EventKind::Down)
    }

    /// The events that `wanted` accepts, one line each.
    pub fn lines(&self, wanted: impl Fn(&Event) -> bool) -> Vec<String> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen = events.iter().filter(|(_, _, event)| wanted(event));
        chosen
            .map(|(at, host, event)| {
                let addr = event.instance.as_ref().map_or("-", |instance| instance.addr.as_str());
                format!("after {:.1?} {host} told {} of {addr}", at.duration_since(self.begin), event.kind)
            })
            .collect()
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
