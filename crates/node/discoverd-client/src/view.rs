//! What is known of a service, and the difference that a replay makes. Pure.

use std::collections::BTreeMap;

use flynn_types::discoverd::{Event, EventKind, Instance, ServiceMeta};

/// Instances, leader and metadata of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub instances: BTreeMap<String, Instance>,
    pub leader: Option<Instance>,
    pub meta: Option<ServiceMeta>,
}

impl View {
    /// Applies a live event.
    pub fn apply(&mut self, event: &Event) {
        match (event.kind, &event.instance) {
            (EventKind::Up | EventKind::Update, Some(instance)) => {
                self.instances.insert(instance.id.clone(), instance.clone());
            }
            (EventKind::Down, Some(instance)) => drop(self.instances.remove(&instance.id)),
            (EventKind::Leader, leader) => self.leader.clone_from(leader),
            (EventKind::ServiceMeta, _) => self.meta.clone_from(&event.service_meta),
            (EventKind::Up | EventKind::Update | EventKind::Down, None)
            | (EventKind::Current | EventKind::Unknown, _) => {}
        }
    }

    /// Events that turn this view into `new`, ending with `current`.
    pub fn events_to(&self, new: &Self, service: &str) -> Vec<Event> {
        let event = |kind, instance: Option<&Instance>| Event {
            service: service.to_owned(),
            kind,
            instance: instance.cloned(),
            service_meta: None,
        };
        let mut events = Vec::new();
        let mut found: Vec<&Instance> = new.instances.values().collect();
        found.sort_by_key(|instance| instance.index);
        for instance in found {
            match self.instances.get(&instance.id) {
                None => events.push(event(EventKind::Up, Some(instance))),
                Some(known) if known != instance => events.push(event(EventKind::Update, Some(instance))),
                Some(_) => {}
            }
        }
        let gone = self.instances.values().filter(|known| !new.instances.contains_key(&known.id));
        events.extend(gone.map(|instance| event(EventKind::Down, Some(instance))));
        let id = |leader: &Option<Instance>| leader.as_ref().map(|leader| leader.id.clone());
        if id(&self.leader) != id(&new.leader) {
            events.push(event(EventKind::Leader, new.leader.as_ref()));
        }
        if let Some(meta) = &new.meta
            && self.meta.as_ref().map(|known| known.index) != Some(meta.index)
        {
            events.push(Event { service_meta: Some(meta.clone()), ..event(EventKind::ServiceMeta, None) });
        }
        events.push(event(EventKind::Current, None));
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn instance(n: u8, version: u8) -> Instance {
        let meta = BTreeMap::from([("version".into(), version.to_string())]);
        Instance { index: u64::from(n), ..Instance::new("tcp", &format!("10.0.0.{n}:80"), meta) }
    }

    fn view(instances: &BTreeMap<u8, u8>, leader: Option<u8>) -> View {
        let instances =
            instances.iter().map(|(n, version)| instance(*n, *version)).map(|i| (i.id.clone(), i)).collect();
        View { instances, leader: leader.map(|n| instance(n, 0)), meta: None }
    }

    proptest! {
        #[test]
        fn the_difference_leads_from_any_view_to_any_other(
            before in proptest::collection::btree_map(0_u8..6, 0_u8..2, 0..6),
            after in proptest::collection::btree_map(0_u8..6, 0_u8..2, 0..6),
            leaders in (proptest::option::of(0_u8..6), proptest::option::of(0_u8..6)),
        ) {
            let (mut before, after) = (view(&before, leaders.0), view(&after, leaders.1));
            let events = before.events_to(&after, "s");
            prop_assert_eq!(events.last().map(|event| event.kind), Some(EventKind::Current));
            for event in &events {
                before.apply(event);
            }
            prop_assert_eq!(&before, &after);
            prop_assert_eq!(before.events_to(&after, "s").len(), 1, "nothing is told twice");
        }
    }
}
