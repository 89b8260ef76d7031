//! The events that lead from one registry to another: what subscribers hear when a snapshot replaces the state.

use flynn_types::discoverd::{Event, EventKind};

use super::{Registry, Service, event};

impl Registry {
    /// Events that turn a subscriber's view of `self` into one of `newer`.
    pub(crate) fn events_to(&self, newer: &Registry) -> Vec<Event> {
        let mut events = Vec::new();
        let empty = Service::default();
        for (name, old) in &self.services {
            old.events_to(name, newer.services.get(name).unwrap_or(&empty), newer.has_service(name), &mut events);
        }
        for (name, new) in newer.services.iter().filter(|(name, _)| !self.has_service(name)) {
            empty.events_to(name, new, true, &mut events);
        }
        events
    }
}

impl Service {
    fn events_to(&self, name: &str, newer: &Service, exists: bool, events: &mut Vec<Event>) {
        for old in self.by_age_iter() {
            // another index means that it was away in between
            if newer.instances.get(&old.id).is_none_or(|n| n.instance.index != old.index) {
                events.push(event(name, EventKind::Down, Some(old)));
            }
        }
        for new in newer.by_age_iter() {
            match self.instances.get(&new.id).filter(|o| o.instance.index == new.index) {
                None => events.push(event(name, EventKind::Up, Some(new))),
                Some(old) if !old.instance.same_registration(new) => {
                    events.push(event(name, EventKind::Update, Some(new)));
                }
                Some(_) => {}
            }
        }
        if exists && self.leader != newer.leader {
            let leader = newer.leader.as_ref().and_then(|id| newer.instances.get(id));
            events.push(event(name, EventKind::Leader, leader.map(|r| r.instance.as_ref())));
        }
        if let Some(meta) = newer.meta.as_ref().filter(|m| self.meta.as_ref().is_none_or(|o| o.index != m.index)) {
            events.push(meta.event(name));
        }
    }
}
