//! The manager: volumes with their records, and the doors to layers and root file systems.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use chrono::Utc;
use flynn_types::host::{Mountspec, SnapshotHave, VolumeEvent, VolumeEventKind, VolumeInfo, VolumeType};
use flynn_types::id::{JobId, is_path_safe};
use flynn_types::time::GoTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, broadcast};
use tokio_util::io::SyncIoBridge;
use tracing::{info, warn};

use crate::config::{ProviderChoice, VolumeConfig};
use crate::error::{LayerError, RootfsError, VolumeError};
use crate::gc::{self, Candidate, GcPolicy, GcReport};
use crate::layer::source::LayerSource;
use crate::layer::{LayerGuard, Layers, lock};
use crate::mount;
use crate::provider::dir::DirProvider;
use crate::provider::zfs::ZfsProvider;
use crate::provider::{DEFAULT_PROVIDER, Presence, Provider, ProviderKind};
use crate::record::{SnapshotOf, VolumeRecord, VolumeStore};
use crate::rootfs::{Rootfs, RootfsTable};

/// Events that a slow receiver may be behind before it misses some.
const EVENTS: usize = 256;
/// Operations on blocking threads at once; transfers have their own limit.
const OPERATIONS: usize = 16;
const TRANSFERS: usize = 8;
/// How long the folder's lock is waited for: an old daemon may be about to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Scratch size that is made ready at start: the default `temp_disk` limit.
const DEFAULT_SCRATCH_BYTES: u64 = 100 << 20;

/// What `/host/status` and metrics show.
#[derive(Clone, Debug)]
pub struct VolumeStatus {
    pub provider: ProviderKind,
    /// Of the default provider.
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// Volumes and snapshots that cannot be used, with the reason.
    pub failed: Vec<(String, String)>,
    pub volumes: usize,
    pub layers: usize,
    pub layer_bytes: u64,
    pub rootfs: usize,
}

/// Everything on this node's disks. Cheap to clone; one per folder and machine.
#[derive(Clone, Debug)]
pub struct VolumeManager {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    providers: HashMap<String, Arc<dyn Provider>>,
    store: Arc<dyn VolumeStore>,
    volumes: Mutex<HashMap<String, Entry>>,
    /// What is being done to a volume right now.
    busy: Mutex<HashMap<String, Busy>>,
    layers: Arc<Layers>,
    rootfs: RootfsTable,
    events: broadcast::Sender<VolumeEvent>,
    operations: Arc<Semaphore>,
    transfers: Arc<Semaphore>,
    // Closed, and so given up, after everything else.
    lock: Mutex<Option<File>>,
}

#[derive(Clone, Debug)]
struct Entry {
    record: VolumeRecord,
    failure: Option<String>,
}

#[derive(Debug)]
struct Busy {
    operation: &'static str,
    /// Readers at once; `None`: one writer.
    shared: Option<usize>,
}

/// Excludes other operations on a volume until dropped.
struct Hold {
    inner: Arc<Inner>,
    id: String,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut busy = lock(&self.inner.busy);
        match busy.get_mut(&self.id) {
            Some(Busy { shared: Some(readers), .. }) if *readers > 1 => *readers -= 1,
            _ => {
                busy.remove(&self.id);
            }
        }
    }
}

impl VolumeManager {
    /// Opens a folder: takes its lock, mounts what has to be mounted, finishes what was begun. A volume that cannot be
    /// used is reported by [`Self::status`] and fails when used; it never stops this.
    pub async fn open(config: VolumeConfig, store: Arc<dyn VolumeStore>) -> Result<Self, VolumeError> {
        let inner = tokio::task::spawn_blocking(move || Inner::open(&config, store))
            .await
            .map_err(|_| VolumeError::Stopped)??;
        let this = Self { inner: Arc::new(inner) };
        let inner = this.inner.clone();
        // Nobody waits for it; the first job does this itself if it comes earlier.
        drop(tokio::task::spawn_blocking(move || inner.rootfs.warm_up(DEFAULT_SCRATCH_BYTES)));
        Ok(this)
    }

    /// Lets operations that run end, refuses new ones, and gives the folder's lock up for another manager.
    pub async fn close(&self) {
        let all = u32::try_from(OPERATIONS).unwrap_or(u32::MAX);
        let ended = self.inner.operations.acquire_many(all).await;
        self.inner.operations.close();
        self.inner.transfers.close();
        drop(ended);
        drop(lock(&self.inner.lock).take());
    }

