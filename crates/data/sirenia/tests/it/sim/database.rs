//! A database without bytes: a log of commits, replicated by streaming, acknowledged by the sync.

use std::collections::{BTreeMap, VecDeque};

use flynn_sirenia::{FenceFailure, InHistory};
use flynn_types::discoverd::Instance;
use flynn_types::sirenia::{Config, Role};

use super::Break;
use crate::rig::KEY;

pub(crate) type At = InHistory<u64>;

/// What stands in a log: the first record of each generation is its primary's mark, with commit 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) generation: u64,
    pub(crate) commit: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mode {
    Off,
    Primary { generation: u64, sync: Option<String>, singleton: bool },
    Standby { upstream: Instance },
}

/// One peer's database. The log is on its volume and survives everything.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pub(crate) log: Vec<Entry>,
    pub(crate) mode: Mode,
    /// Another with each start, promotion and change of the upstream: connections are of one run.
    pub(crate) run: u64,
    pub(crate) fenced: bool,
    pub(crate) writable: bool,
    /// The log is being replaced by the upstream's.
    pub(crate) copying: bool,
    confirmed: BTreeMap<String, usize>,
    /// Places in the log and commits whose clients wait.
    pending: VecDeque<(usize, u64)>,
    pub(crate) broken: Option<Break>,
    /// Whether it takes writes by itself as soon as the sync has everything.
    pub(crate) opens: bool,
}

impl Database {
    pub(crate) fn new(broken: Option<Break>) -> Self {
        Self {
            log: Vec::new(),
            mode: Mode::Off,
            run: 0,
            fenced: false,
            writable: false,
            copying: false,
            confirmed: BTreeMap::new(),
            pending: VecDeque::new(),
            broken,
            opens: true,
        }
    }

    /// Whether a peer has all that this database has.
    pub(crate) fn is_with(&self, peer: &str) -> bool {
        self.confirmed.get(peer).is_some_and(|length| *length >= self.log.len())
    }

    pub(crate) fn position(&self) -> At {
        let generation = self.log.last().map_or(0, |entry| entry.generation);
        let generation = if self.broken == Some(Break::OffsetsOnly) { 0 } else { generation };
        At { generation, offset: self.log.len() as u64 }
    }

    /// Ends connections, and what their clients waited for.
    fn restart(&mut self, mode: Mode) {
        (self.mode, self.writable, self.copying) = (mode, false, false);
        self.run += 1;
        self.confirmed.clear();
        self.pending.clear();
    }

    pub(crate) fn stop(&mut self) {
        self.fenced = false;
        self.restart(Mode::Off);
    }

    pub(crate) fn configure(&mut self, config: &Config) -> Result<(), String> {
        let cluster = config.state.as_ref();
        match (config.role, &config.upstream, cluster) {
            (Role::Primary, _, Some(cluster)) => {
                let initial: At = cluster.init_wal.parse().map_err(|_| "malformed position".to_owned())?;
                if self.position() < initial {
                    return Err(format!("the log ends at {}, the generation begins at {initial}", self.position()));
                }
                let sync = config.downstream.as_ref().map(|sync| sync.meta[KEY].clone());
                self.lead(cluster.generation, sync, cluster.singleton);
            }
            (Role::Sync | Role::Async, Some(upstream), _) => {
                let mode = Mode::Standby { upstream: upstream.clone() };
                if self.mode != mode {
                    self.restart(mode);
                }
                self.fenced = false;
            }
            _ => self.stop(),
        }
        Ok(())
    }

    fn lead(&mut self, generation: u64, sync: Option<String>, singleton: bool) {
        let mode = Mode::Primary { generation, sync, singleton };
        if !matches!(self.mode, Mode::Primary { .. }) {
            self.restart(mode.clone());
        }
        let unchanged = self.mode == mode && !self.fenced;
        self.writable = (self.writable && unchanged) || (singleton && self.opens);
        (self.mode, self.fenced) = (mode, false);
        if self.log.last().is_none_or(|entry| entry.generation < generation) {
            self.log.push(Entry { generation, commit: 0 });
            self.writable = singleton && self.opens;
        }
    }

    pub(crate) fn fence(&mut self, at_least: &At) -> Result<At, FenceFailure<At>> {
        let position = self.position();
        if self.mode == Mode::Off || self.copying {
            return Err(FenceFailure::Offline);
        }
        if position < *at_least {
            if self.broken != Some(Break::AnyPosition) {
                return Err(FenceFailure::Behind(position));
            }
            return Ok(at_least.clone()); // says what is wanted to be heard
        }
        if self.broken != Some(Break::NoFence) {
            (self.fenced, self.writable) = (true, false);
        }
        Ok(position)
    }

    /// A client's commit. Gives the generation if it is acknowledged at once.
    pub(crate) fn commit(&mut self, commit: u64) -> Option<u64> {
        let Mode::Primary { generation, singleton, .. } = self.mode else { return None };
        if !self.writable || self.fenced || self.pending.len() > 200 {
            return None;
        }
        self.log.push(Entry { generation, commit });
        if singleton || self.broken == Some(Break::AckAlone) {
            return Some(generation);
        }
        self.pending.push_back((self.log.len(), commit));
        None
    }

    /// A standby has so much. Gives the commits that are acknowledged by that, with their generation.
    pub(crate) fn confirmed(&mut self, by: &str, length: usize) -> (u64, Vec<u64>) {
        let reached = self.confirmed.entry(by.to_owned()).or_default();
        *reached = length.max(*reached);
        let length = *reached;
        let Mode::Primary { generation, sync: Some(sync), .. } = &self.mode else { return (0, Vec::new()) };
        if self.fenced || sync != by {
            return (0, Vec::new());
        }
        let generation = *generation;
        if self.opens && length >= self.log.len() {
            self.writable = true;
        }
        let count = self.pending.iter().take_while(|(place, _)| *place <= length).count();
        (generation, self.pending.drain(..count).map(|(_, commit)| commit).collect())
    }

    pub(crate) fn follows(&self) -> Option<&Instance> {
        match &self.mode {
            Mode::Standby { upstream } if !self.fenced => Some(upstream),
            _ => None,
        }
    }

    /// What comes next in this log for a standby; `None` for one whose log is no part of it.
    pub(crate) fn after(&self, standby: &[Entry], most: usize) -> Option<Vec<Entry>> {
        let own = standby.len();
        // Entries are unique and have one writer: equal last ones have equal ones before them.
        let continues = own == 0 || self.log.get(own - 1) == standby.last();
        continues.then(|| self.log.iter().skip(own).take(most).copied().collect())
    }

    pub(crate) fn has(&self, commit: u64) -> bool {
        self.log.iter().any(|entry| entry.commit == commit)
    }
}
