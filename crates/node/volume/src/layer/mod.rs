//! The layers of this node: stored once, mounted once, shared by all jobs.

pub(crate) mod pull;
pub(crate) mod source;
pub(crate) mod verify;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use flynn_types::host::{META_SYSTEM_IMAGE, Mountspec, VolumeInfo, VolumeType};
use flynn_types::time::GoTime;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::error::LayerError;
use crate::mount;
use crate::sys::LoopDevice;
use source::LayerSource;

/// Loop devices count in sectors: the file is padded with zeros to a multiple of this.
const PADDING: u64 = 4096;

/// `<id>.json`: what is known of a stored layer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LayerFile {
    /// Version of this file's form.
    pub(crate) format: u32,
    pub(crate) created_at: GoTime,
    /// Bytes without padding.
    pub(crate) size_bytes: u64,
    pub(crate) hashes: BTreeMap<String, String>,
    pub(crate) meta: BTreeMap<String, String>,
    #[serde(flatten)]
    pub(crate) extra: BTreeMap<String, serde_json::Value>,
}

pub(crate) const LAYER_FILE_FORMAT: u32 = 1;

/// A stored layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) id: String,
    pub(crate) file: LayerFile,
    /// Root file systems and preparations that hold it.
    uses: AtomicUsize,
    /// Whether it is mounted; held while that changes.
    mounted: Mutex<bool>,
}

impl Layer {
    pub(crate) fn info(&self) -> VolumeInfo {
        VolumeInfo {
            id: self.id.clone(),
            kind: VolumeType::Squashfs,
            meta: self.file.meta.clone(),
            created_at: self.file.created_at,
        }
    }

    pub(crate) fn in_use(&self) -> bool {
        self.uses.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn is_system(&self) -> bool {
        self.file.meta.get(META_SYSTEM_IMAGE).is_some_and(|v| v == "true")
    }
}

/// Keeps a layer stored and mounted. Cloned per user.
#[derive(Debug)]
pub struct LayerGuard {
    layer: Arc<Layer>,
    path: PathBuf,
    file: PathBuf,
}

impl LayerGuard {
    pub fn id(&self) -> &str {
        &self.layer.id
    }

