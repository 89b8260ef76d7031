//! Gets a layer to this node: streamed to a partial file while being hashed, resumed after a break, put in place when
//! it is complete and verified.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use flynn_types::host::Mountspec;
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::{debug, warn};

use super::source::{FileSource, LayerBody, LayerSource, scheme};
use super::verify::Verifier;
use super::{LAYER_FILE_FORMAT, LayerFile, Layers, PADDING};
use crate::error::{LayerError, VerifyError};
use crate::mount;

/// Breaks in a row without a new byte that end a pull; others are bridged.
const ATTEMPTS: u32 = 5;
/// Wait before another attempt; doubled each time.
const BACKOFF: Duration = Duration::from_millis(200);
/// A source that sends nothing for so long is asked again.
const STALL: Duration = Duration::from_secs(60);
const BUFFER_BYTES: usize = 256 << 10;

/// Pulls the layer of `spec` unless it is stored meanwhile.
pub(super) async fn pull(
    layers: &Arc<Layers>,
    spec: &Mountspec,
    source: Arc<dyn LayerSource>,
) -> Result<(), LayerError> {
    let _id_lock = layers.id_lock(&spec.id).lock_owned().await;
    if layers.get(&spec.id).is_some() {
        return Ok(());
    }
    if spec.url.is_empty() {
        return Err(LayerError::NoUrl { id: spec.id.clone() });
    }
    let source: Arc<dyn LayerSource> = match scheme(&spec.url).as_str() {
        "file" => Arc::new(FileSource),
        "http" | "https" => source,
        other => return Err(LayerError::Scheme(other.to_owned())),
    };
    let verifier = Verifier::new(spec).map_err(|err| LayerError::Verify { url: spec.url.clone(), err })?;
    let pull = Pull { layers, spec, partial: partial_path(layers, spec) };
    pull.check_space(verifier.missing_bytes())?;
    let mut transfer = pull.resume(verifier.clone()).await?;
    let resumed = transfer.verifier.seen_bytes() > 0;
    let mut result = pull.transfer(&mut transfer, &*source).await;
    if resumed && matches!(result, Err(LayerError::Verify { .. })) {
        // What an earlier attempt left may have been wrong.
        warn!(layer = %spec.id, "a resumed pull gave wrong content, starting again");
        pull.discard().await;
        transfer = pull.resume(verifier).await?;
        result = pull.transfer(&mut transfer, &*source).await;
    }
    match result {
        Ok(file) => pull.install(transfer, file).await,
        Err(err) => {
            // A break leaves the partial file for the next one who wants this layer; everything else is of no use.
            if !matches!(err, LayerError::Source { .. }) {
                pull.discard().await;
            }
            Err(err)
        }
    }
}

/// Partial files are told apart by content, not only by id.
fn partial_path(layers: &Layers, spec: &Mountspec) -> PathBuf {
    use sha2::{Digest, Sha256};
    let hashes = spec.hashes.iter().flat_map(|(k, v)| [k.as_str(), "=", v.as_str(), ";"]).collect::<String>();
    let tag = hex::encode(&Sha256::digest(hashes)[..8]);
    layers.dir.join("partial").join(format!("{}.{tag}", spec.id))
}

struct Pull<'a> {
    layers: &'a Arc<Layers>,
    spec: &'a Mountspec,
    partial: PathBuf,
}

struct Transfer {
    file: File,
    verifier: Verifier,
}

