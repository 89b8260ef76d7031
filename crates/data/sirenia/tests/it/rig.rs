//! One peer, `node1`, among others that are only names: cluster states are written as `g3 P=1 S=2 A=[4] D=[3] W=20`.

use flynn_sirenia::{Effect, Event, FenceFailure, Me, State, View, Volume, WriteFailure, next};
use flynn_types::discoverd::Instance;
use flynn_types::sirenia::{ClusterState, Config, Freeze, IdKey, PeerId, Role};

pub(crate) const KEY: &str = "SIM_ID";

pub(crate) fn instance(number: u64) -> Instance {
    at(number, number)
}

/// A peer at the address that belongs to another number.
pub(crate) fn at(number: u64, address: u64) -> Instance {
    let meta = [(KEY.to_owned(), format!("node{number}"))].into();
    Instance { index: number, ..Instance::new("tcp", &format!("10.0.0.{address}:5432"), meta) }
}

fn number(instance: &Instance) -> String {
    instance.meta[KEY].trim_start_matches("node").to_owned()
}

/// Reads `g1 P=2 S=3 A=[1] D=[4] W=0`; also `singleton` and `frozen`.
pub(crate) fn cluster(text: &str) -> ClusterState {
    let list = |text: &str| {
        let inner = text.trim_matches(['[', ']']).split(',').filter(|part| !part.is_empty());
        inner.map(|part| instance(part.parse().unwrap())).collect::<Vec<_>>()
    };
    let mut cluster = ClusterState { init_wal: "0".into(), ..ClusterState::default() };
    for word in text.split(' ') {
        match word.split_once('=') {
            Some(("P", who)) => cluster.primary = list(who).pop(),
            Some(("S", who)) => cluster.sync = list(who).pop(),
            Some(("A", who)) => cluster.asyncs = list(who),
            Some(("D", who)) => cluster.deposed = list(who),
            Some(("W", position)) => cluster.init_wal = position.to_owned(),
            None if word == "singleton" => cluster.singleton = true,
            None if word == "frozen" => cluster.freeze = Some(Freeze { reason: "test".into(), ..Freeze::default() }),
            _ => cluster.generation = word.trim_start_matches('g').parse().unwrap(),
        }
    }
    cluster
}

/// The inverse of [`cluster`].
pub(crate) fn text(cluster: &ClusterState) -> String {
    let one = |name: &str, entry: &Option<Instance>| {
        entry.as_ref().map(|entry| format!(" {name}={}", number(entry))).unwrap_or_default()
    };
    let list = |name: &str, list: &[Instance]| {
        let numbers: Vec<_> = list.iter().map(number).collect();
        if numbers.is_empty() { String::new() } else { format!(" {name}=[{}]", numbers.join(",")) }
    };
    format!(
        "g{}{}{}{}{}{}{} W={}",
        cluster.generation,
        if cluster.singleton { " singleton" } else { "" },
        if cluster.freeze.is_some() { " frozen" } else { "" },
        one("P", &cluster.primary),
        one("S", &cluster.sync),
        list("A", &cluster.asyncs),
        list("D", &cluster.deposed),
        cluster.init_wal
    )
}

pub(crate) struct Rig {
    pub(crate) state: State,
    pub(crate) peers: Vec<Instance>,
    pub(crate) index: u64,
    pub(crate) cluster: Option<ClusterState>,
    /// What the database is.
    pub(crate) config: Option<Config>,
    pub(crate) position: u64,
    pub(crate) fenced: bool,
    pub(crate) configure_fails: bool,
    /// What becomes of the next writes.
    pub(crate) write_fails: Option<WriteFailure>,
    pub(crate) failed: Option<&'static str>,
    pub(crate) withdrawn: bool,
    timer: bool,
    /// Configurations that were asked for.
    pub(crate) configured: usize,
    pub(crate) remembered: u64,
}

impl Rig {
    pub(crate) fn new(singleton: bool) -> Self {
        Self::with(singleton, Volume::default())
    }

    pub(crate) fn with(singleton: bool, volume: Volume) -> Self {
        let me = Me { id: PeerId("node1".into()), key: IdKey(KEY.into()), singleton };
        Self {
            state: State::new(me, volume),
            peers: Vec::new(),
            index: 0,
            cluster: None,
            config: None,
            position: 0,
            fenced: false,
            configure_fails: false,
            write_fails: None,
            failed: None,
            withdrawn: false,
            timer: false,
            configured: 0,
            remembered: volume.generation,
        }
    }