    /// Makes an empty data volume. Of `info` count `id` (made when empty) and `meta`.
    pub async fn create(&self, info: VolumeInfo, provider_id: &str) -> Result<VolumeInfo, VolumeError> {
        let id = if info.id.is_empty() { uuid::Uuid::new_v4().to_string() } else { info.id };
        check_id(&id)?;
        let provider = self.inner.provider(provider_id)?;
        let info = VolumeInfo { id: id.clone(), kind: VolumeType::Data, meta: info.meta, created_at: now() };
        let record = VolumeRecord::new(info.clone(), provider_id, None);
        self.blocking(move |inner| {
            let _hold = inner.hold(&id, "it is being created")?;
            if inner.exists(&id) {
                return Err(VolumeError::Exists { id });
            }
            provider.create(&info)?;
            inner.put(record)?;
            Ok(info)
        })
        .await
    }

    /// Destroys a volume, a snapshot, or a layer that nobody uses. For ever.
    pub async fn destroy(&self, id: &str) -> Result<(), VolumeError> {
        if let Some(layer) = self.inner.layers.get(id) {
            let busy = || VolumeError::Busy { id: id.to_owned(), operation: "jobs use this layer".into() };
            let removed = if layer.in_use() { Ok(false) } else { self.inner.layers.remove(id).await };
            return match removed {
                Ok(true) => Ok(()),
                Ok(false) => Err(busy()),
                Err(err) => Err(VolumeError::Failed { id: id.to_owned(), reason: err.to_string() }),
            };
        }
        if id.parse::<JobId>().is_ok_and(|job| self.inner.rootfs.get(&job).is_some()) {
            let operation = "it is the scratch space of a job".to_owned();
            return Err(VolumeError::Busy { id: id.to_owned(), operation });
        }
        let id = id.to_owned();
        self.blocking(move |inner| {
            let _hold = inner.hold(&id, "it is being destroyed")?;
            let entry = inner.entry(&id)?;
            let snapshots = inner.snapshots(&id).len();
            if snapshots > 0 {
                return Err(VolumeError::HasSnapshots { id, count: snapshots });
            }
            inner.destroy(entry.record)
        })
        .await
    }

    /// Makes a read-only copy of a volume as it is now.
    pub async fn snapshot(&self, id: &str) -> Result<VolumeInfo, VolumeError> {
        let id = id.to_owned();
        self.blocking(move |inner| {
            let _hold = inner.hold(&id, "a snapshot is being made")?;
            let entry = inner.usable(&id)?;
            let provider = inner.provider(&entry.record.provider)?;
            let name = uuid::Uuid::new_v4().to_string();
            let meta = entry.record.info.meta;
            let info = VolumeInfo { id: name.clone(), kind: VolumeType::Data, meta, created_at: now() };
            let of = SnapshotOf { volume: id, name };
            provider.snapshot(&info, &of)?;
            inner.put(VolumeRecord::new(info.clone(), &entry.record.provider, Some(of)))?;
            Ok(info)
        })
        .await
    }

    /// A volume, snapshot, layer or scratch space.
    pub fn get(&self, id: &str) -> Option<VolumeInfo> {
        if let Some(entry) = lock(&self.inner.volumes).get(id) {
            return Some(entry.record.info.clone());
        }
        let layer = self.inner.layers.get(id).map(|layer| layer.info());
        layer.or_else(|| self.inner.rootfs.infos().into_iter().find(|info| info.id == id))
    }

    /// Everything that [`Self::get`] knows, oldest first.
    pub fn list(&self) -> Vec<VolumeInfo> {
        let mut list: Vec<_> = lock(&self.inner.volumes).values().map(|e| e.record.info.clone()).collect();
        list.extend(self.inner.layers.all().iter().map(|layer| layer.info()));
        list.extend(self.inner.rootfs.infos());
        list.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        list
    }

    /// The record of a data volume or snapshot.
    pub fn record(&self, id: &str) -> Option<VolumeRecord> {
        lock(&self.inner.volumes).get(id).map(|e| e.record.clone())
    }

    /// Where a data volume's or snapshot's content is, for binding into jobs.
    pub fn mount_path(&self, id: &str) -> Result<PathBuf, VolumeError> {
        let entry = self.inner.usable(id)?;
        Ok(self.inner.provider(&entry.record.provider)?.path(&entry.record))
    }

