//! What readers may read: the announced end of every app's log.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The files of an app's log, and how far they may be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AppEnd {
    pub(crate) generation: u64,
    pub(crate) inode: u64,
    pub(crate) len: u64,
    pub(crate) messages: u64,
    /// Messages before the current file.
    pub(crate) first: u64,
    pub(crate) backup: Option<Backup>,
    pub(crate) app_name: String,
}

/// The file before the current one; its generation is one less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backup {
    pub(crate) path: PathBuf,
    /// Messages before this file.
    pub(crate) first: u64,
}

impl AppEnd {
    /// The oldest file's generation and the number of messages before it.
    pub(crate) fn oldest(&self) -> (u64, u64) {
        match &self.backup {
            Some(backup) => (self.generation.saturating_sub(1), backup.first),
            None => (self.generation, self.first),
        }
    }
}

/// Ends by app. Announcements of all apps are in the order of their messages, so what is seen at one moment is never
/// followed by an older message.
#[derive(Debug)]
pub(crate) struct Published {
    apps: Mutex<BTreeMap<String, watch::Sender<AppEnd>>>,
    /// Counts announcements.
    tick: watch::Sender<u64>,
}

impl Default for Published {
    fn default() -> Self {
        Self { apps: Mutex::default(), tick: watch::channel(0).0 }
    }
}

impl Published {
    pub(crate) fn announce(&self, app: &str, end: AppEnd) {
        let mut apps = self.lock();
        match apps.get(app) {
            Some(sender) => drop(sender.send_replace(end)),
            None => drop(apps.insert(app.to_owned(), watch::channel(end).0)),
        }
        drop(apps);
        self.tick.send_modify(|tick| *tick = tick.wrapping_add(1));
    }

    pub(crate) fn forget(&self, app: &str) {
        self.lock().remove(app);
    }

    /// An app's end, now and from now on; `expected` apps need not have a log yet.
    pub(crate) fn app(&self, app: &str, expected: bool) -> Option<watch::Receiver<AppEnd>> {
        let mut apps = self.lock();
        if let Some(sender) = apps.get(app) {
            return Some(sender.subscribe());
        }
        expected.then(|| apps.entry(app.to_owned()).or_insert_with(|| watch::channel(AppEnd::default()).0).subscribe())
    }

    /// All ends at one moment.
    pub(crate) fn all(&self) -> BTreeMap<String, AppEnd> {
        self.lock().iter().map(|(app, end)| (app.clone(), end.borrow().clone())).collect()
    }

    pub(crate) fn ticks(&self) -> watch::Receiver<u64> {
        self.tick.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, watch::Sender<AppEnd>>> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