impl Pull<'_> {
    fn io<'e>(&'e self, what: &'static str, path: &'e Path) -> impl Fn(io::Error) -> LayerError + 'e {
        move |err| {
            if err.kind() == io::ErrorKind::StorageFull || err.kind() == io::ErrorKind::QuotaExceeded {
                return self.no_space(u64::try_from(self.spec.size).unwrap_or(0));
            }
            LayerError::Io { id: self.spec.id.clone(), what, path: path.to_owned(), err: Arc::new(err) }
        }
    }

    fn no_space(&self, needed_bytes: u64) -> LayerError {
        let path = self.layers.dir.clone();
        let free_bytes = mount::space(&path).map_or(0, |(free, _)| free);
        LayerError::NoSpace { url: self.spec.url.clone(), path, needed_bytes, free_bytes }
    }

    fn check_space(&self, missing_bytes: u64) -> Result<(), LayerError> {
        let have = std::fs::metadata(&self.partial).map_or(0, |m| m.len());
        let needed = missing_bytes.saturating_sub(have).saturating_add(self.layers.min_free_bytes);
        match mount::space(&self.layers.dir) {
            Ok((free, _)) if free < needed => Err(self.no_space(needed)),
            _ => Ok(()),
        }
    }

    /// Opens the partial file and hashes what it has.
    async fn resume(&self, mut verifier: Verifier) -> Result<Transfer, LayerError> {
        let open = self.io("open", &self.partial);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.partial)
            .await
            .map_err(&open)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        while verifier.missing_bytes() > 0 {
            let most = usize::try_from(verifier.missing_bytes()).unwrap_or(usize::MAX).min(buffer.len());
            match file.read(&mut buffer[..most]).await.map_err(&open)? {
                0 => break,
                read => verifier.update(&buffer[..read]),
            }
        }
        file.set_len(verifier.seen_bytes()).await.map_err(&open)?;
        Ok(Transfer { file, verifier })
    }

    /// Gets the missing bytes, over breaks, and verifies.
    async fn transfer(&self, transfer: &mut Transfer, source: &dyn LayerSource) -> Result<LayerFile, LayerError> {
        let (mut failures, mut backoff) = (0, BACKOFF);
        while transfer.verifier.missing_bytes() > 0 {
            let before = transfer.verifier.seen_bytes();
            match self.attempt(transfer, source).await {
                Ok(()) => break,
                Err(Broken::Final(err)) => return Err(err),
                Err(Broken::Again(err)) => {
                    failures = if transfer.verifier.seen_bytes() > before { 0 } else { failures + 1 };
                    if failures >= ATTEMPTS {
                        return Err(LayerError::Source { url: self.spec.url.clone(), err: Arc::new(err) });
                    }
                    debug!(layer = %self.spec.id, error = %err, "a layer's transfer broke, going on");
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(Duration::from_secs(5));
                }
            }
        }
        let size_bytes = transfer.verifier.seen_bytes();
        let hashes = transfer.verifier.clone().finish().map_err(|err| self.verify(err))?;
        Ok(LayerFile {
            format: LAYER_FILE_FORMAT,
            created_at: Utc::now().into(),
            size_bytes,
            hashes,
            meta: self.spec.meta.clone(),
            ..LayerFile::default()
        })
    }

    fn verify(&self, err: VerifyError) -> LayerError {
        LayerError::Verify { url: self.spec.url.clone(), err }
    }

    async fn attempt(&self, transfer: &mut Transfer, source: &dyn LayerSource) -> Result<(), Broken> {
        let wanted = transfer.verifier.seen_bytes();
        let LayerBody { mut reader, offset, len } =
            stalling(source.open(&self.spec.url, wanted)).await.map_err(|err| {
                use io::ErrorKind::{NotFound, PermissionDenied, Unsupported};
                if matches!(err.kind(), NotFound | PermissionDenied | Unsupported) {
                    return Broken::Final(LayerError::Source { url: self.spec.url.clone(), err: Arc::new(err) });
                }
                Broken::Again(err)
            })?;
        // Extra bytes are not read, missing ones will never come.
        if len.is_some_and(|len| len < wanted + transfer.verifier.missing_bytes()) {
            return Err(Broken::Final(self.verify(VerifyError::TooShort)));
        }
        let mut skip = wanted.checked_sub(offset).ok_or_else(|| {
            Broken::Again(io::Error::new(io::ErrorKind::InvalidData, "the source began behind what was asked for"))
        })?;
        let mut buffer = vec![0; BUFFER_BYTES];
        while transfer.verifier.missing_bytes() > 0 {
            let left = skip.saturating_add(transfer.verifier.missing_bytes());
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let read = stalling(reader.read(&mut buffer[..most])).await.map_err(Broken::Again)?;
            if read == 0 && len.is_none() {
                // A source that does not know its length ends here, and says so by ending.
                return Err(Broken::Final(self.verify(VerifyError::TooShort)));
            }
            if read == 0 {
                return Err(Broken::Again(io::ErrorKind::UnexpectedEof.into()));
            }
            let dropped = usize::try_from(skip).unwrap_or(usize::MAX).min(read);
            skip -= dropped as u64;
            let bytes = &buffer[dropped..read];
            let write = transfer.file.write_all(bytes).await;
            write.map_err(self.io("write", &self.partial)).map_err(Broken::Final)?;
            transfer.verifier.update(bytes);
        }
        // tokio writes behind: an error may only show now.
        transfer.file.flush().await.map_err(self.io("write", &self.partial)).map_err(Broken::Final)
    }

    /// Puts the verified file in place: data, then description, each durable before the next.
    async fn install(&self, transfer: Transfer, file: LayerFile) -> Result<(), LayerError> {
        let id = self.spec.id.clone();
        let padded = file.size_bytes.next_multiple_of(PADDING);
        let (layers, partial) = (self.layers.clone(), self.partial.clone());
        let opened = transfer.file.into_std().await;
        let installed = tokio::task::spawn_blocking(move || {
            let (squashfs, json) = (layers.squashfs_path(&id), layers.json_path(&id));
            opened.set_len(padded)?;
            opened.set_modified(std::time::SystemTime::now())?;
            opened.sync_all()?;
            std::fs::rename(&partial, &squashfs)?;
            mount::sync_dir(&layers.dir)?;
            mount::write_whole(&json, &serde_json::to_vec_pretty(&file)?)?;
            layers.add(&id, file);
            Ok(())
        });
        let result: io::Result<()> = installed.await.map_err(|_| LayerError::Stopped)?;
        result.map_err(self.io("store the layer in", &self.layers.dir))
    }

    async fn discard(&self) {
        if let Err(err) = fs::remove_file(&self.partial).await
            && err.kind() != io::ErrorKind::NotFound
        {
            warn!(path = %self.partial.display(), error = %err, "a partial layer could not be removed");
        }
    }
}

/// How an attempt ended.
enum Broken {
    /// Another attempt may succeed.
    Again(io::Error),
    Final(LayerError),
}

async fn stalling<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(STALL, work).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing came for {STALL:?}"))),
    }
}