    /// Whether a volume's content can be used; the reason if not.
    pub fn check(&self, id: &str) -> Result<(), VolumeError> {
        self.inner.usable(id).map(|_| ())
    }

    /// Creations and destructions from now on. A receiver that is more than 256 events behind misses some.
    pub fn events(&self) -> broadcast::Receiver<VolumeEvent> {
        self.inner.events.subscribe()
    }

    /// Names of a volume's snapshots, oldest first: what a sender is told to build upon.
    pub fn haves(&self, id: &str) -> Result<Vec<SnapshotHave>, VolumeError> {
        self.inner.entry(id)?;
        let names = self.inner.snapshots(id).into_iter().filter_map(|r| r.snapshot);
        Ok(names.map(|s| SnapshotHave { snap_id: s.name }).collect())
    }

    /// Writes a snapshot's stream: a difference to the last of `haves` if that is here, else all of it. Ends early,
    /// with an error, when `sink` does.
    pub async fn send(
        &self,
        id: &str,
        haves: &[SnapshotHave],
        sink: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(), VolumeError> {
        let permit = self.inner.transfers.clone().acquire_owned().await.map_err(|_| VolumeError::Stopped)?;
        let (inner, id, last) = (self.inner.clone(), id.to_owned(), haves.last().cloned());
        let out = SyncIoBridge::new(sink);
        let work = move || {
            let _permit = permit;
            let mut out = out;
            let _hold = inner.hold_shared(&id, "it is being sent")?;
            let record = inner.usable(&id)?.record;
            let Some(of) = &record.snapshot else { return Err(VolumeError::NotASnapshot { id }) };
            let base = last.and_then(|have| {
                let siblings = inner.snapshots(&of.volume);
                siblings.into_iter().find(|r| r.snapshot.as_ref().is_some_and(|s| s.name == have.snap_id))
            });
            let base = base.filter(|base| base.info.id != id);
            let _base_hold = base.as_ref().map(|b| inner.hold_shared(&b.info.id, "it is being sent")).transpose()?;
            inner.provider(&record.provider)?.send(&record, base.as_ref(), &mut out)?;
            let done = out.flush().and_then(|()| out.shutdown());
            done.map_err(VolumeError::io("end the stream of", id))
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| VolumeError::Stopped)?
    }

    /// Reads a snapshot's stream into a volume: its content is replaced, and the snapshot becomes a new volume. A
    /// stream that breaks or is wrong leaves everything as it was.
    pub async fn receive(
        &self,
        id: &str,
        stream: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<VolumeInfo, VolumeError> {
        let permit = self.inner.transfers.clone().acquire_owned().await.map_err(|_| VolumeError::Stopped)?;
        let (inner, id) = (self.inner.clone(), id.to_owned());
        let mut input = SyncIoBridge::new(stream);
        let work = move || {
            let _permit = permit;
            let _hold = inner.hold(&id, "a snapshot is being received")?;
            let record = inner.usable(&id)?.record;
            if record.snapshot.is_some() {
                let reason = "it is a snapshot: only volumes can receive".to_owned();
                return Err(VolumeError::Failed { id, reason });
            }
            let meta = record.info.meta.clone();
            let info =
                VolumeInfo { id: uuid::Uuid::new_v4().to_string(), kind: VolumeType::Data, meta, created_at: now() };
            let provider = inner.provider(&record.provider)?;
            let input: &mut dyn Read = &mut input;
            let received = provider.receive(&record, &info, &inner.snapshots(&id), input)?;
            let of = SnapshotOf { volume: id, name: received.name };
            inner.put(VolumeRecord::new(info.clone(), &record.provider, Some(of)))?;
            Ok(info)
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| VolumeError::Stopped)?
    }

    /// A layer, mounted; pulled first when it is not stored. It stays at least as long as the guard.
    pub async fn layer(&self, spec: &Mountspec, source: Arc<dyn LayerSource>) -> Result<LayerGuard, LayerError> {
        self.inner.layers.get_or_pull(spec, source).await
    }

    /// Whether a layer is stored.
    pub fn has_layer(&self, id: &str) -> bool {
        self.inner.layers.get(id).is_some()
    }

    /// Mounts a job's root file system at `target`, which is made: `layers`, bottom first, under a scratch space of
    /// `scratch_bytes`. A job that has one already gets the same again.
    pub async fn rootfs(
        &self,
        job: &JobId,
        layers: &[LayerGuard],
        scratch_bytes: u64,
        target: PathBuf,
    ) -> Result<Rootfs, RootfsError> {
        let (job, layers) = (job.clone(), layers.to_vec());
        self.rootfs_work(move |table| table.create(&job, &layers, scratch_bytes, &target)).await
    }

    /// The root file system that a job has, for example from before a restart.
    pub fn existing_rootfs(&self, job: &JobId) -> Option<Rootfs> {
        self.inner.rootfs.get(job)
    }

    /// Unmounts a job's root file system and frees its scratch space. Nothing to do is success.
    pub async fn release_rootfs(&self, job: &JobId) -> Result<(), RootfsError> {
        let job = job.clone();
        self.rootfs_work(move |table| table.release(&job)).await
    }

    /// Releases the root file systems of all jobs but `live_jobs`, and scratch files and mounts that nobody remembers.
    /// The first error is given; the others are logged.
    pub async fn clean_leftovers(&self, live_jobs: &[JobId]) -> Result<(), RootfsError> {
        let live = live_jobs.to_vec();
        let mut errors = self.rootfs_work(move |table| Ok(table.clean(&live))).await?;
        for err in &errors {
            warn!(error = %err, "leftovers of a job could not be removed");
        }
        if errors.is_empty() { Ok(()) } else { Err(errors.swap_remove(0)) }
    }

    /// Removes layers that nobody uses.
    pub async fn collect_garbage(&self, policy: &GcPolicy) -> GcReport {
        let layers = self.inner.layers.all();
        let candidates = layers.iter().filter_map(|layer| {
            let meta = fs::metadata(self.inner.layers.squashfs_path(&layer.id)).ok()?;
            Some(Candidate {
                id: layer.id.clone(),
                size_bytes: meta.len(),
                last_used: meta.modified().ok()?,
                pinned: layer.in_use() || layer.is_system(),
            })
        });
        let (free, total) = mount::space(&self.inner.layers.dir).unwrap_or((u64::MAX, 0));
        let mut report = GcReport::default();
        for layer in gc::plan(candidates.collect(), policy, SystemTime::now(), free, total) {
            let Some(info) = self.inner.layers.get(&layer.id).map(|l| l.info()) else { continue };
            let removed = if policy.dry_run { Ok(true) } else { self.inner.layers.remove(&layer.id).await };
            match removed {
                Ok(true) => {
                    report.freed_bytes += layer.size_bytes;
                    report.removed.push(info);
                }
                Ok(false) => {} // wanted again meanwhile
                Err(err) => report.failed.push((layer.id, err.to_string())),
            }
        }
        report
    }

    /// Unmounts what no job uses: layers (mounted again when wanted) and snapshots (until the next [`Self::open`]). For
    /// the orderly end of a daemon that will not come back soon.
    pub async fn unmount_idle(&self) -> Result<(), VolumeError> {
        self.blocking(|inner| {
            inner.layers.unmount_idle();
            let records: Vec<_> = lock(&inner.volumes).values().map(|e| e.record.clone()).collect();
            for record in records.iter().filter(|r| r.snapshot.is_some()) {
                inner.provider(&record.provider)?.unmount(record)?;
            }
            Ok(())
        })
        .await
    }

    /// Kinds of the providers by id.
    pub fn providers(&self) -> Vec<(String, ProviderKind)> {
        self.inner.providers.iter().map(|(id, p)| (id.clone(), p.kind())).collect()
    }

    /// Blocks for as long as the file systems take to answer.
    pub fn status(&self) -> VolumeStatus {
        let provider = &self.inner.providers[DEFAULT_PROVIDER];
        let (free_bytes, total_bytes) = provider.space().unwrap_or((0, 0));
        let layers = self.inner.layers.all();
        let volumes = lock(&self.inner.volumes);
        let failed = volumes.values().filter_map(|e| Some((e.record.info.id.clone(), e.failure.clone()?)));
        VolumeStatus {
            provider: provider.kind(),
            free_bytes,
            total_bytes,
            failed: failed.collect(),
            volumes: volumes.len(),
            layers: layers.len(),
            layer_bytes: layers.iter().map(|l| l.file.size_bytes).sum(),
            rootfs: self.inner.rootfs.jobs().len(),
        }
    }

    /// Runs to its end on a blocking thread, also when the caller goes away.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Inner>) -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, VolumeError> {
        let permit = self.inner.operations.clone().acquire_owned().await.map_err(|_| VolumeError::Stopped)?;
        let inner = self.inner.clone();
        let work = move || {
            let _permit = permit;
            work(&inner)
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| VolumeError::Stopped)?
    }

    async fn rootfs_work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&RootfsTable) -> Result<T, RootfsError> + Send + 'static,
    ) -> Result<T, RootfsError> {
        let permit = self.inner.operations.clone().acquire_owned().await.map_err(|_| RootfsError::Stopped)?;
        let inner = self.inner.clone();
        let work = move || {
            let _permit = permit;
            work(&inner.rootfs)
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| RootfsError::Stopped)?
    }
}

