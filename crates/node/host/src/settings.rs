//! What operators set on a host and what must outlive the daemon: tags, drain state, webhooks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flynn_types::host::Webhook;
use serde::{Deserialize, Serialize};

use crate::store::{Database, StoreError};

const KEY: &str = "settings";

/// The recorded settings. Unknown fields of newer daemons survive.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub tags: BTreeMap<String, String>,
    /// Tags of the command line that were deleted since.
    pub removed_tags: BTreeSet<String>,
    pub draining: bool,
    pub drain_reason: String,
    pub webhooks: Vec<Webhook>,
    #[serde(flatten)]
    other: BTreeMap<String, serde_json::Value>,
}

/// Settings in memory and on disk.
pub(crate) struct SettingsStore {
    current: Mutex<Arc<Settings>>,
    /// Held while a change is written, so that changes do not overtake each other.
    writing: tokio::sync::Mutex<()>,
    database: Database,
}

impl SettingsStore {
    pub(crate) fn open(database: Database) -> Result<Self, StoreError> {
        let current = database.document(KEY)?.unwrap_or_default();
        Ok(Self { current: Mutex::new(Arc::new(current)), writing: tokio::sync::Mutex::default(), database })
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Settings>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self) -> Arc<Settings> {
        self.lock().clone()
    }

    /// Changes the settings; on disk when it returns.
    pub(crate) async fn change(&self, change: impl FnOnce(&mut Settings)) -> Result<Arc<Settings>, StoreError> {
        let writing = self.writing.lock().await;
        let mut settings = Settings::clone(&self.get());
        change(&mut settings);
        let (database, written) = (self.database.clone(), settings.clone());
        tokio::task::spawn_blocking(move || database.put_document(KEY, Some(&written)))
            .await
            .unwrap_or(Err(StoreError::Closed))?;
        let settings = Arc::new(settings);
        *self.lock() = settings.clone();
        drop(writing);
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn settings_survive_and_keep_what_newer_daemons_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(&directory.path().join("state.redb")).unwrap();
        database.put_document(KEY, Some(&serde_json::json!({"tags": {"a": "b"}, "newer": 1}))).unwrap();
        let store = SettingsStore::open(database.clone()).unwrap();
        store.change(|settings| settings.draining = true).await.unwrap();
        let raw: serde_json::Value = database.document(KEY).unwrap().unwrap();
        assert_eq!(
            (raw["newer"].as_i64(), raw["draining"].as_bool(), raw["tags"]["a"].as_str()),
            (Some(1), Some(true), Some("b"))
        );
    }
}
