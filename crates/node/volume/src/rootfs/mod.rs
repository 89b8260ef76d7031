//! Root file systems of jobs: layers below, a scratch file system of limited size on top.
//!
//! What exists is told by the folder `scratch`: `<job>.json` is written before anything else of a job and removed after
//! everything else.

mod scratch;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use flynn_types::host::{VolumeEvent, VolumeEventKind, VolumeInfo, VolumeType};
use flynn_types::id::JobId;
use flynn_types::time::GoTime;
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use crate::error::RootfsError;
use crate::layer::{LayerGuard, Layers, lock};
use crate::mount;
use crate::sys;
use scratch::Scratches;

/// Most layers of one root file system (`OVL_MAX_STACK` in the kernel).
pub(crate) const MAX_LAYERS: usize = 500;
/// Smallest scratch space: below, ext4 has no room for its own tables.
pub(crate) const MIN_SCRATCH_BYTES: u64 = 1 << 20;
/// Names of the overlay's folders in the scratch file system (spec flynn-host 7.2).
const UPPER: &str = "overlay-upperdir";
const WORK: &str = "overlay-workdir";

/// A job's mounted root file system. It stays when this is dropped: [`crate::VolumeManager::release_rootfs`] ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rootfs {
    /// Where it is mounted.
    pub path: PathBuf,
    /// What the job wrote: the overlay's upper folder. Not to be changed while the job runs.
    pub upper: PathBuf,
    /// Size of the scratch space in bytes.
    pub scratch_bytes: u64,
}

/// `<job>.json`
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plan {
    format: u32,
    created_at: GoTime,
    scratch_bytes: u64,
    target: PathBuf,
    /// Bottom first.
    layers: Vec<String>,
}

const PLAN_FORMAT: u32 = 1;

#[derive(Debug)]
struct Entry {
    plan: Plan,
    /// Keeps the layers; empty for what was found broken.
    _held: Vec<LayerGuard>,
    mounted: bool,
}

/// All root file systems with scratch space below one folder.
#[derive(Debug)]
pub(crate) struct RootfsTable {
    dir: PathBuf,
    min_free_bytes: u64,
    scratches: Scratches,
    jobs: Mutex<HashMap<JobId, Slot>>,
    events: tokio::sync::broadcast::Sender<VolumeEvent>,
}

/// One job's state; its lock is held while mounts change.
type Slot = Arc<Mutex<Option<Entry>>>;

