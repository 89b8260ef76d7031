//! The leases. Pure: time is an argument.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::registry::{Expiry, Registry};

/// Vanishings per look that are believed at once; more of them only a [`SHARE`] at a time.
const BELIEVED: usize = 32;
/// One in so many instances may be dropped per look.
const SHARE: usize = 20;

/// When each registration was last confirmed.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    ttl: Duration,
    /// Nothing runs out before.
    quiet_until: Option<Instant>,
    services: HashMap<String, HashMap<String, Lease>>,
    /// Number of the last look.
    look: u64,
}

#[derive(Debug)]
struct Lease {
    renewed: Instant,
    epoch: u64,
    /// Its end is being written: a heartbeat comes too late, the instance has to register again.
    ending: bool,
    seen: u64,
}

impl Leases {
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { ttl, ..Self::default() }
    }

    /// A leadership begins: all leases are fresh, and nothing runs out for twice the usual time.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.services.clear();
        self.quiet_until = Some(now + 2 * self.ttl);
    }

    /// A heartbeat for the registration of this epoch, which the caller found registered. False if it comes too late.
    pub(crate) fn renew(&mut self, service: &str, id: &str, epoch: u64, now: Instant) -> bool {
        if let Some(lease) = self.services.get_mut(service).and_then(|s| s.get_mut(id)) {
            if lease.epoch > epoch || lease.ending && lease.epoch == epoch {
                return false;
            }
            (lease.renewed, lease.epoch, lease.ending) = (now, epoch, false);
            return true;
        }
        let lease = Lease { renewed: now, epoch, ending: false, seen: self.look };
        self.services.entry(service.to_owned()).or_default().insert(id.to_owned(), lease);
        true
    }

    /// Time in which heartbeats could not be heard does not count.
    pub(crate) fn forgive(&mut self, lost: Duration) {
        for lease in self.services.values_mut().flat_map(HashMap::values_mut) {
            lease.renewed += lost;
        }
        if let Some(until) = &mut self.quiet_until {
            *until += lost;
        }
    }

    /// Brings the leases in line with the registry: new registrations begin one now, those that are gone end.
    pub(crate) fn follow(&mut self, registry: &Registry, now: Instant) {
        self.look += 1;
        let look = self.look;
        let services = &mut self.services;
        registry.for_each_service(|name| {
            if !services.contains_key(name) {
                services.insert(name.to_owned(), HashMap::new());
            }
        });
        registry.for_each_instance(|name, id, epoch| {
            let Some(leases) = services.get_mut(name) else { return };
            match leases.get_mut(id) {
                Some(lease) => {
                    lease.seen = look;
                    if lease.epoch < epoch {
                        (lease.renewed, lease.epoch, lease.ending) = (now, epoch, false);
                    }
                }
                None => {
                    leases.insert(id.to_owned(), Lease { renewed: now, epoch, ending: false, seen: look });
                }
            }
        });
        services.retain(|_, leases| {
            leases.retain(|_, lease| lease.seen == look);
            !leases.is_empty()
        });
    }

    /// What has run out, oldest heartbeat first, and is to be dropped now. If most instances are silent at once, the
    /// fault is more likely on our side: they get twice the time, and in any case only a share of many goes at once.
    pub(crate) fn run_out(&mut self, now: Instant) -> Vec<Expiry> {
        if self.quiet_until.is_some_and(|until| now < until) {
            return Vec::new();
        }
        let total: usize = self.services.values().map(HashMap::len).sum();
        let silent_for = |limit: Duration| {
            move |lease: &Lease| !lease.ending && now.saturating_duration_since(lease.renewed) >= limit
        };
        let is_over = silent_for(self.ttl);
        let over = self.services.values().flat_map(HashMap::values).filter(|l| is_over(l)).count();
        let suspicious = over > BELIEVED && over * 2 > total;
        let limit = if suspicious { 2 * self.ttl } else { self.ttl };
        let is_over = silent_for(limit);
        let mut found: Vec<(Instant, Expiry)> = Vec::new();
        for (service, leases) in &self.services {
            for (id, lease) in leases.iter().filter(|(_, l)| is_over(l)) {
                let expiry = Expiry { service: service.clone(), id: id.clone(), epoch: lease.epoch };
                found.push((lease.renewed, expiry));
            }
        }
        found.sort_by(|a, b| (a.0, &a.1.service, &a.1.id).cmp(&(b.0, &b.1.service, &b.1.id)));
        found.truncate(BELIEVED.max(total / SHARE));
        let found: Vec<Expiry> = found.into_iter().map(|(_, expiry)| expiry).collect();
        self.mark(&found, true);
        found
    }

    /// The end of these could not be written.
    pub(crate) fn keep(&mut self, kept: &[Expiry]) {
        self.mark(kept, false);
    }

    fn mark(&mut self, expiries: &[Expiry], ending: bool) {
        for Expiry { service, id, epoch } in expiries {
            let lease = self.services.get_mut(service).and_then(|s| s.get_mut(id));
            if let Some(lease) = lease.filter(|l| l.epoch == *epoch) {
                lease.ending = ending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flynn_types::discoverd::{Instance, LeaderType};

    use super::*;
    use crate::registry::Command;

    const TTL: Duration = Duration::from_secs(10);

    struct World {
        registry: Registry,
        leases: Leases,
        start: Instant,
        index: u64,
    }

    impl World {
        fn with(instances: usize) -> Self {
            let mut world =
                Self { registry: Registry::default(), leases: Leases::new(TTL), start: Instant::now(), index: 0 };
            world.apply(Command::AddService { service: "a".into(), leader_type: LeaderType::Oldest });
            for number in 0..instances {
                world.register(number);
            }
            world.leases.begin(world.start);
            world.leases.follow(&world.registry, world.start);
            world
        }

        fn apply(&mut self, command: Command) {
            self.index += 1;
            self.registry.apply(self.index, command).0.unwrap();
        }

        fn register(&mut self, number: usize) {
            self.apply(Command::AddInstance { service: "a".into(), instance: instance(number) });
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn beat(&mut self, number: usize, seconds: u64) -> bool {
            let (id, now) = (instance(number).id, self.at(seconds));
            let epoch = self.registry.epoch("a", &id).unwrap();
            self.leases.renew("a", &id, epoch, now)
        }

        fn look(&mut self, seconds: u64) -> Vec<String> {
            let now = self.at(seconds);
            self.leases.follow(&self.registry, now);
            self.leases.run_out(now).into_iter().map(|e| e.id).collect()
        }
    }

    fn instance(number: usize) -> Instance {
        Instance::new("tcp", &format!("10.0.0.1:{number}"), BTreeMap::new())
    }

    #[test]
    fn after_a_change_of_leader_nothing_runs_out_for_twice_the_time() {
        let mut world = World::with(2);
        assert!(world.look(19).is_empty());
        assert!(world.beat(1, 19));
        assert_eq!(world.look(20), [instance(0).id]);
    }

    #[test]
    fn heartbeats_keep_an_instance_and_silence_ends_it() {
        let mut world = World::with(1);
        for second in (5..100).step_by(5) {
            assert!(world.beat(0, second));
            assert!(world.look(second + 4).is_empty());
        }
        assert!(world.look(104).is_empty());
        assert_eq!(world.look(105), [instance(0).id]);
    }

    #[test]
    fn a_heartbeat_after_the_decision_is_told_to_register_again() {
        let mut world = World::with(1);
        assert_eq!(world.look(20).len(), 1);
        assert!(!world.beat(0, 20));
        world.register(0); // through the log, with a new epoch
        assert!(world.look(21).is_empty());
        assert!(world.beat(0, 21));
    }

    #[test]
    fn an_end_that_was_not_written_is_tried_again() {
        let mut world = World::with(1);
        let now = world.at(20);
        let ended = world.leases.run_out(now);
        assert!(world.leases.run_out(now).is_empty());
        world.leases.keep(&ended);
        assert_eq!(world.leases.run_out(now), ended);
    }

    #[test]
    fn time_in_which_we_slept_is_forgiven() {
        let mut world = World::with(1);
        world.beat(0, 25);
        world.leases.forgive(Duration::from_secs(60));
        assert!(world.look(94).is_empty());
        assert_eq!(world.look(95).len(), 1);
    }

    #[test]
    fn when_most_are_silent_they_get_twice_the_time_and_go_in_shares() {
        let mut world = World::with(1000);
        (0..1000).for_each(|n| assert!(world.beat(n, 20)));
        assert!(world.look(30).is_empty());
        assert!(world.look(39).is_empty());
        assert_eq!(world.look(40).len(), 50);
        // a minority goes after the usual time, but not all at once
        let mut world = World::with(1000);
        (0..1000).for_each(|n| assert!(world.beat(n, 20)));
        (0..700).for_each(|n| assert!(world.beat(n, 25)));
        assert_eq!(world.look(30).len(), 50);
        // few go at once
        let mut world = World::with(30);
        (0..30).for_each(|n| assert!(world.beat(n, 20)));
        assert_eq!(world.look(30).len(), 30);
    }

    #[test]
    fn a_removed_instance_has_no_lease() {
        let mut world = World::with(1);
        world.apply(Command::RemoveInstance { service: "a".into(), id: instance(0).id });
        assert!(world.look(60).is_empty());
    }
}