impl Inner {
    fn open(config: &VolumeConfig, store: Arc<dyn VolumeStore>) -> Result<Self, VolumeError> {
        let root = &config.root;
        fs::create_dir_all(root).map_err(VolumeError::io("make folder", root))?;
        let root = root.canonicalize().map_err(VolumeError::io("find folder", root))?;
        let lock_file = take_lock(&root)?;
        let records = store.load()?;
        let (events, _) = broadcast::channel(EVENTS);
        let provider: Arc<dyn Provider> = match config.provider.settled(&root, ZfsProvider::is_possible()) {
            ProviderChoice::Zfs => Arc::new(ZfsProvider::open(&root, config)?),
            _ => Arc::new(DirProvider::open(&root.join("dir"), records.is_empty())?),
        };
        info!(provider = %provider.kind(), root = %root.display(), host_id = %config.host_id, "opening volumes");
        let layers_dir = root.join("layers");
        let layers = Layers::open(layers_dir.clone(), config.min_free_bytes, events.clone())
            .map_err(VolumeError::io("open layers in", &layers_dir))?;
        let scratch_dir = root.join("scratch");
        let rootfs = RootfsTable::open(scratch_dir.clone(), &layers, config.min_free_bytes, events.clone())
            .map_err(VolumeError::io("open scratch space in", &scratch_dir))?;
        let this = Self {
            providers: [(DEFAULT_PROVIDER.to_owned(), provider)].into(),
            store,
            volumes: Mutex::default(),
            busy: Mutex::default(),
            layers: Arc::new(layers),
            rootfs,
            events,
            operations: Arc::new(Semaphore::new(OPERATIONS)),
            transfers: Arc::new(Semaphore::new(TRANSFERS)),
            lock: Mutex::new(Some(lock_file)),
        };
        this.restore(records)?;
        Ok(this)
    }

