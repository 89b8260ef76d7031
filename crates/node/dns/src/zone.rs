//! What is answered about discoverd names.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rand::Rng as _;

use crate::directory::{Directory, Instance};
use crate::wire::{Answer, Owner, Query, push_label, rcode, rtype};

/// Most instances in an answer over UDP.
const UDP_INSTANCES: usize = 3;
/// Offsets beyond this cannot be pointed to.
const POINTER_LIMIT: usize = 0x3fff;

/// The zone's name, `discoverd` by default, as lower-case labels.
#[derive(Debug)]
pub(crate) struct Zone {
    pub(crate) labels: Vec<Vec<u8>>,
}

/// How the query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// Buffers that are used again for every answer.
#[derive(Default)]
pub(crate) struct Scratch {
    order: Vec<u32>,
    picked: Vec<u32>,
    seen: HashSet<IpAddr>,
}

impl Zone {
    pub(crate) fn new(domain: &str) -> Self {
        let labels = domain.split('.').filter(|label| !label.is_empty());
        Self { labels: labels.map(|label| label.to_ascii_lowercase().into_bytes()).collect() }
    }

    /// Writes the records for `query`, whose name has `before` labels before the zone's.
    pub(crate) fn answer(
        &self,
        query: &Query<'_>,
        before: usize,
        transport: Transport,
        directory: &dyn Directory,
        scratch: &mut Scratch,
        answer: &mut Answer<'_>,
    ) {
        answer.authoritative();
        let zone_at = query.name.offset(before);
        match find(query, before, directory) {
            Found::Apex => {}
            Found::Unknown => {
                answer.code(rcode::SERVFAIL);
                return;
            }
            Found::Nothing => answer.code(rcode::NXDOMAIN),
            Found::One(instance) => one(query, transport, &instance, answer),
            Found::Many { service, instances, proto } => {
                let many = Many { zone: self, service, transport, instances: &instances, proto };
                many.answer(query, scratch, answer);
            }
        }
        if answer.is_empty() {
            // The zone's SOA is the answer to who asks for it at a name that exists, else it says who found nothing.
            let authority = query.qtype != rtype::SOA || answer.is_negative();
            answer.soa(authority, zone_at, serial());
        }
    }
}

enum Found<'a> {
    /// The zone itself.
    Apex,
    Nothing,
    /// The registry is not known yet.
    Unknown,
    One(Arc<Instance>),
    Many {
        service: &'a str,
        instances: Arc<[Instance]>,
        proto: Option<&'a [u8]>,
    },
}

fn find<'a>(query: &'a Query<'_>, before: usize, directory: &dyn Directory) -> Found<'a> {
    let name = &query.name;
    let (label, proto, part): (&[u8], Option<&[u8]>, Part<'_>) = match before {
        0 => return Found::Apex,
        1 => (name.label(0), None, Part::All),
        2 => match (name.label(0), name.label(1)) {
            ([b'_', service @ ..], [b'_', proto @ ..]) => (service, Some(proto), Part::All),
            (b"leader", service) => (service, None, Part::Leader),
            _ => return Found::Nothing,
        },
        3 if name.label(2) == b"_i" => (name.label(1), None, Part::Instance(name.label(0))),
        _ => return Found::Nothing,
    };
    let Some(service) = std::str::from_utf8(label).ok().filter(|name| !name.is_empty()) else { return Found::Nothing };
    let Some(view) = directory.service(service) else {
        return if directory.is_complete() { Found::Nothing } else { Found::Unknown };
    };
    match part {
        Part::All if view.instances.is_empty() => Found::Nothing,
        Part::All => Found::Many { service, instances: view.instances, proto },
        Part::Leader => view.leader.map_or(Found::Nothing, Found::One),
        Part::Instance(id) => {
            let found = view.instances.iter().find(|instance| instance.id.as_bytes().eq_ignore_ascii_case(id));
            found.map_or(Found::Nothing, |instance| Found::One(instance.clone().into()))
        }
    }
}

enum Part<'a> {
    All,
    Leader,
    Instance(&'a [u8]),
}