    /// A peer that starts into this.
    pub(crate) fn start(state: &str, peers: &[u64]) -> Self {
        let mut rig = Self::new(false);
        rig.peers = peers.iter().copied().map(instance).collect();
        rig.declares(state);
        rig
    }

    /// These are registered from now on.
    pub(crate) fn registered(&mut self, peers: &[u64]) -> &mut Self {
        self.peers = peers.iter().copied().map(instance).collect();
        self.tell()
    }

    /// Somebody else writes the state.
    pub(crate) fn declares(&mut self, state: &str) -> &mut Self {
        self.cluster = Some(cluster(state));
        self.index += 1;
        self.tell()
    }

    pub(crate) fn tell(&mut self) -> &mut Self {
        let view =
            View { peers: self.peers.clone(), index: self.index, cluster: self.cluster.clone(), ..View::default() };
        self.hear(Event::Discovered(Box::new(view)))
    }

    /// A second passes; until nothing more comes of it.
    pub(crate) fn wait(&mut self) -> &mut Self {
        for _ in 0..5 {
            if std::mem::take(&mut self.timer) {
                self.hear(Event::Timer);
            }
        }
        self
    }

    /// The log gets what the generation began with.
    pub(crate) fn catch_up(&mut self) -> &mut Self {
        self.position = self.position.max(self.cluster.as_ref().unwrap().init_wal.parse().unwrap());
        self.wait()
    }

    pub(crate) fn hear(&mut self, event: Event<u64>) -> &mut Self {
        let (state, effects) = next(&self.state, event);
        self.state = state;
        for effect in effects {
            if let Some(answer) = self.carry_out(effect) {
                self.hear(answer);
            }
        }
        self
    }

    fn carry_out(&mut self, effect: Effect<u64>) -> Option<Event<u64>> {
        match effect {
            Effect::Remember(generation) => self.remembered = generation,
            Effect::Fence { ticket, at_least } => return Some(Event::Fenced(ticket, self.fence(at_least))),
            Effect::Write { ticket, index, cluster, leader } => {
                assert_eq!(
                    cluster.primary.as_ref().map(|primary| primary.id.clone()),
                    Some(leader),
                    "who is primary leads"
                );
                let result = match self.write_fails {
                    Some(failure) => Err(failure),
                    None if index == self.index => {
                        (self.index, self.cluster) = (index + 1, Some(*cluster));
                        Ok(self.index)
                    }
                    None => Err(WriteFailure::Refused),
                };
                return Some(Event::Written(ticket, result));
            }
            Effect::Configure { ticket, config } => {
                self.configured += 1;
                if self.configure_fails {
                    return Some(Event::Configured(ticket, Err("broken".into())));
                }
                if config.role == Role::Primary {
                    self.position += 10; // as the Go implementation's simulator
                }
                (self.config, self.fenced) = (Some(*config), false);
                return Some(Event::Configured(ticket, Ok(())));
            }
            Effect::Retry => self.timer = true,
            Effect::Withdraw => self.withdrawn = true,
            Effect::Fail(reason) => self.failed = Some(reason),
        }
        None
    }

    fn fence(&mut self, at_least: u64) -> Result<u64, FenceFailure<u64>> {
        if !self.online() {
            return Err(FenceFailure::Offline);
        }
        if self.position < at_least {
            return Err(FenceFailure::Behind(self.position));
        }
        self.fenced = true;
        Ok(self.position)
    }

    pub(crate) fn online(&self) -> bool {
        self.config.as_ref().is_some_and(|config| config.role.runs())
    }

    /// Role, neighbours and state in one line: `sync 3>1>2 g2 P=3 S=1 A=[2] W=10`; `off` for a database that is stopped.
    pub(crate) fn shows(&self) -> String {
        let neighbour = |entry: Option<&Instance>| entry.map(number).unwrap_or_default();
        let database = match &self.config {
            Some(config) if config.role.runs() => {
                format!("{}>1>{}", neighbour(config.upstream.as_ref()), neighbour(config.downstream.as_ref()))
            }
            _ => "off".to_owned(),
        };
        let cluster = self.cluster.as_ref().map_or("none".to_owned(), text);
        format!("{} {database} {cluster}", self.state.role())
    }

    #[track_caller]
    pub(crate) fn is(&mut self, expected: &str) -> &mut Self {
        assert_eq!(self.shows(), expected, "waiting for {:?}", self.state.waiting_for());
        self
    }

    #[track_caller]
    pub(crate) fn waits_for(&mut self, expected: &str) -> &mut Self {
        let waiting = self.state.waiting_for().unwrap_or_default();
        assert!(waiting.contains(expected), "waits for {waiting:?}, not for {expected:?}");
        self
    }
}