    /// Compares records with what is there: mounts, finishes, forgets what is gone, adopts what has no record.
    fn restore(&self, records: Vec<VolumeRecord>) -> Result<(), VolumeError> {
        for record in records {
            let id = record.info.id.clone();
            if record.destroying {
                if let Err(err) = self.destroy(record.clone()) {
                    warn!(volume = %id, error = %err, "a volume's destruction could not be finished");
                    self.remember(record, Some(format!("its destruction could not be finished: {err}")));
                }
                continue;
            }
            let presence = match self.provider(&record.provider) {
                Ok(provider) => provider.restore(&record),
                Err(err) => Presence::Failed(err.to_string()),
            };
            match presence {
                Presence::Ready => self.remember(record, None),
                Presence::Failed(reason) => {
                    warn!(volume = %id, reason, "a volume cannot be used");
                    self.remember(record, Some(reason));
                }
                Presence::Gone => {
                    warn!(volume = %id, "a volume is gone from its provider, forgetting it");
                    self.store.save(&id, None)?;
                }
            }
        }
        for (provider_id, provider) in &self.providers {
            let found = match provider.found() {
                Ok(found) => found,
                Err(err) => {
                    warn!(provider = %provider_id, error = %err, "volumes without a record could not be looked for");
                    continue;
                }
            };
            for mut record in found {
                record.provider.clone_from(provider_id);
                if lock(&self.volumes).contains_key(&record.info.id) {
                    continue;
                }
                warn!(volume = %record.info.id, "a volume has no record, taking it in");
                self.store.save(&record.info.id, Some(&record))?;
                let failure = match provider.restore(&record) {
                    Presence::Ready => None,
                    Presence::Gone => Some("it went away".to_owned()),
                    Presence::Failed(reason) => Some(reason),
                };
                self.remember(record, failure);
            }
        }
        Ok(())
    }

    fn remember(&self, record: VolumeRecord, failure: Option<String>) {
        lock(&self.volumes).insert(record.info.id.clone(), Entry { record, failure });
    }