    /// Where the layer is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Clone for LayerGuard {
    fn clone(&self) -> Self {
        self.layer.uses.fetch_add(1, Ordering::SeqCst);
        Self { layer: self.layer.clone(), path: self.path.clone(), file: self.file.clone() }
    }
}

impl Drop for LayerGuard {
    fn drop(&mut self) {
        if self.layer.uses.fetch_sub(1, Ordering::SeqCst) == 1 {
            touch(&self.file);
        }
    }
}

/// The last use of a layer is its file's time of modification: no record to write, and it survives everything.
fn touch(file: &Path) {
    if let Ok(file) = fs::File::open(file) {
        let _ = file.set_modified(SystemTime::now());
    }
}

type Pull = Shared<BoxFuture<'static, Result<(), LayerError>>>;

/// All layers below one folder.
#[derive(Debug)]
pub(crate) struct Layers {
    pub(crate) dir: PathBuf,
    pub(crate) min_free_bytes: u64,
    state: Mutex<HashMap<String, Arc<Layer>>>,
    pulls: Mutex<HashMap<String, Pull>>,
    /// Held while a layer's files come or go.
    ids: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    pub(crate) events: tokio::sync::broadcast::Sender<flynn_types::host::VolumeEvent>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks can leave the value half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Layers {
    /// Finds what is stored and mounted. Files that are not complete are removed.
    pub(crate) fn open(
        dir: PathBuf,
        min_free_bytes: u64,
        events: tokio::sync::broadcast::Sender<flynn_types::host::VolumeEvent>,
    ) -> io::Result<Self> {
        for sub in ["mnt", "partial"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let mounts = mount::below(&dir.join("mnt"))?;
        let mut layers = HashMap::new();
        let mut incomplete = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let Some(id) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".squashfs")) else {
                if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')) {
                    incomplete.push(path);
                }
                continue;
            };
            match read_layer_file(&dir, id) {
                Some(file) => {
                    let mounted = mounts.contains_key(&dir.join("mnt").join(id));
                    let layer =
                        Layer { id: id.to_owned(), file, uses: AtomicUsize::new(0), mounted: Mutex::new(mounted) };
                    layers.insert(id.to_owned(), Arc::new(layer));
                }
                None => incomplete.push(path),
            }
        }
        for path in incomplete {
            warn!(path = %path.display(), "removing an incomplete layer");
            fs::remove_file(&path)?;
        }
        for point in mounts.keys().filter(|p| p.file_name().is_none_or(|n| !layers.contains_key(&*n.to_string_lossy())))
        {
            warn!(path = %point.display(), "unmounting a layer that is not stored");
            mount::release(point)?;
        }
        Ok(Self {
            dir,
            min_free_bytes,
            state: Mutex::new(layers),
            pulls: Mutex::default(),
            ids: Mutex::default(),
            events,
        })
    }

    pub(crate) fn squashfs_path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.squashfs"))
    }

    pub(crate) fn json_path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    pub(crate) fn mount_path(&self, id: &str) -> PathBuf {
        self.dir.join("mnt").join(id)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Layer>> {
        lock(&self.state).values().cloned().collect()
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Layer>> {
        lock(&self.state).get(id).cloned()
    }

    /// Holds a stored layer so that it is not collected.
    fn hold(&self, id: &str) -> Option<LayerGuard> {
        let state = lock(&self.state);
        let layer = state.get(id)?.clone();
        layer.uses.fetch_add(1, Ordering::SeqCst);
        Some(LayerGuard { layer, path: self.mount_path(id), file: self.squashfs_path(id) })
    }

    /// Holds a stored layer and mounts it if it is not. Blocks.
    pub(crate) fn hold_mounted(&self, id: &str) -> Result<Option<LayerGuard>, LayerError> {
        let Some(guard) = self.hold(id) else { return Ok(None) };
        self.ensure_mounted(&guard.layer)?;
        Ok(Some(guard))
    }

    fn ensure_mounted(&self, layer: &Layer) -> Result<(), LayerError> {
        let id = &layer.id;
        let io = |what, path: &Path| {
            let (id, path) = (id.clone(), path.to_owned());
            move |err: io::Error| LayerError::Io { id, what, path, err: Arc::new(err) }
        };
        let mut mounted = lock(&layer.mounted);
        if *mounted {
            return Ok(());
        }
        let (file, target) = (self.squashfs_path(id), self.mount_path(id));
        fs::create_dir_all(&target).map_err(io("make folder", &target))?;
        let opened = fs::File::open(&file).map_err(io("open", &file))?;
        let device = LoopDevice::attach(&opened, true).map_err(io("attach a loop device to", &file))?;
        mount::squashfs(&device.path, &target)
            .map_err(|err| LayerError::Mount { id: id.clone(), reason: err.to_string() })?;
        *mounted = true;
        Ok(())
    }

    /// The lock of an id's files.
    pub(crate) fn id_lock(&self, id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut ids = lock(&self.ids);
        ids.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = ids.get(id).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        ids.insert(id.to_owned(), Arc::downgrade(&lock));
        lock
    }

    /// The layer of a mountspec: stored, or pulled from `source` first. All who want the same layer at the same time
    /// wait for the same pull, which goes on when they go away.
    pub(crate) async fn get_or_pull(
        self: &Arc<Self>,
        spec: &Mountspec,
        source: Arc<dyn LayerSource>,
    ) -> Result<LayerGuard, LayerError> {
        if spec.kind != Mountspec::SQUASHFS {
            return Err(LayerError::Type(spec.kind.clone()));
        }
        if !flynn_types::id::is_path_safe(&spec.id) {
            return Err(LayerError::Id(spec.id.clone()));
        }
        let mut damaged_before = false;
        loop {
            let (this, id) = (self.clone(), spec.id.clone());
            let held =
                tokio::task::spawn_blocking(move || this.hold_mounted(&id)).await.map_err(|_| LayerError::Stopped)?;
            match held {
                Ok(Some(guard)) => {
                    verify::same_content(&guard.layer.file.hashes, &spec.hashes)
                        .map_err(|err| LayerError::Different { id: spec.id.clone(), err })?;
                    return Ok(guard);
                }
                Ok(None) => self.pull(spec, source.clone()).await?,
                // Verified once, no file system now: the disk has lost it. Get it anew, once.
                Err(err @ LayerError::Mount { .. }) if !damaged_before && !spec.url.is_empty() => {
                    damaged_before = true;
                    warn!(layer = %spec.id, error = %err, "a stored layer is damaged, removing it");
                    if !self.remove(&spec.id).await? {
                        return Err(err);
                    }
                }
                Err(err) => return Err(err),
            }
        }
    }

    async fn pull(self: &Arc<Self>, spec: &Mountspec, source: Arc<dyn LayerSource>) -> Result<(), LayerError> {
        let pull = {
            let mut pulls = lock(&self.pulls);
            match pulls.get(&spec.id) {
                Some(pull) => pull.clone(),
                None => {
                    let (this, spec, id) = (self.clone(), spec.clone(), spec.id.clone());
                    let task = tokio::spawn(async move {
                        let result = pull::pull(&this, &spec, source).await;
                        lock(&this.pulls).remove(&spec.id);
                        result
                    });
                    let pull = task.map(|done| done.unwrap_or(Err(LayerError::Stopped))).boxed().shared();
                    pulls.insert(id, pull.clone());
                    pull
                }
            }
        };
        pull.await
    }

    /// Takes a layer in whose files are complete.
    pub(crate) fn add(&self, id: &str, file: LayerFile) {
        let layer = Layer { id: id.to_owned(), file, uses: AtomicUsize::new(0), mounted: Mutex::new(false) };
        let volume = layer.info();
        lock(&self.state).insert(id.to_owned(), Arc::new(layer));
        info!(layer = %id, size_bytes = lock(&self.state).get(id).map_or(0, |l| l.file.size_bytes), "layer stored");
        let _ = self
            .events
            .send(flynn_types::host::VolumeEvent { kind: flynn_types::host::VolumeEventKind::Create, volume });
    }

    /// Removes a layer unless somebody holds it; whether it is gone.
    pub(crate) async fn remove(self: &Arc<Self>, id: &str) -> Result<bool, LayerError> {
        let this = self.clone();
        let id = id.to_owned();
        let id_lock = self.id_lock(&id).lock_owned().await;
        tokio::task::spawn_blocking(move || {
            let _id_lock = id_lock;
            this.remove_now(&id)
        })
        .await
        .map_err(|_| LayerError::Stopped)?
    }

    /// As [`Self::remove`], by a caller that has the id's lock.
    fn remove_now(&self, id: &str) -> Result<bool, LayerError> {
        let layer = {
            let mut state = lock(&self.state);
            match state.get(id) {
                None => return Ok(true),
                Some(layer) if layer.in_use() => return Ok(false),
                Some(_) => state.remove(id),
            }
        };
        let Some(layer) = layer else { return Ok(true) };
        let target = self.mount_path(id);
        let io = |what, path: &Path| {
            let (id, path) = (id.to_owned(), path.to_owned());
            move |err: io::Error| LayerError::Io { id, what, path, err: Arc::new(err) }
        };
        let gone = |result: io::Result<()>| match result {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
        mount::release(&target).map_err(io("unmount", &target))?;
        // The description first: without it the rest is an incomplete layer, which the next start removes.
        for path in [self.json_path(id), self.squashfs_path(id)] {
            gone(fs::remove_file(&path)).map_err(io("remove", &path))?;
        }
        gone(fs::remove_dir(&target)).map_err(io("remove", &target))?;
        info!(layer = %id, "layer removed");
        let _ = self.events.send(flynn_types::host::VolumeEvent {
            kind: flynn_types::host::VolumeEventKind::Destroy,
            volume: layer.info(),
        });
        Ok(true)
    }

    /// Unmounts every layer that nobody holds; it is mounted again when wanted. Blocks.
    pub(crate) fn unmount_idle(&self) {
        for layer in self.all() {
            let mut mounted = lock(&layer.mounted);
            if *mounted && !layer.in_use() && mount::release_if_idle(&self.mount_path(&layer.id)).is_ok() {
                *mounted = false;
            }
        }
    }
}

fn read_layer_file(dir: &Path, id: &str) -> Option<LayerFile> {
    let bytes = fs::read(dir.join(format!("{id}.json"))).ok()?;
    let file: LayerFile = serde_json::from_slice(&bytes).ok()?;
    let length = fs::metadata(dir.join(format!("{id}.squashfs"))).ok()?.len();
    (length == file.size_bytes.next_multiple_of(PADDING)).then_some(file)
}
