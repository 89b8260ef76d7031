//! The driver over the simulator's parts.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use flynn_sirenia::driver::PeerFailed;
use flynn_sirenia::{Discovery, Handle, Me, Peer, State, View, Views, Volume, World, WriteFailure};
use flynn_types::sirenia::{ClusterState, IdKey, PeerId, Role};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::databases::{Databases, One, STEP, Shared, Stubborn, name};
use crate::rig::{KEY, at, text};
use crate::sim::database::{At, Mode};
use crate::sim::discovery;

/// Three peers and what is around them.
struct Rig {
    databases: Shared,
    discovery: Arc<Mutex<discovery::Discovery>>,
    /// Who registers.
    beats: Arc<Mutex<Vec<bool>>>,
    begin: Instant,
    peers: Vec<Option<Peer>>,
    memories: Vec<Arc<Stubborn>>,
}

struct Node {
    number: usize,
    discovery: Arc<Mutex<discovery::Discovery>>,
    beats: Arc<Mutex<Vec<bool>>>,
}

struct Looks(Arc<Mutex<discovery::Discovery>>, View);

#[async_trait]
impl Views for Looks {
    async fn next(&mut self) -> View {
        loop {
            let view = self.0.lock().unwrap().view(&mut StdRng::seed_from_u64(0), false);
            if view != self.1 {
                self.1 = view.clone();
                return view;
            }
            tokio::time::sleep(STEP).await;
        }
    }
}

#[async_trait]
impl Discovery for Node {
    async fn write(&self, index: u64, cluster: &ClusterState, _: &str) -> Result<u64, WriteFailure> {
        self.discovery.lock().unwrap().write(index, cluster.clone())
    }

    async fn withdraw(&self) {
        self.beats.lock().unwrap()[self.number] = false;
    }
}

impl Rig {
    fn new(count: usize) -> Self {
        Self {
            databases: Databases::new(count),
            discovery: Arc::new(Mutex::new(discovery::Discovery::new(None))),
            beats: Arc::new(Mutex::new(vec![false; count])),
            begin: Instant::now(),
            peers: (0..count).map(|_| None).collect(),
            memories: (0..count).map(|_| Arc::default()).collect(),
        }
    }

    async fn cluster(count: usize) -> Self {
        let mut rig = Self::new(count);
        for number in 0..count {
            rig.start(number, false);
            rig.step().await; // so that they are of different age
        }
        rig.until("writes are acknowledged", |rig| rig.databases.lock().unwrap().acknowledged().len() > 3).await;
        rig
    }

    fn start(&mut self, number: usize, singleton: bool) -> Handle {
        self.beats.lock().unwrap()[number] = true;
        let me = Me { id: PeerId(name(number)), key: IdKey(KEY.into()), singleton };
        let volume = Volume {
            generation: self.memories[number].generation.load(Ordering::SeqCst),
            has_data: !self.databases.lock().unwrap().of(number).log.is_empty(),
        };
        let node = Node { number, discovery: self.discovery.clone(), beats: self.beats.clone() };
        let world = World::<At> {
            discovery: Arc::new(node),
            database: Arc::new(One { all: self.databases.clone(), number }),
            memory: self.memories[number].clone(),
        };
        let peer = Peer::start(State::new(me, volume), Looks(self.discovery.clone(), View::default()), world);
        let handle = peer.handle();
        self.peers[number] = Some(peer);
        handle
    }

    /// The peer's machine loses its power.
    fn kill(&mut self, number: usize) {
        self.peers[number] = None;
        self.beats.lock().unwrap()[number] = false;
        self.databases.lock().unwrap().of(number).stop();
    }

    async fn step(&self) {
        tokio::time::sleep(STEP).await;
        let now = u64::try_from(self.begin.elapsed().as_millis()).unwrap();
        let mut discovery = self.discovery.lock().unwrap();
        for (number, beats) in self.beats.lock().unwrap().iter().enumerate() {
            if *beats {
                discovery.beat(at(number as u64, number as u64), now);
            }
        }
        discovery.expire(now);
        self.databases.lock().unwrap().step();
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + flynn_patience::seconds(60);
        while !condition(self) {
            assert!(Instant::now() < deadline, "in vain until {what}: {}", self.shows());
            self.step().await;
        }
    }