    fn provider(&self, id: &str) -> Result<Arc<dyn Provider>, VolumeError> {
        self.providers.get(id).cloned().ok_or_else(|| VolumeError::NoProvider { id: id.to_owned() })
    }

    fn entry(&self, id: &str) -> Result<Entry, VolumeError> {
        lock(&self.volumes).get(id).cloned().ok_or_else(|| VolumeError::NotFound { id: id.to_owned() })
    }

    fn usable(&self, id: &str) -> Result<Entry, VolumeError> {
        let entry = self.entry(id)?;
        match &entry.failure {
            Some(reason) => Err(VolumeError::Failed { id: id.to_owned(), reason: reason.clone() }),
            None => Ok(entry),
        }
    }

    fn exists(&self, id: &str) -> bool {
        lock(&self.volumes).contains_key(id)
            || self.layers.get(id).is_some()
            || id.parse::<JobId>().is_ok_and(|job| self.rootfs.get(&job).is_some())
    }

    /// Snapshots of a volume, oldest first.
    fn snapshots(&self, volume: &str) -> Vec<VolumeRecord> {
        let volumes = lock(&self.volumes);
        let mut list: Vec<_> =
            volumes.values().filter(|e| e.record.is_snapshot_of(volume)).map(|e| e.record.clone()).collect();
        drop(volumes);
        list.sort_by(|a, b| (a.info.created_at, &a.info.id).cmp(&(b.info.created_at, &b.info.id)));
        list
    }

    /// Stores and announces a new volume that exists.
    fn put(&self, record: VolumeRecord) -> Result<(), VolumeError> {
        let id = record.info.id.clone();
        if let Err(err) = self.store.save(&id, Some(&record)) {
            // Nobody was told of it.
            if let Err(err) = self.provider(&record.provider).and_then(|p| p.destroy(&record)) {
                warn!(volume = %id, error = %err, "a volume that could not be recorded is left over");
            }
            return Err(err.into());
        }
        let volume = record.info.clone();
        self.remember(record, None);
        let _ = self.events.send(VolumeEvent { kind: VolumeEventKind::Create, volume });
        Ok(())
    }

    /// First the intention, then the deed, then the record goes.
    fn destroy(&self, mut record: VolumeRecord) -> Result<(), VolumeError> {
        let id = record.info.id.clone();
        let provider = self.provider(&record.provider)?;
        if !record.destroying {
            record.destroying = true;
            self.store.save(&id, Some(&record))?;
        }
        if let Err(err) = provider.destroy(&record) {
            let failure = format!("destroying it failed: {err}");
            self.remember(record, Some(failure));
            return Err(err);
        }
        self.store.save(&id, None)?;
        lock(&self.volumes).remove(&id);
        let _ = self.events.send(VolumeEvent { kind: VolumeEventKind::Destroy, volume: record.info });
        Ok(())
    }

    fn hold(self: &Arc<Self>, id: &str, operation: &'static str) -> Result<Hold, VolumeError> {
        self.begin(id, Busy { operation, shared: None })
    }

    fn hold_shared(self: &Arc<Self>, id: &str, operation: &'static str) -> Result<Hold, VolumeError> {
        self.begin(id, Busy { operation, shared: Some(1) })
    }

    fn begin(self: &Arc<Self>, id: &str, new: Busy) -> Result<Hold, VolumeError> {
        let mut busy = lock(&self.busy);
        match (busy.get_mut(id), new.shared) {
            (None, _) => {
                busy.insert(id.to_owned(), new);
            }
            (Some(Busy { shared: Some(readers), .. }), Some(_)) => *readers += 1,
            (Some(running), _) => {
                return Err(VolumeError::Busy { id: id.to_owned(), operation: running.operation.to_owned() });
            }
        }
        drop(busy);
        Ok(Hold { inner: self.clone(), id: id.to_owned() })
    }
}

fn check_id(id: &str) -> Result<(), VolumeError> {
    if is_path_safe(id) { Ok(()) } else { Err(VolumeError::InvalidId { id: id.to_owned() }) }
}

fn now() -> GoTime {
    Utc::now().into()
}

fn take_lock(root: &Path) -> Result<File, VolumeError> {
    let path = root.join("lock");
    let file = File::create(&path).map_err(VolumeError::io("open", &path))?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(fs::TryLockError::WouldBlock) => return Err(VolumeError::Locked { root: root.to_owned() }),
            Err(fs::TryLockError::Error(err)) => return Err(VolumeError::io("lock", &path)(err)),
        }
    }
}
