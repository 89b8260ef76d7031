//! Volumes of apps, each on one host for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flynn_types::controller::{Volume as Record, VolumeState, volume_meta};
use flynn_types::host::VolumeInfo;
use flynn_types::id::HostId;
use flynn_types::time::GoTime;
use uuid::Uuid;

use super::job::Save;

/// A volume that the scheduler may give to jobs.
#[derive(Clone)]
pub struct Volume {
    pub id: String,
    pub host: HostId,
    pub app: Arc<str>,
    pub release: Arc<str>,
    pub kind: Arc<str>,
    pub path: String,
    pub delete_on_stop: bool,
    pub state: VolumeState,
    /// Uuid of the job that has it.
    pub holder: Option<Uuid>,
    pub decommissioned_at: Option<GoTime>,
    pub created_at: Option<GoTime>,
    pub(crate) save: Save,
}

/// All volumes, also by what they are for.
#[derive(Clone, Default)]
pub(crate) struct Volumes {
    by_id: BTreeMap<String, Volume>,
    by_use: BTreeMap<(Arc<str>, Arc<str>, String), BTreeSet<String>>,
    /// What hosts said of volumes that no record describes yet.
    holders: BTreeMap<String, Uuid>,
}

impl Volumes {
    pub(crate) fn find(&self, id: &str) -> Option<&Volume> {
        self.by_id.get(id)
    }

    pub(crate) fn find_mut(&mut self, id: &str) -> Option<&mut Volume> {
        self.by_id.get_mut(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Volume> {
        self.by_id.values()
    }

    /// Those made for a path of a type of an app, in the order of their ids.
    pub(crate) fn made_for<'a>(
        &'a self,
        app: &Arc<str>,
        kind: &Arc<str>,
        path: &str,
    ) -> impl Iterator<Item = &'a Volume> {
        let ids = self.by_use.get(&(app.clone(), kind.clone(), path.to_owned()));
        ids.into_iter().flatten().filter_map(|id| self.by_id.get(id))
    }

    pub(crate) fn insert(&mut self, mut volume: Volume) {
        volume.holder = volume.holder.or_else(|| self.holders.remove(&volume.id));
        let used_for = (volume.app.clone(), volume.kind.clone(), volume.path.clone());
        self.by_use.entry(used_for).or_default().insert(volume.id.clone());
        self.by_id.insert(volume.id.clone(), volume);
    }

    pub(crate) fn remove(&mut self, id: &str) -> Option<Volume> {
        let volume = self.by_id.remove(id)?;
        let used_for = (volume.app.clone(), volume.kind.clone(), volume.path.clone());
        if let Some(ids) = self.by_use.get_mut(&used_for) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_use.remove(&used_for);
            }
        }
        Some(volume)
    }

    /// A host says that a job has the volume. Whether that is news.
    pub(crate) fn hold(&mut self, id: &str, job: Uuid) -> bool {
        match self.by_id.get_mut(id) {
            Some(volume) => volume.holder.replace(job) != Some(job),
            None => {
                self.holders.insert(id.to_owned(), job);
                false
            }
        }
    }

    /// The job has the volume no longer, unless another one does. Whether that is news.
    pub(crate) fn release(&mut self, id: &str, job: Uuid) -> bool {
        if self.holders.get(id) == Some(&job) {
            self.holders.remove(id);
        }
        let Some(volume) = self.by_id.get_mut(id) else { return false };
        let released = volume.holder == Some(job) && !volume.delete_on_stop;
        if released {
            volume.holder = None;
        }
        released
    }
}

impl Volume {
    /// From what a host says; `None` if it is no volume of an app.
    pub(crate) fn from_host(host: &HostId, info: &VolumeInfo) -> Option<Self> {
        let meta = |key: &str| info.meta.get(key).map_or("", String::as_str);
        (!meta(volume_meta::APP).is_empty()).then(|| Self {
            id: info.id.clone(),
            host: host.clone(),
            app: meta(volume_meta::APP).into(),
            release: meta(volume_meta::RELEASE).into(),
            kind: meta(volume_meta::TYPE).into(),
            path: meta(volume_meta::PATH).into(),
            delete_on_stop: meta(volume_meta::DELETE_ON_STOP) == "true",
            state: VolumeState::Created,
            holder: None,
            decommissioned_at: None,
            created_at: Some(info.created_at),
            save: Save::default(),
        })
    }

    /// From the controller's record; `None` if it makes no sense.
    pub(crate) fn from_record(record: &Record) -> Option<Self> {
        Some(Self {
            id: record.id.clone(),
            host: record.host_id.parse().ok()?,
            app: record.app_id.as_str().into(),
            release: record.release_id.as_str().into(),
            kind: record.job_type.as_str().into(),
            path: record.path.clone(),
            delete_on_stop: record.delete_on_stop,
            state: record.state,
            holder: record.job_id.as_ref().and_then(|id| id.parse().ok()),
            decommissioned_at: record.decommissioned_at,
            created_at: record.created_at,
            save: Save::default(),
        })
    }

    /// Whether a job may ever get it (spec L4), whoever has it now.
    pub(crate) fn is_reusable(&self) -> bool {
        self.state != VolumeState::Destroyed && self.decommissioned_at.is_none() && !self.delete_on_stop
    }
}