    fn shows(&self) -> String {
        self.discovery.lock().unwrap().cluster.as_ref().map_or("none".into(), text)
    }

    fn known(&self, number: usize) -> flynn_sirenia::driver::Known {
        self.peers[number].as_ref().unwrap().handle().known()
    }

    fn mode(&self, number: usize) -> Mode {
        self.databases.lock().unwrap().of(number).mode.clone()
    }
}

#[tokio::test]
async fn a_cluster_forms_survives_its_primary_and_loses_nothing() {
    let mut rig = Rig::cluster(3).await;
    assert_eq!(rig.shows(), "g1 P=0 S=1 A=[2] W=0");
    rig.until("the primary's downstream is synced", |rig| rig.known(0).synced_downstream.is_some()).await;
    assert_eq!(rig.known(1).peer.role, Role::Sync);

    rig.kill(0);
    rig.until("the sync has taken over", |rig| rig.databases.lock().unwrap().of(1).writable).await;
    let before = rig.databases.lock().unwrap().acknowledged().len();
    assert!(rig.shows().starts_with("g2 P=1 S=2 D=[0] W=1@"), "{}", rig.shows());
    rig.until("it takes writes", |rig| rig.databases.lock().unwrap().acknowledged().len() > before + 5).await;
    assert_eq!(rig.databases.lock().unwrap().lost(1), [0; 0]);

    rig.start(0, false);
    rig.until("the old primary knows", |rig| rig.known(0).peer.role == Role::Deposed).await;
    assert_eq!(rig.mode(0), Mode::Off);
    assert!(rig.known(0).peer.waiting_for.unwrap().contains("take it out of the deposed peers"));
    let generations: Vec<u64> = rig.memories.iter().map(|memory| memory.generation.load(Ordering::SeqCst)).collect();
    assert_eq!(generations, [2, 2, 2]);
}

#[tokio::test]
async fn a_peer_that_is_stopped_leaves_its_place_at_once() {
    let mut rig = Rig::cluster(3).await;
    let handle = rig.peers[0].as_ref().unwrap().handle();
    handle.stop().await;
    assert_eq!((rig.mode(0), rig.beats.lock().unwrap()[0]), (Mode::Off, false));
    handle.stop().await; // the same again is fine
    assert_eq!(rig.peers[0].as_mut().unwrap().ended().await, Ok(()));
    rig.until("the sync has taken over", |rig| rig.databases.lock().unwrap().of(1).writable).await;
    assert_eq!(rig.databases.lock().unwrap().lost(1), [0; 0]);
}

#[tokio::test]
async fn nothing_goes_on_before_the_volume_has_the_generation() {
    let mut rig = Rig::new(2);
    rig.memories[0].refusals.store(2, Ordering::SeqCst);
    rig.start(0, false);
    rig.step().await;
    rig.start(1, false);
    rig.until("there is a state", |rig| rig.shows() != "none").await;
    while rig.memories[0].generation.load(Ordering::SeqCst) == 0 {
        assert_eq!(rig.mode(0), Mode::Off);
        rig.step().await;
    }
    assert!(rig.begin.elapsed() > flynn_sirenia::RETRY, "it was tried again");
    rig.until("it leads", |rig| rig.databases.lock().unwrap().of(0).writable).await;
}

#[tokio::test]
async fn a_peer_of_the_wrong_mode_ends_and_says_why() {
    let mut rig = Rig::cluster(2).await;
    rig.kill(1);
    rig.start(1, true);
    let mut peer = rig.peers[1].take().unwrap();
    let ended = peer.ended().await;
    let reason = "configured for singleton mode but cluster found in normal mode";
    assert_eq!(ended, Err(PeerFailed::Setup(reason)));
}
