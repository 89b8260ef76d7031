//! The simulator's databases behind the driver's interface, replicating as time passes.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use flynn_sirenia::{FenceFailure, Memory};
use flynn_types::discoverd::Instance;
use flynn_types::sirenia::{Config, DatabaseInfo};

use crate::rig::KEY;
use crate::sim::database::{At, Database, Mode};

/// Between two steps of replication.
pub(crate) const STEP: Duration = Duration::from_millis(20);

#[derive(Default)]
pub(crate) struct Databases {
    list: Vec<Database>,
    commits: u64,
    acknowledged: Vec<u64>,
}

pub(crate) type Shared = Arc<Mutex<Databases>>;

impl Databases {
    pub(crate) fn new(count: usize) -> Shared {
        let mut database = Database::new(None);
        database.opens = false;
        Arc::new(Mutex::new(Self { list: vec![database; count], ..Self::default() }))
    }

    pub(crate) fn of(&mut self, number: usize) -> &mut Database {
        &mut self.list[number]
    }

    /// Everybody streams, and a client commits wherever it can.
    pub(crate) fn step(&mut self) {
        for number in 0..self.list.len() {
            self.commits += 1;
            let commit = self.commits;
            self.list[number].commit(commit);
            if let Some(upstream) = self.list[number].follows().map(number_of) {
                self.stream(number, upstream);
            }
        }
    }

    fn stream(&mut self, number: usize, upstream: usize) {
        let source = &self.list[upstream];
        if source.mode == Mode::Off {
            return;
        }
        match source.after(&self.list[number].log, 100) {
            Some(news) => self.list[number].log.extend(news),
            None if source.position() > self.list[number].position() => self.list[number].log = source.log.clone(),
            None => return,
        }
        let length = self.list[number].log.len();
        let (_, commits) = self.list[upstream].confirmed(&name(number), length);
        self.acknowledged.extend(commits);
    }

    pub(crate) fn acknowledged(&self) -> &[u64] {
        &self.acknowledged
    }

    /// Acknowledged commits that this log lacks.
    pub(crate) fn lost(&self, number: usize) -> Vec<u64> {
        self.acknowledged.iter().copied().filter(|commit| !self.list[number].has(*commit)).collect()
    }
}

pub(crate) fn name(number: usize) -> String {
    format!("node{number}")
}

pub(crate) fn number_of(instance: &Instance) -> usize {
    instance.meta[KEY].trim_start_matches("node").parse().unwrap()
}

/// One peer's database.
pub(crate) struct One {
    pub(crate) all: Shared,
    pub(crate) number: usize,
}

impl One {
    fn with<T>(&self, work: impl FnOnce(&mut Database) -> T) -> T {
        work(self.all.lock().unwrap().of(self.number))
    }
}

#[async_trait]
impl flynn_sirenia::Database<At> for One {
    async fn configure(&self, config: &Config) -> Result<(), String> {
        self.with(|database| database.configure(config))
    }

    async fn fence(&self, at_least: &At) -> Result<At, FenceFailure<At>> {
        self.with(|database| database.fence(at_least))
    }

    async fn caught_up(&self, config: &Config) -> Result<(), String> {
        let downstream = config.downstream.as_ref().map(|downstream| downstream.meta[KEY].clone()).unwrap();
        while !self.with(|database| database.is_with(&downstream)) {
            tokio::time::sleep(STEP).await;
        }
        Ok(())
    }

    async fn open(&self) -> Result<(), String> {
        self.with(|database| database.writable = true);
        Ok(())
    }

    async fn info(&self) -> DatabaseInfo {
        self.with(|database| DatabaseInfo {
            running: database.mode != Mode::Off,
            xlog: database.position().to_string(),
            user_exists: database.mode != Mode::Off,
            read_write: database.writable,
            ..DatabaseInfo::default()
        })
    }
}

/// A volume that at first cannot be written.
#[derive(Default)]
pub(crate) struct Stubborn {
    pub(crate) refusals: AtomicU64,
    pub(crate) generation: AtomicU64,
}

#[async_trait]
impl Memory for Stubborn {
    async fn remember(&self, generation: u64) -> io::Result<()> {
        let refuses = self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if refuses.is_ok() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.generation.store(generation, Ordering::SeqCst);
        Ok(())
    }
}