/// A name that stands for one instance: the target of its service record is the name itself.
fn one(query: &Query<'_>, transport: Transport, instance: &Instance, answer: &mut Answer<'_>) {
    let wants = |ip: &IpAddr| match query.qtype {
        rtype::A => ip.is_ipv4(),
        rtype::AAAA => ip.is_ipv6(),
        rtype::ANY => true,
        _ => false,
    };
    if let Some(ip) = instance.ip.filter(wants) {
        answer.address(false, Owner::Question, ip);
    }
    if matches!(query.qtype, rtype::SRV | rtype::ANY) {
        let name = &query.packet[query.name.offset(0)..query.question_end - 4];
        answer.service(instance.port, |out| out.extend_from_slice(name));
        if let Some(ip) = instance.ip
            && query.qtype == rtype::SRV
            && transport == Transport::Tcp
        {
            answer.address(true, Owner::Question, ip);
        }
    }
}

/// A name that stands for several instances.
struct Many<'a> {
    zone: &'a Zone,
    service: &'a str,
    transport: Transport,
    instances: &'a [Instance],
    proto: Option<&'a [u8]>,
}

impl Many<'_> {
    fn answer(&self, query: &Query<'_>, scratch: &mut Scratch, answer: &mut Answer<'_>) {
        match query.qtype {
            rtype::A => self.pick(scratch, true, |ip| ip.is_some_and(|ip| ip.is_ipv4())),
            rtype::AAAA => self.pick(scratch, true, |ip| ip.is_some_and(|ip| ip.is_ipv6())),
            rtype::SRV => self.pick(scratch, false, |_| true),
            rtype::ANY => self.pick(scratch, true, |_| true),
            _ => return,
        }
        if query.qtype != rtype::SRV {
            for instance in self.picked(scratch) {
                if let Some(ip) = instance.ip {
                    answer.address(false, Owner::Question, ip);
                }
            }
        }
        if !matches!(query.qtype, rtype::SRV | rtype::ANY) {
            return;
        }
        let mut targets = Vec::new();
        for instance in self.picked(scratch) {
            let at = answer.service(instance.port, |out| self.write_target(instance, out));
            if let (Some(at @ ..=POINTER_LIMIT), Some(ip)) = (at, instance.ip)
                && query.qtype == rtype::SRV
                && self.transport == Transport::Tcp
            {
                targets.push((at, ip));
            }
        }
        for (at, ip) in targets {
            answer.address(true, Owner::At(at), ip);
        }
    }

    fn picked<'s>(&'s self, scratch: &'s Scratch) -> impl Iterator<Item = &'s Instance> {
        scratch.picked.iter().filter_map(|index| self.instances.get(*index as usize))
    }

    /// Chooses instances in random order, as many as the transport allows.
    fn pick(&self, scratch: &mut Scratch, distinct: bool, wanted: impl Fn(Option<IpAddr>) -> bool) {
        let Scratch { order, picked, seen } = scratch;
        let most = if self.transport == Transport::Udp { UDP_INSTANCES } else { usize::MAX };
        order.clear();
        order.extend(0..u32::try_from(self.instances.len()).unwrap_or(u32::MAX));
        picked.clear();
        seen.clear();
        let mut rng = rand::rng();
        for at in 0..order.len() {
            let other = rng.random_range(at..order.len());
            order.swap(at, other);
            let Some(instance) = self.instances.get(order[at] as usize) else { continue };
            let fits = self.proto.is_none_or(|proto| proto == instance.proto.as_bytes()) && wanted(instance.ip);
            if fits && (!distinct || instance.ip.is_none_or(|ip| seen.insert(ip))) {
                picked.push(order[at]);
                if picked.len() == most {
                    break;
                }
            }
        }
    }

    fn write_target(&self, instance: &Instance, out: &mut Vec<u8>) {
        for label in [instance.id.as_bytes(), self.service.as_bytes(), b"_i"] {
            push_label(out, label);
        }
        for label in &self.zone.labels {
            push_label(out, label);
        }
        out.push(0);
    }
}

/// Serial of the zone: unix time in seconds.
fn serial() -> u32 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    (seconds & u64::from(u32::MAX)) as u32
}
