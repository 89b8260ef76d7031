//! The replicated registry as a pure state machine: services, instances, leaders, metadata.
//!
//! **Invariant:** applying equal commands in equal order gives equal registries and equal events on every node: nothing
//! here reads a clock, a random number or anything outside the arguments.

mod command;
mod diff;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use command::{Applied, Command, Expiry, Pin, Refusal, Reply};
use flynn_types::discoverd::{Event, EventKind, Instance, LeaderType, ServiceMeta};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Version of [`Registry`]'s form in snapshots.
pub(crate) const SNAPSHOT_VERSION: u32 = 1;

/// All services.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Registry {
    services: BTreeMap<String, Service>,
    /// Operators' decisions by host id.
    pins: BTreeMap<String, Pin>,
    /// Random name of the cluster.
    cluster: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Service {
    leader_type: LeaderType,
    /// Id of the leader, which need not be registered.
    leader: Option<String>,
    meta: Option<Meta>,
    instances: BTreeMap<String, Registered>,
    /// Ids by index: the order of age.
    by_age: BTreeMap<u64, String>,
    /// Whether an instance was ever registered; decides what removing an unknown id answers.
    had_instances: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Meta {
    /// Compact JSON text.
    data: String,
    index: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Registered {
    instance: Arc<Instance>,
    epoch: u64,
}

impl Registry {
    /// Applies the command at log position `index` (larger than all before), and says what subscribers must hear.
    pub(crate) fn apply(&mut self, index: u64, command: Command) -> (Reply, Vec<Event>) {
        let mut events = Vec::new();
        let reply = match command {
            Command::AddService { service, leader_type } => self.add_service(service, leader_type),
            Command::RemoveService { service } => self.remove_service(&service, &mut events),
            Command::SetMeta { service, data, index: expected, leader_id } => {
                self.set_meta(&service, data, expected, leader_id, index, &mut events)
            }
            Command::SetLeader { service, id } => self.set_leader(&service, id, &mut events),
            Command::AddInstance { service, instance } => self.add_instance(&service, instance, index, &mut events),
            Command::RemoveInstance { service, id } => self.remove_instance(&service, &id, &mut events),
            Command::Expire { instances } => self.expire(instances, &mut events),
            Command::Found { cluster } => {
                self.cluster.get_or_insert(cluster);
                Ok(Applied::Done)
            }
            Command::Pin { host, pin } => {
                match pin {
                    Some(pin) => self.pins.insert(host, pin),
                    None => self.pins.remove(&host),
                };
                Ok(Applied::Done)
            }
        };
        (reply, events)
    }

    fn add_service(&mut self, service: String, leader_type: LeaderType) -> Reply {
        if self.services.contains_key(&service) {
            return Err(Refusal::ServiceExists(service));
        }
        self.services.insert(service, Service { leader_type, ..Service::default() });
        Ok(Applied::Done)
    }

    fn remove_service(&mut self, name: &str, events: &mut Vec<Event>) -> Reply {
        let service = self.services.remove(name).ok_or_else(|| Refusal::ServiceMissing(name.to_owned()))?;
        // no leader event: clients of the Go server never got one here
        events.extend(service.by_age_iter().map(|i| event(name, EventKind::Down, Some(i))));
        Ok(Applied::Done)
    }

    fn set_meta(
        &mut self,
        name: &str,
        data: String,
        expected: u64,
        leader_id: Option<String>,
        index: u64,
        events: &mut Vec<Event>,
    ) -> Reply {
        let service = self.service_mut(name)?;
        match &service.meta {
            Some(_) if expected == 0 => return Err(Refusal::MetaExists(name.to_owned())),
            None if expected != 0 => return Err(Refusal::MetaMissing(name.to_owned())),
            Some(meta) if meta.index != expected => return Err(Refusal::MetaWrongIndex(name.to_owned())),
            _ => {}
        }
        let meta = Meta { data, index };
        events.push(meta.event(name));
        service.meta = Some(meta);
        if let Some(id) = leader_id.filter(|id| !id.is_empty()) {
            service.appoint(name, id, events);
        }
        Ok(Applied::Meta { index })
    }

    fn set_leader(&mut self, name: &str, id: String, events: &mut Vec<Event>) -> Reply {
        let service = self.services.get_mut(name).filter(|s| s.leader_type == LeaderType::Manual);
        service.ok_or(Refusal::NotManual)?.appoint(name, id, events);
        Ok(Applied::Done)
    }

    fn add_instance(&mut self, name: &str, mut instance: Instance, index: u64, events: &mut Vec<Event>) -> Reply {
        let service = self.service_mut(name)?;
        service.had_instances = true;
        match service.instances.get_mut(&instance.id) {
            Some(known) => {
                known.epoch = index;
                if !known.instance.same_registration(&instance) {
                    instance.index = known.instance.index;
                    events.push(event(name, EventKind::Update, Some(&instance)));
                    known.instance = Arc::new(instance);
                }
            }
            None => {
                instance.index = index;
                events.push(event(name, EventKind::Up, Some(&instance)));
                service.by_age.insert(index, instance.id.clone());
                service
                    .instances
                    .insert(instance.id.clone(), Registered { instance: Arc::new(instance), epoch: index });
            }
        }
        service.elect(name, events);
        Ok(Applied::Done)
    }

    fn remove_instance(&mut self, name: &str, id: &str, events: &mut Vec<Event>) -> Reply {
        let service = self.service_mut(name)?;
        if !service.had_instances {
            return Err(Refusal::ServiceMissing(name.to_owned()));
        }
        service.drop_instance(name, id, events);
        service.elect(name, events);
        Ok(Applied::Done)
    }

    fn expire(&mut self, instances: Vec<Expiry>, events: &mut Vec<Event>) -> Reply {
        let mut affected = Vec::new();
        for Expiry { service: name, id, epoch } in instances {
            let Some(service) = self.services.get_mut(&name) else { continue };
            if service.instances.get(&id).is_some_and(|i| i.epoch == epoch) {
                service.drop_instance(&name, &id, events);
                if !affected.contains(&name) {
                    affected.push(name);
                }
            }
        }
        for name in affected {
            if let Some(service) = self.services.get_mut(&name) {
                service.elect(&name, events);
            }
        }
        Ok(Applied::Done)
    }

    fn service_mut(&mut self, name: &str) -> Result<&mut Service, Refusal> {
        self.services.get_mut(name).ok_or_else(|| Refusal::ServiceMissing(name.to_owned()))
    }
}

/// Reading.
impl Registry {
    pub(crate) fn has_service(&self, name: &str) -> bool {
        self.services.contains_key(name)
    }

    /// Sorted.
    pub(crate) fn service_names(&self) -> Vec<String> {
        self.services.keys().cloned().collect()
    }

    pub(crate) fn leader_type(&self, name: &str) -> Option<LeaderType> {
        self.services.get(name).map(|s| s.leader_type)
    }

    /// By ascending index; empty also for an unknown service.
    pub(crate) fn instances(&self, name: &str) -> Vec<Arc<Instance>> {
        let Some(service) = self.services.get(name) else { return Vec::new() };
        service.registered_by_age().map(|r| r.instance.clone()).collect()
    }

    /// The registered leader.
    pub(crate) fn leader(&self, name: &str) -> Option<Arc<Instance>> {
        let service = self.services.get(name)?;
        Some(service.instances.get(service.leader.as_ref()?)?.instance.clone())
    }

    pub(crate) fn meta(&self, name: &str) -> Option<ServiceMeta> {
        Some(self.services.get(name)?.meta.as_ref()?.to_wire())
    }

    /// The epoch of a registration that says nothing new, so that it is only a heartbeat.
    pub(crate) fn unchanged(&self, name: &str, instance: &Instance) -> Option<u64> {
        let known = self.services.get(name)?.instances.get(&instance.id)?;
        known.instance.same_registration(instance).then_some(known.epoch)
    }

    /// The epoch of a registered instance.
    pub(crate) fn epoch(&self, name: &str, id: &str) -> Option<u64> {
        Some(self.services.get(name)?.instances.get(id)?.epoch)
    }

    pub(crate) fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    pub(crate) fn for_each_service(&self, visit: impl FnMut(&str)) {
        self.services.keys().map(String::as_str).for_each(visit);
    }

    /// Calls `visit` with service, id and epoch of every instance.
    pub(crate) fn for_each_instance(&self, mut visit: impl FnMut(&str, &str, u64)) {
        for (name, service) in &self.services {
            for (id, registered) in &service.instances {
                visit(name, id, registered.epoch);
            }
        }
    }

    pub(crate) fn pins(&self) -> &BTreeMap<String, Pin> {
        &self.pins
    }

    /// What a new subscriber of the whole service hears before live events, without the final `current`.
    pub(crate) fn replay(&self, name: &str) -> Vec<Event> {
        let Some(service) = self.services.get(name) else { return Vec::new() };
        let mut events: Vec<Event> = service.by_age_iter().map(|i| event(name, EventKind::Up, Some(i))).collect();
        if let Some(leader) = self.leader(name) {
            events.push(event(name, EventKind::Leader, Some(&leader)));
        }
        events.extend(service.meta.as_ref().map(|m| m.event(name)));
        events
    }
}

impl Service {
    fn registered_by_age(&self) -> impl Iterator<Item = &Registered> {
        self.by_age.values().filter_map(|id| self.instances.get(id))
    }

    fn by_age_iter(&self) -> impl Iterator<Item = &Instance> {
        self.registered_by_age().map(|r| r.instance.as_ref())
    }

    fn drop_instance(&mut self, name: &str, id: &str, events: &mut Vec<Event>) {
        if let Some(gone) = self.instances.remove(id) {
            self.by_age.remove(&gone.instance.index);
            events.push(event(name, EventKind::Down, Some(&gone.instance)));
        }
    }

    /// Makes `id` the leader by order of a client, who hears of it also if it led before.
    fn appoint(&mut self, name: &str, id: String, events: &mut Vec<Event>) {
        if let Some(registered) = self.instances.get(&id) {
            events.push(event(name, EventKind::Leader, Some(&registered.instance)));
        }
        self.leader = Some(id);
    }

    /// The oldest instance leads, unless leaders are appointed.
    fn elect(&mut self, name: &str, events: &mut Vec<Event>) {
        if self.leader_type == LeaderType::Manual {
            return;
        }
        let oldest = self.by_age.values().next().cloned();
        if oldest != self.leader {
            let instance = oldest.as_ref().and_then(|id| self.instances.get(id));
            events.push(event(name, EventKind::Leader, instance.map(|r| r.instance.as_ref())));
            self.leader = oldest;
        }
    }
}

impl Meta {
    fn to_wire(&self) -> ServiceMeta {
        let data = RawValue::from_string(self.data.clone()).ok(); // it was JSON when it was accepted
        ServiceMeta { data, index: self.index, leader_id: String::new() }
    }

    fn event(&self, service: &str) -> Event {
        Event {
            service: service.to_owned(),
            kind: EventKind::ServiceMeta,
            instance: None,
            service_meta: Some(self.to_wire()),
        }
    }
}

fn event(service: &str, kind: EventKind, instance: Option<&Instance>) -> Event {
    Event { service: service.to_owned(), kind, instance: instance.cloned(), service_meta: None }
}
