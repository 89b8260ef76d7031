//! The cache folder: layers by content, and which inputs gave which layer.
//!
//! | path | |
//! |---|---|
//! | `layers/<id>.squashfs`, `layers/<id>.json` | a layer and its description as manifests have it |
//! | `inputs/<hash>.json` | [`Entry`]: what was built from these inputs |
//! | `resolved/<hash>.json` | package versions that a bootstrap last gave |
//! | `manifests/<id>.json` | manifests by their id, canonical JSON |
//! | `images/<name>.json` | the artifact last built under this name |
//! | `work/` | half-made things |

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flynn_types::image::{Artifact, ImageLayer, LAYER_TYPE};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha512_256};

/// Version of the files that only we read.
const FORMAT: u32 = 1;

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}", path.display())]
pub struct CacheError {
    what: &'static str,
    path: PathBuf,
    #[source]
    err: io::Error,
}

/// What was built from certain inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) format: u32,
    pub(crate) layer: ImageLayer,
}

#[derive(Clone, Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
}

/// Excludes other builds from the same inputs, in this and other processes, until dropped.
pub(crate) struct Lock {
    _file: File,
}

impl Cache {
    /// Opens or makes the folder; its path becomes absolute.
    pub(crate) fn open(dir: &Path) -> Result<Self, CacheError> {
        for sub in ["layers", "inputs", "resolved", "manifests", "images", "work"] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).map_err(fail("make folder", &path))?;
        }
        let dir = dir.canonicalize().map_err(fail("find folder", dir))?;
        Ok(Self { dir })
    }

    pub(crate) fn work_dir(&self) -> PathBuf {
        self.dir.join("work")
    }

    pub(crate) fn layer_url_template(&self) -> String {
        format!("file://{}/layers/{{id}}.squashfs", self.dir.display())
    }

    pub(crate) fn artifact_path(&self, name: &str) -> PathBuf {
        self.dir.join("images").join(format!("{name}.json"))
    }

    fn layer_path(&self, id: &str) -> PathBuf {
        self.dir.join("layers").join(format!("{id}.squashfs"))
    }

    /// Waits for other builds from the same inputs.
    pub(crate) fn lock(&self, inputs: &str) -> Result<Lock, CacheError> {
        let path = self.dir.join("work").join(format!("{inputs}.lock"));
        let file = File::create(&path).map_err(fail("open lock", &path))?;
        file.lock().map_err(fail("lock", &path))?;
        Ok(Lock { _file: file })
    }

    /// The layer built from these inputs, if it is still there with its full length.
    pub(crate) fn layer(&self, inputs: &str) -> Option<ImageLayer> {
        let entry: Entry = read_json(&self.dir.join("inputs").join(format!("{inputs}.json")))?;
        let length = fs::metadata(self.layer_path(&entry.layer.id)).ok()?.len();
        let whole = entry.format == FORMAT && i64::try_from(length).is_ok_and(|l| l == entry.layer.length);
        whole.then_some(entry.layer)
    }

    /// Takes a finished file in, under the hash of its content.
    pub(crate) fn install_layer(&self, inputs: &str, file: &Path) -> Result<ImageLayer, CacheError> {
        let (id, length) = digest(file).map_err(fail("read layer", file))?;
        let layer = ImageLayer {
            id: id.clone(),
            kind: LAYER_TYPE.into(),
            length,
            hashes: [("sha512_256".to_owned(), id.clone())].into(),
            ..ImageLayer::default()
        };
        let path = self.layer_path(&id);
        File::open(file).and_then(|f| f.sync_all()).map_err(fail("sync layer", file))?;
        fs::rename(file, &path).map_err(fail("install layer", &path))?;
        write_json(&path.with_extension("json"), &layer)?;
        // Last: an entry promises that its layer is complete.
        let entry = Entry { format: FORMAT, layer };
        write_json(&self.dir.join("inputs").join(format!("{inputs}.json")), &entry)?;
        Ok(entry.layer)
    }

    pub(crate) fn resolved<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        read_json(&self.dir.join("resolved").join(format!("{key}.json")))
    }

    pub(crate) fn remember_resolved<T: Serialize>(&self, key: &str, value: &T) -> Result<(), CacheError> {
        write_json(&self.dir.join("resolved").join(format!("{key}.json")), value)
    }

    /// Stores a manifest's bytes and gives their address.
    pub(crate) fn install_manifest(&self, id: &str, bytes: &[u8]) -> Result<String, CacheError> {
        let path = self.dir.join("manifests").join(format!("{id}.json"));
        write(&path, bytes)?;
        Ok(format!("file://{}", path.display()))
    }

    /// Copies an image out of the cache. Files appear by rename, the artifact last.
    pub(crate) fn export(&self, name: &str, artifact: &Artifact, dir: &Path) -> Result<PathBuf, CacheError> {
        fs::create_dir_all(dir).map_err(fail("make folder", dir))?;
        let dir = dir.canonicalize().map_err(fail("find folder", dir))?;
        let manifest = artifact.manifest.as_ref();
        for layer in manifest.iter().flat_map(|m| &m.rootfs).flat_map(|rootfs| &rootfs.layers) {
            let path = dir.join(format!("{}.squashfs", layer.id));
            if fs::metadata(&path).is_ok_and(|m| i64::try_from(m.len()).is_ok_and(|len| len == layer.length)) {
                continue; // content addressed, and complete because it appeared by rename
            }
            copy(&self.layer_path(&layer.id), &path).map_err(fail("write layer", &path))?;
            write_json(&path.with_extension("json"), layer)?;
        }
        let mut artifact = artifact.clone();
        artifact.layer_url_template = format!("file://{}/{{id}}.squashfs", dir.display());
        if let Some(manifest) = manifest {
            let path = dir.join(format!("{}.manifest.json", manifest.id()));
            write(&path, &manifest.canonical_json())?;
            artifact.uri = format!("file://{}?name={name}", path.display());
        }
        let path = dir.join(format!("{name}.json"));
        write_json(&path, &artifact)?;
        Ok(path)
    }

    pub(crate) fn install_artifact<T: Serialize>(&self, name: &str, artifact: &T) -> Result<(), CacheError> {
        write_json(&self.artifact_path(name), artifact)
    }
}

fn fail(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheError {
    let path = path.to_owned();
    move |err| CacheError { what, path, err }
}

/// `None` when the file is missing or not what we wrote: what it says can be made again.
fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), CacheError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|err| fail("write", path)(err.into()))?;
    bytes.push(b'\n');
    write(path, &bytes)
}

/// Replaces a file: a reader sees the old or the new content, also after a power cut.
fn write(path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let replace = || {
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        file.persist(path).map_err(|e| e.error)?;
        File::open(dir)?.sync_all()
    };
    replace().map_err(fail("write", path))
}

/// Copies a file; the copy is complete and synced when it appears.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let dir = to.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    io::copy(&mut File::open(from)?, file.as_file_mut())?;
    file.as_file().sync_all()?;
    fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.persist(to).map_err(|e| e.error)?;
    Ok(())
}

/// SHA-512/256 in lower-case hex, and length.
fn digest(path: &Path) -> io::Result<(String, i64)> {
    let mut file = File::open(path)?;
    let mut hash = Sha512_256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut length = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((hex::encode(hash.finalize()), length));
        }
        hash.update(&buffer[..read]);
        length += i64::try_from(read).map_err(io::Error::other)?;
    }
}
