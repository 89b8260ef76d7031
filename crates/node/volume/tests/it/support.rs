//! Folders, layers, stores and sources for the tests.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flynn_types::host::Mountspec;
use flynn_types::id::JobId;
use flynn_volume::{
    LayerBody, LayerSource, ProviderChoice, StoreFailure, VolumeConfig, VolumeManager, VolumeRecord, VolumeStore,
};
use sha2::{Digest, Sha256, Sha512_256};
use tokio::io::{AsyncRead, AsyncReadExt};

pub(crate) const MIB: u64 = 1 << 20;

/// A folder that takes all its mounts with it, also when the test fails.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("flynn-volume-").tempdir().unwrap();
        Self(dir.keep().canonicalize().unwrap())
    }

    /// On a file system of its own, of this size.
    pub(crate) fn on_tmpfs(bytes: u64) -> Self {
        let this = Self::new();
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        rustix::mount::mount("tmpfs", &this.0, "tmpfs", rustix::mount::MountFlags::empty(), options.as_c_str())
            .unwrap();
        this
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn config(&self) -> VolumeConfig {
        let mut config = VolumeConfig::new(self.join("volumes"), "host1".parse().unwrap());
        config.provider = ProviderChoice::Dir;
        config.min_free_bytes = 0;
        config
    }

    pub(crate) async fn manager(&self, store: &Arc<MemoryStore>) -> VolumeManager {
        VolumeManager::open(self.config(), store.clone()).await.unwrap()
    }

    /// Mount points below this folder.
    pub(crate) fn mounts(&self) -> Vec<PathBuf> {
        let info = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = info.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        points.filter(|p| p.starts_with(&self.0) && *p != self.0).collect()
    }

    /// Files below this folder that have a loop device.
    pub(crate) fn loops(&self) -> Vec<PathBuf> {
        let devices = fs::read_dir("/sys/block").unwrap().flatten();
        let files = devices.filter_map(|d| fs::read_to_string(d.path().join("loop/backing_file")).ok());
        files.map(|f| PathBuf::from(f.trim_end())).filter(|f| f.starts_with(&self.0)).collect()
    }

    /// Waits for the kernel to have freed everything.
    pub(crate) fn expect_nothing_mounted(&self) {
        wait_until(|| {
            let left = (self.mounts(), self.loops());
            if left.0.is_empty() && left.1.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        for point in self.mounts().iter().rev() {
            let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
        }
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Waits for a condition; panics with what was last seen.
pub(crate) fn wait_until(mut done: impl FnMut() -> Result<(), String>) {
    let start = Instant::now();
    loop {
        match done() {
            Ok(()) => return,
            Err(seen) => assert!(start.elapsed() < flynn_patience::seconds(20), "still {seen}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A store that survives managers.
#[derive(Default)]
pub(crate) struct MemoryStore {
    records: Mutex<BTreeMap<String, String>>,
    pub(crate) broken: AtomicBool,
}

impl MemoryStore {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.records.lock().unwrap().keys().cloned().collect()
    }

    pub(crate) fn forget_all(&self) {
        self.records.lock().unwrap().clear();
    }

    pub(crate) fn edit(&self, id: &str, edit: impl FnOnce(&mut VolumeRecord)) {
        let mut records = self.records.lock().unwrap();
        let mut record = serde_json::from_str(&records[id]).unwrap();
        edit(&mut record);
        records.insert(id.to_owned(), serde_json::to_string(&record).unwrap());
    }
}

impl VolumeStore for MemoryStore {
    fn load(&self) -> Result<Vec<VolumeRecord>, StoreFailure> {
        Ok(self.records.lock().unwrap().values().map(|text| serde_json::from_str(text).unwrap()).collect())
    }

    fn save(&self, id: &str, record: Option<&VolumeRecord>) -> Result<(), StoreFailure> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(StoreFailure::new("the disk is full"));
        }
        let mut records = self.records.lock().unwrap();
        match record {
            Some(record) => records.insert(id.to_owned(), serde_json::to_string(record).unwrap()),
            None => records.remove(id),
        };
        Ok(())
    }
}

/// Packs files into a layer; gives its bytes.
pub(crate) fn squashfs(dir: &Dir, files: &[(&str, &[u8])]) -> Vec<u8> {
    let work = tempfile::tempdir_in(dir.join("")).unwrap();
    let (root, out) = (work.path().join("root"), work.path().join("out"));
    fs::create_dir(&root).unwrap();
    for (path, content) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let options = ["-no-progress", "-quiet", "-noappend", "-processors", "1", "-nopad", "-noI", "-noD", "-noF", "-noX"];
    let output = Command::new("mksquashfs").args([&root, &out]).args(options).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read(out).unwrap()
}

/// How hosts are told of these bytes.
pub(crate) fn spec(bytes: &[u8], url: &str) -> Mountspec {
    let id = hex::encode(Sha512_256::digest(bytes));
    Mountspec {
        kind: "squashfs".into(),
        url: url.to_owned(),
        size: bytes.len() as i64,
        hashes: [("sha512_256".to_owned(), id.clone()), ("sha256".to_owned(), hex::encode(Sha256::digest(bytes)))]
            .into(),
        id,
        meta: BTreeMap::new(),
    }
}

/// A layer in a file, by its `file://` address.
pub(crate) fn file_layer(dir: &Dir, files: &[(&str, &[u8])]) -> Mountspec {
    let bytes = squashfs(dir, files);
    let path = dir.join(&format!("{}.squashfs", hex::encode(Sha256::digest(&bytes))));
    fs::write(&path, &bytes).unwrap();
    spec(&bytes, &format!("file://{}", path.display()))
}

pub(crate) fn job(name: &str) -> JobId {
    name.parse().unwrap()
}

/// How a [`TestSource`] behaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Behaviour {
    /// Break after so many bytes, each time.
    pub(crate) break_after: Option<usize>,
    /// Always begin at the beginning.
    pub(crate) no_resume: bool,
    /// Say no length.
    pub(crate) no_len: bool,
}

/// Serves bytes for any address, and counts.
#[derive(Default)]
pub(crate) struct TestSource {
    pub(crate) bytes: Vec<u8>,
    pub(crate) behaviour: Behaviour,
    pub(crate) opened: AtomicUsize,
    pub(crate) offsets: Mutex<Vec<u64>>,
    /// What comes waits for this, if set.
    pub(crate) gate: Option<Arc<tokio::sync::Semaphore>>,
}

impl TestSource {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, ..Self::default() }
    }
}

struct Breaking<R>(R);

impl<R: AsyncRead + Unpin> AsyncRead for Breaking<R> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = std::pin::Pin::new(&mut self.0).poll_read(cx, buf);
        if matches!(poll, std::task::Poll::Ready(Ok(()))) && buf.filled().len() == before {
            return std::task::Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        poll
    }
}

#[async_trait::async_trait]
impl LayerSource for TestSource {
    async fn open(&self, _url: &str, offset: u64) -> io::Result<LayerBody> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        self.offsets.lock().unwrap().push(offset);
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        let offset = if self.behaviour.no_resume { 0 } else { offset };
        let rest = io::Cursor::new(self.bytes[usize::try_from(offset).unwrap()..].to_vec());
        let reader: std::pin::Pin<Box<dyn AsyncRead + Send>> = match self.behaviour.break_after {
            Some(limit) => Box::pin(Breaking(rest.take(limit as u64))),
            None => Box::pin(rest),
        };
        let len = (!self.behaviour.no_len).then_some(self.bytes.len() as u64);
        Ok(LayerBody { reader, offset, len })
    }
}

/// A source for what needs none.
pub(crate) fn no_source() -> Arc<dyn LayerSource> {
    struct None;
    #[async_trait::async_trait]
    impl LayerSource for None {
        async fn open(&self, url: &str, _: u64) -> io::Result<LayerBody> {
            Err(io::Error::new(io::ErrorKind::NotFound, format!("nothing should ask for {url}")))
        }
    }
    Arc::new(None)
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