impl RootfsTable {
    /// Finds what earlier managers made.
    pub(crate) fn open(
        dir: PathBuf,
        layers: &Layers,
        min_free_bytes: u64,
        events: tokio::sync::broadcast::Sender<VolumeEvent>,
    ) -> io::Result<Self> {
        fs::create_dir_all(dir.join("mnt"))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        let mounts = mount::below(Path::new("/"))?;
        let mut jobs = HashMap::new();
        for file in fs::read_dir(&dir)? {
            let path = file?.path();
            if path.extension().is_some_and(|e| e == "new") {
                fs::remove_file(&path)?; // a template in the making
                continue;
            }
            let Some(job) = path.file_stem().and_then(|n| n.to_str()).and_then(|n| n.parse::<JobId>().ok()) else {
                continue;
            };
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let plan = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Plan>(&bytes).ok());
            let plan = plan.unwrap_or_else(|| Plan {
                format: PLAN_FORMAT,
                created_at: GoTime::UNSET,
                scratch_bytes: 0,
                target: PathBuf::new(),
                layers: Vec::new(),
            });
            let mounted = mounts.get(&plan.target).is_some_and(|kind| kind == "overlay")
                && mounts.contains_key(&dir.join("mnt").join(job.as_str()));
            let held: Vec<_> = plan.layers.iter().filter_map(|id| layers.hold_mounted(id).ok().flatten()).collect();
            let entry = Entry { plan, _held: held, mounted };
            jobs.insert(job, Arc::new(Mutex::new(Some(entry))));
        }
        Ok(Self { scratches: Scratches::new(dir.clone()), dir, min_free_bytes, jobs: Mutex::new(jobs), events })
    }

    fn plan_path(&self, job: &JobId) -> PathBuf {
        self.dir.join(format!("{job}.json"))
    }

    fn image_path(&self, job: &JobId) -> PathBuf {
        self.dir.join(format!("{job}.img"))
    }

    fn mount_path(&self, job: &JobId) -> PathBuf {
        self.dir.join("mnt").join(job.as_str())
    }

    fn slot(&self, job: &JobId) -> Slot {
        lock(&self.jobs).entry(job.clone()).or_default().clone()
    }

    pub(crate) fn jobs(&self) -> Vec<JobId> {
        lock(&self.jobs).keys().cloned().collect()
    }

    /// Scratch spaces as volumes.
    pub(crate) fn infos(&self) -> Vec<VolumeInfo> {
        let slots: Vec<_> = lock(&self.jobs).iter().map(|(job, slot)| (job.clone(), slot.clone())).collect();
        let info = |(job, slot): (JobId, Slot)| {
            // What is being changed right now is not waited for.
            let created_at = slot.try_lock().ok()?.as_ref()?.plan.created_at;
            Some(info(&job, created_at))
        };
        slots.into_iter().filter_map(info).collect()
    }

    /// Makes scratch space for the next job ready, so that it need not wait for `mkfs`. Blocks.
    pub(crate) fn warm_up(&self, scratch_bytes: u64) {
        if let Err(err) = self.scratches.template(scratch_bytes) {
            warn!(error = %err, "scratch space could not be prepared");
        }
    }

    /// Makes a root file system, or finds the one that the job has. Blocks.
    pub(crate) fn create(
        &self,
        job: &JobId,
        layers: &[LayerGuard],
        scratch_bytes: u64,
        target: &Path,
    ) -> Result<Rootfs, RootfsError> {
        if layers.is_empty() {
            return Err(RootfsError::NoLayers);
        }
        if layers.len() > MAX_LAYERS {
            return Err(RootfsError::TooManyLayers { count: layers.len() });
        }
        if scratch_bytes < MIN_SCRATCH_BYTES {
            return Err(RootfsError::ScratchTooSmall { bytes: scratch_bytes });
        }
        let slot = self.slot(job);
        let mut slot = lock(&slot);
        let ids: Vec<_> = layers.iter().map(|l| l.id().to_owned()).collect();
        if let Some(entry) = &*slot {
            let plan = &entry.plan;
            if entry.mounted && plan.target == target && plan.layers == ids && plan.scratch_bytes == scratch_bytes {
                return Ok(self.rootfs(job, plan));
            }
            self.tear_down(job, plan)?;
            *slot = None;
        }
        self.check_space()?;
        let plan = Plan {
            format: PLAN_FORMAT,
            created_at: chrono::Utc::now().into(),
            scratch_bytes,
            target: target.to_owned(),
            layers: ids,
        };
        let built = self.build(job, layers, &plan);
        if let Err(err) = built {
            if let Err(err) = self.tear_down(job, &plan) {
                warn!(job_id = %job, error = %err, "a half-made root file system could not be removed");
                *slot = Some(Entry { plan, _held: Vec::new(), mounted: false });
                return Err(err);
            }
            return Err(err);
        }
        let rootfs = self.rootfs(job, &plan);
        self.tell(VolumeEventKind::Create, job, plan.created_at);
        *slot = Some(Entry { plan, _held: layers.to_vec(), mounted: true });
        Ok(rootfs)
    }

    fn rootfs(&self, job: &JobId, plan: &Plan) -> Rootfs {
        let upper = self.mount_path(job).join(UPPER);
        Rootfs { path: plan.target.clone(), upper, scratch_bytes: plan.scratch_bytes }
    }

    pub(crate) fn get(&self, job: &JobId) -> Option<Rootfs> {
        let slot = lock(&self.jobs).get(job)?.clone();
        let slot = lock(&slot);
        slot.as_ref().filter(|entry| entry.mounted).map(|entry| self.rootfs(job, &entry.plan))
    }

    fn tell(&self, kind: VolumeEventKind, job: &JobId, created_at: GoTime) {
        let _ = self.events.send(VolumeEvent { kind, volume: info(job, created_at) });
    }

    fn check_space(&self) -> Result<(), RootfsError> {
        match mount::space(&self.dir) {
            Ok((free_bytes, _)) if free_bytes < self.min_free_bytes => {
                Err(RootfsError::NoSpace { path: self.dir.clone(), needed_bytes: self.min_free_bytes, free_bytes })
            }
            _ => Ok(()),
        }
    }

    fn build(&self, job: &JobId, layers: &[LayerGuard], plan: &Plan) -> Result<(), RootfsError> {
        let plan_path = self.plan_path(job);
        // Not synced: after a power cut there are no mounts either, and leftovers are found by their names.
        let json = serde_json::to_vec(plan).map_err(|err| RootfsError::io("write", &plan_path)(err.into()))?;
        fs::write(&plan_path, json).map_err(RootfsError::io("write", &plan_path))?;
        let (image, scratch) = (self.image_path(job), self.mount_path(job));
        let image_file = self.scratches.create(&image, plan.scratch_bytes)?;
        let device =
            sys::LoopDevice::attach(&image_file, false).map_err(RootfsError::io("attach a loop device to", &image))?;
        make_dir(&scratch)?;
        mount::scratch_ext4(&device.path, &scratch).map_err(|err| RootfsError::Mount {
            what: "mount scratch space at",
            path: scratch.clone(),
            reason: err.to_string(),
        })?;
        let (upper, work) = (scratch.join(UPPER), scratch.join(WORK));
        for dir in [&upper, &work] {
            fs::create_dir(dir).map_err(RootfsError::io("make folder", dir))?;
        }
        // The root folder of an overlay has the attributes of the upper one.
        if let Some(meta) = layers.last().and_then(|top| fs::metadata(top.path()).ok()) {
            let set = std::os::unix::fs::chown(&upper, Some(meta.uid()), Some(meta.gid()))
                .and_then(|()| fs::set_permissions(&upper, fs::Permissions::from_mode(meta.mode() & 0o7777)));
            set.map_err(RootfsError::io("set permissions of", &upper))?;
        }
        make_dir(&plan.target)?;
        let lowers: Vec<_> = layers.iter().rev().map(|l| l.path().to_owned()).collect();
        mount::overlay(&lowers, &upper, &work, &plan.target).map_err(|err| RootfsError::Mount {
            what: "mount the root file system at",
            path: plan.target.clone(),
            reason: err.to_string(),
        })
    }

    /// Unmounts and frees everything of a job; doing so again is success. Blocks.
    pub(crate) fn release(&self, job: &JobId) -> Result<(), RootfsError> {
        let slot = lock(&self.jobs).get(job).cloned();
        let Some(slot) = slot else { return Ok(()) };
        let mut guard = lock(&slot);
        if let Some(entry) = &*guard {
            self.tear_down(job, &entry.plan)?;
            self.tell(VolumeEventKind::Destroy, job, entry.plan.created_at);
            *guard = None;
        }
        let mut jobs = lock(&self.jobs);
        // Somebody who waits for this slot keeps it in the table.
        if jobs.get(job).is_some_and(|s| Arc::ptr_eq(s, &slot)) && Arc::strong_count(&slot) == 2 {
            jobs.remove(job);
        }
        Ok(())
    }

    fn tear_down(&self, job: &JobId, plan: &Plan) -> Result<(), RootfsError> {
        let scratch = self.mount_path(job);
        if !plan.target.as_os_str().is_empty() {
            mount::release(&plan.target).map_err(RootfsError::io("unmount", &plan.target))?;
            let _ = fs::remove_dir(&plan.target); // whoever chose it may keep something there
        }
        if let Ok(dir) = mount::open_dir(&scratch.join(UPPER))
            && let Err(err) = sys::abandon_ext4(std::os::fd::AsFd::as_fd(&dir))
        {
            debug!(job_id = %job, error = %err, "scratch space is written out before it is dropped");
        }
        mount::release(&scratch).map_err(RootfsError::io("unmount", &scratch))?;
        gone(fs::remove_dir(&scratch)).map_err(RootfsError::io("remove", &scratch))?;
        for path in [self.image_path(job), self.plan_path(job)] {
            gone(fs::remove_file(&path)).map_err(RootfsError::io("remove", &path))?;
        }
        Ok(())
    }

    /// Removes what belongs to none of `live`: jobs of the table, and files and mounts that are in no table. Blocks.
    pub(crate) fn clean(&self, live: &[JobId]) -> Vec<RootfsError> {
        let mut errors = Vec::new();
        for job in self.jobs().iter().filter(|job| !live.contains(job)) {
            errors.extend(self.release(job).err());
        }
        let known = self.jobs();
        let unknown = |name: &str| name.parse::<JobId>().ok().filter(|job| !known.contains(job));
        let mut strays = Vec::new();
        for (dir, extension) in [(self.dir.join("mnt"), ""), (self.dir.clone(), "img")] {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                let matches = extension.is_empty() || path.extension().is_some_and(|e| e == extension);
                let name = if extension.is_empty() { path.file_name() } else { path.file_stem() };
                if let Some(job) = name.and_then(|n| n.to_str()).filter(|_| matches).and_then(unknown) {
                    strays.push(job);
                }
            }
        }
        for job in strays {
            let plan = Plan {
                format: PLAN_FORMAT,
                created_at: GoTime::UNSET,
                scratch_bytes: 0,
                target: PathBuf::new(),
                layers: Vec::new(),
            };
            warn!(job_id = %job, "removing scratch space of a job that is gone");
            errors.extend(self.tear_down(&job, &plan).err());
        }
        errors
    }
}

fn info(job: &JobId, created_at: GoTime) -> VolumeInfo {
    VolumeInfo { id: job.to_string(), kind: VolumeType::Ext2, created_at, ..VolumeInfo::default() }
}

fn make_dir(path: &Path) -> Result<(), RootfsError> {
    fs::create_dir_all(path).map_err(RootfsError::io("make folder", path))
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
