//! Peers, network and time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flynn_sirenia::{Effect, Event, Me, RETRY, State, Ticket, Volume, WriteFailure, next};
use flynn_types::discoverd::Instance;
use flynn_types::sirenia::{ClusterState, Config, Freeze, IdKey, PeerId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::Break;
use super::database::{At, Database, Mode};
use super::discovery::Discovery;
use super::truth::Truth;
use crate::rig::{KEY, at, text};

/// Addresses that peers come back at: few, so that one gets another's.
const ADDRESSES: u64 = 7;
/// Lines of history that a failure shows.
const SHOWN: usize = 60;

struct Peer {
    up: bool,
    /// Whether it reaches discoverd.
    reaches: bool,
    /// Another with each start: what an earlier process had under way does not come back to it.
    born: u64,
    address: u64,
    state: State,
    remembered: u64,
    database: Database,
    /// The operation that counts.
    ticket: Ticket,
}

#[derive(Clone, Debug)]
enum Happening {
    Look { peer: usize, born: u64 },
    Hear { peer: usize, born: u64, event: Box<Event<At>> },
    Fence { peer: usize, born: u64, ticket: Ticket, at_least: At },
    Configure { peer: usize, born: u64, ticket: Ticket, config: Box<Config> },
    Land { peer: usize, born: u64, ticket: Ticket, index: u64, cluster: Box<ClusterState>, answered: bool },
    Stream { peer: usize },
    Copied { peer: usize, run: u64 },
    Confirm { to: usize, run: u64, by: usize, length: usize },
    Beat,
    Commit,
    Fault,
}

pub(crate) struct World {
    rng: StdRng,
    pub(crate) now: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    peers: Vec<Peer>,
    cut: BTreeSet<(usize, usize)>,
    discovery: Discovery,
    pub(crate) truth: Truth,
    broken: Option<Break>,
    commits: u64,
    pub(crate) faults: bool,
    history: VecDeque<String>,
}

impl World {
    pub(crate) fn new(seed: u64, broken: Option<Break>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = rng.random_range(2..=5);
        let mut world = Self {
            rng,
            now: 0,
            sequence: 0,
            queue: BTreeMap::new(),
            peers: (0..count).map(|number| Peer::new(number, broken)).collect(),
            cut: BTreeSet::new(),
            discovery: Discovery::new(broken),
            truth: Truth::default(),
            broken,
            commits: 0,
            faults: true,
            history: VecDeque::new(),
        };
        for peer in 0..count {
            world.start(peer);
            world.after(50, Happening::Stream { peer });
        }
        for happening in [Happening::Beat, Happening::Commit, Happening::Fault] {
            world.after(100, happening);
        }
        world
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.history.len() == SHOWN {
            self.history.pop_front();
        }
        let line = format!("{:>6} ms  {}", self.now, line());
        self.history.push_back(line);
    }

    pub(crate) fn history(&self) -> String {
        self.history.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    fn after(&mut self, delay: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), happening);
    }

    fn soon(&mut self, most: u64, happening: Happening) {
        let delay = self.rng.random_range(1..=most);
        self.after(delay, happening);
    }

    /// Goes on until a time, or a violation.
    pub(crate) fn run_until(&mut self, end: u64) {
        while self.truth.violation.is_none() {
            let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) else { break };
            self.now = entry.key().0;
            let happening = entry.remove();
            self.happen(happening);
        }
        self.now = self.now.max(end);
    }

    fn alive(&self, peer: usize, born: u64) -> bool {
        self.peers[peer].up && self.peers[peer].born == born
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Look { peer, born } if self.alive(peer, born) => {
                if self.peers[peer].reaches {
                    let view = self.discovery.view(&mut self.rng, self.faults);
                    self.hear(peer, Event::Discovered(Box::new(view)));
                }
                self.soon(300, Happening::Look { peer, born });
            }
            Happening::Hear { peer, born, event } if self.alive(peer, born) => self.hear(peer, *event),
            Happening::Fence { peer, born, ticket, at_least } if self.counts(peer, born, ticket) => {
                let result = self.peers[peer].database.fence(&at_least);
                self.note(|| format!("{peer} is fenced: {result:?}"));
                // Much happens meanwhile, unless it is a fence.
                let late = if self.broken == Some(Break::NoFence) { 3000 } else { 40 };
                self.soon(late, Happening::Hear { peer, born, event: Box::new(Event::Fenced(ticket, result)) });
            }
            Happening::Configure { peer, born, ticket, config } if self.counts(peer, born, ticket) => {
                let fails = self.faults && self.rng.random_bool(0.05);
                let database = &mut self.peers[peer].database;
                let result = if fails { Err("bad luck".to_owned()) } else { database.configure(&config) };
                self.note(|| format!("{peer} is {}: {result:?}", config.role));
                self.answer(peer, Event::Configured(ticket, result));
                self.check_writable(peer);
            }
            Happening::Land { peer, born, ticket, index, cluster, answered } => {
                let before = self.discovery.cluster.clone();
                let result = self.discovery.write(index, *cluster);
                if let (Ok(_), Some(after)) = (&result, self.discovery.cluster.clone()) {
                    self.note(|| format!("{peer} wrote {}", text(&after)));
                    self.truth.declared(before.as_ref(), &after);
                }
                if answered && self.alive(peer, born) {
                    self.answer(peer, Event::Written(ticket, result));
                }
            }
            Happening::Stream { peer } => {
                self.stream(peer);
                self.soon(80, Happening::Stream { peer });
            }
            Happening::Copied { peer, run } => self.copied(peer, run),
            Happening::Confirm { to, run, by, length } => self.confirm(to, run, by, length),
            Happening::Beat => self.beat(),
            Happening::Commit => self.commit(),
            Happening::Fault if self.faults => {
                self.fault();
                self.soon(3000, Happening::Fault);
            }
            _ => {} // of a process that is gone, or abandoned
        }
    }

    fn counts(&self, peer: usize, born: u64, ticket: Ticket) -> bool {
        self.alive(peer, born) && self.peers[peer].ticket == ticket
    }

    fn answer(&mut self, peer: usize, event: Event<At>) {
        let born = self.peers[peer].born;
        self.soon(40, Happening::Hear { peer, born, event: Box::new(event) });
    }

    fn hear(&mut self, peer: usize, event: Event<At>) {
        let (state, effects) = next(&self.peers[peer].state, event);
        self.peers[peer].state = state;
        for effect in effects {
            self.carry_out(peer, effect);
        }
    }

    fn carry_out(&mut self, peer: usize, effect: Effect<At>) {
        let born = self.peers[peer].born;
        match effect {
            Effect::Remember(generation) => {
                assert!(generation > self.peers[peer].remembered, "generations only grow on a volume");
                self.peers[peer].remembered = generation;
            }
            Effect::Fence { ticket, at_least } => {
                self.peers[peer].ticket = ticket;
                self.soon(60, Happening::Fence { peer, born, ticket, at_least });
            }
            Effect::Configure { ticket, config } => {
                self.peers[peer].ticket = ticket;
                self.soon(150, Happening::Configure { peer, born, ticket, config });
            }
            Effect::Write { ticket, index, cluster, .. } => {
                self.peers[peer].ticket = ticket;
                self.send(peer, ticket, index, cluster);
            }
            Effect::Retry if self.broken == Some(Break::NoRetry) => {}
            Effect::Retry => {
                let delay = u64::try_from(RETRY.as_millis()).unwrap();
                self.after(delay, Happening::Hear { peer, born, event: Box::new(Event::Timer) });
            }
            Effect::Withdraw | Effect::Fail(_) => unreachable!("nobody is told to leave"),
        }
    }

    /// A write on its way: what happens to the request and to the answer are different things.
    fn send(&mut self, peer: usize, ticket: Ticket, index: u64, cluster: Box<ClusterState>) {
        let (born, reaches) = (self.peers[peer].born, self.peers[peer].reaches);
        let answered = reaches && !(self.faults && self.rng.random_bool(0.1));
        let lands = answered || self.rng.random_bool(0.7);
        if lands {
            let most = if answered { 60 } else { 4000 };
            self.soon(most, Happening::Land { peer, born, ticket, index, cluster, answered });
        }
        if !answered {
            let event = Box::new(Event::Written(ticket, Err(WriteFailure::Uncertain)));
            self.soon(1000, Happening::Hear { peer, born, event });
        }
    }

    fn beat(&mut self) {
        for number in 0..self.peers.len() {
            let peer = &self.peers[number];
            if peer.up && peer.reaches {
                self.discovery.beat(peer.instance(number), self.now);
            }
        }
        self.discovery.expire(self.now);
        self.after(200, Happening::Beat);
    }

    fn commit(&mut self) {
        for number in 0..self.peers.len() {
            // Mostly a few; at times a burst, which makes a log long that nobody else has.
            let count = if self.rng.random_bool(0.02) { 60 } else { self.rng.random_range(0..=1) };
            for _ in 0..count {
                self.commits += 1;
                if let Some(generation) = self.peers[number].database.commit(self.commits) {
                    self.acknowledge(number, generation, vec![self.commits]);
                }
            }
        }
        self.after(100, Happening::Commit);
    }

    fn acknowledge(&mut self, peer: usize, generation: u64, commits: Vec<u64>) {
        let databases: Vec<&Database> = self.peers.iter().map(|peer| &peer.database).collect();
        for commit in commits {
            self.truth.acknowledge(peer, generation, commit, &databases);
        }
    }

    /// Who a standby is connected to.
    fn upstream(&self, peer: usize) -> Option<usize> {
        let wanted = self.peers[peer].database.follows()?;
        let is_it = |number: usize, other: &Peer| {
            other.up
                && other.database.mode != Mode::Off
                && !other.database.copying
                && other.instance(number).addr == wanted.addr
                && other.instance(number).meta == wanted.meta // who answers says who it is
        };
        let found = self.peers.iter().enumerate().position(|(number, other)| is_it(number, other))?;
        self.linked(peer, found).then_some(found)
    }

    fn linked(&self, one: usize, other: usize) -> bool {
        !self.cut.contains(&(one.min(other), one.max(other)))
    }

    fn stream(&mut self, peer: usize) {
        if !self.peers[peer].up || self.peers[peer].database.copying {
            return;
        }
        let Some(upstream) = self.upstream(peer) else { return };
        let source = &self.peers[upstream].database;
        let (run, reach) = (source.run, source.position());
        let most = self.rng.random_range(1..=40);
        let news = source.after(&self.peers[peer].database.log, most);
        let database = &mut self.peers[peer].database;
        if let Some(news) = news {
            database.log.extend(news);
            let length = database.log.len();
            self.soon(60, Happening::Confirm { to: upstream, run, by: peer, length });
        } else if reach > database.position() {
            database.copying = true;
            let run = database.run;
            self.soon(2000, Happening::Copied { peer, run });
        }
    }

    /// A copy is complete: it replaces the log if it is still the one that is wanted, and further.
    fn copied(&mut self, peer: usize, run: u64) {
        let upstream = self.upstream(peer);
        if !self.peers[peer].up || self.peers[peer].database.run != run {
            return;
        }
        self.peers[peer].database.copying = false;
        let Some(source) = upstream.map(|upstream| self.peers[upstream].database.clone()) else { return };
        if source.position() > self.peers[peer].database.position() {
            self.note(|| format!("{peer} has copied its upstream"));
            self.peers[peer].database.log = source.log;
        }
    }

    fn confirm(&mut self, to: usize, run: u64, by: usize, length: usize) {
        if !self.peers[to].up || self.peers[to].database.run != run || !self.linked(to, by) {
            return;
        }
        let was = self.peers[to].database.writable;
        let (generation, commits) = self.peers[to].database.confirmed(&name(by), length);
        if !was {
            self.check_writable(to);
        }
        self.acknowledge(to, generation, commits);
    }

    fn check_writable(&mut self, peer: usize) {
        if self.peers[peer].database.writable {
            self.note(|| format!("{peer} is writable"));
            self.truth.accepts(peer, &self.peers[peer].database);
        }
    }

    fn start(&mut self, peer: usize) {
        let free: Vec<u64> = (1..=ADDRESSES)
            .filter(|address| !self.peers.iter().any(|other| other.up && other.address == *address))
            .collect();
        let address = free[self.rng.random_range(0..free.len())];
        self.note(|| format!("{peer} starts at {address}"));
        self.peers[peer].start(peer, address);
        let born = self.peers[peer].born;
        self.soon(300, Happening::Look { peer, born });
    }

    fn crash(&mut self, peer: usize) {
        self.note(|| format!("{peer} crashes"));
        self.peers[peer].up = false;
        self.peers[peer].database.stop();
    }

    fn fault(&mut self) {
        self.repair();
        let count = self.peers.len();
        let (peer, other) = (self.rng.random_range(0..count), self.rng.random_range(0..count));
        match self.rng.random_range(0..100) {
            0..40 if self.peers[peer].up => self.crash(peer),
            40..60 => {
                self.note(|| format!("{peer} does not reach discoverd"));
                self.peers[peer].reaches = false;
            }
            60..70 if peer != other => {
                self.note(|| format!("{peer} and {other} do not reach each other"));
                self.cut.insert((peer.min(other), peer.max(other)));
            }
            70..75 => self.operator(|cluster| cluster.freeze = Some(Freeze::default())),
            75..90 => self.operator(|cluster| {
                cluster.deposed.pop();
            }),
            _ => {}
        }
    }

    /// Some of what is broken comes back.
    fn repair(&mut self) {
        for peer in 0..self.peers.len() {
            if !self.peers[peer].up && self.rng.random_bool(0.5) {
                self.start(peer);
            }
            if !self.peers[peer].reaches && self.rng.random_bool(0.4) {
                self.note(|| format!("{peer} reaches discoverd"));
                self.peers[peer].reaches = true;
            }
        }
        let rng = &mut self.rng;
        self.cut.retain(|_| rng.random_bool(0.6));
        if self.discovery.cluster.as_ref().is_some_and(|cluster| cluster.freeze.is_some()) && self.rng.random_bool(0.5)
        {
            self.operator(|cluster| cluster.freeze = None);
        }
    }

    /// An operator edits the state, with compare-and-set.
    fn operator(&mut self, edit: impl FnOnce(&mut ClusterState)) {
        if let Some(mut cluster) = self.discovery.cluster.clone() {
            edit(&mut cluster);
            self.note(|| format!("operator wrote {}", text(&cluster)));
            let written = self.discovery.write(self.discovery.cluster_index, cluster);
            assert!(written.is_ok());
        }
    }

    /// All faults end: peers run, everybody reaches everybody, nothing is frozen.
    pub(crate) fn heal(&mut self) {
        self.note(|| "all faults end".into());
        self.faults = false;
        self.cut.clear();
        for peer in 0..self.peers.len() {
            self.peers[peer].reaches = true;
            if !self.peers[peer].up {
                self.start(peer);
            }
        }
        self.operator(|cluster| cluster.freeze = None);
    }

    /// What each peer is, for a failure's message.
    pub(crate) fn shows(&self) -> String {
        let cluster = self.discovery.cluster.as_ref().map_or("none".into(), text);
        let peers = self.peers.iter().enumerate().map(|(number, peer)| {
            let (role, at) = (peer.state.role(), peer.database.position());
            let waits = peer.state.waiting_for().unwrap_or_default();
            format!("{number}: {role} {at} {:?} waits for {waits:?}", peer.database.mode)
        });
        format!("{cluster}\n{}", peers.collect::<Vec<_>>().join("\n"))
    }
}

fn name(peer: usize) -> String {
    format!("node{peer}")
}

impl Peer {
    fn new(number: usize, broken: Option<Break>) -> Self {
        Self {
            up: false,
            reaches: true,
            born: 0,
            address: 0,
            state: State::new(Self::me(number), Volume::default()),
            remembered: 0,
            database: Database::new(broken),
            ticket: 0,
        }
    }

    fn me(number: usize) -> Me {
        Me { id: PeerId(name(number)), key: IdKey(KEY.into()), singleton: false }
    }

    fn instance(&self, number: usize) -> Instance {
        at(number as u64, self.address)
    }

    fn start(&mut self, number: usize, address: u64) {
        let volume = Volume { generation: self.remembered, has_data: !self.database.log.is_empty() };
        (self.up, self.address) = (true, address);
        self.born += 1;
        self.state = State::new(Self::me(number), volume);
    }
}
