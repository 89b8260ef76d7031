//! Fetches an image's manifest and checks it against its hashes (R2).

use std::time::Duration;

use flynn_http::{Client, ClientError};
use flynn_types::image::{Artifact, ImageManifest};
use futures_util::StreamExt as _;
use http::HeaderMap;
use sha2::{Digest as _, Sha256, Sha512, Sha512_256};

/// Longest wait for the answer, and for more of it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest manifest in bytes; those of real images have some thousand.
const MAX_SIZE: usize = 64 << 20;

/// Why a manifest is not taken. The texts begin as those of existing clusters.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    #[error("verify: no hashes provided")]
    NoHashes,
    #[error("verify: data too short")]
    Short,
    #[error("a manifest has at most {MAX_SIZE} bytes")]
    Long,
    #[error("verify: expected {algorithm} hash \"{expected}\" but got \"{actual}\"")]
    Hash { algorithm: &'static str, expected: String, actual: String },
    #[error("unexpected HTTP status: {0}")]
    Status(u16),
    #[error(transparent)]
    Download(ClientError),
    #[error("read the manifest: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<ClientError> for ManifestError {
    fn from(error: ClientError) -> Self {
        error.status().map_or(Self::Download(error), Self::Status)
    }
}

pub(super) async fn download(artifact: &Artifact) -> Result<ImageManifest, ManifestError> {
    let size = usize::try_from(artifact.size).ok().filter(|size| *size <= MAX_SIZE).ok_or(ManifestError::Long)?;
    if !HASHES.iter().any(|(name, _)| artifact.hashes.contains_key(*name)) {
        return Err(ManifestError::NoHashes);
    }
    let client = Client::new(&artifact.uri).with_timeout(PATIENCE).with_stall_limit(PATIENCE);
    let mut download = client.open("", &HeaderMap::new()).await?;
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let Some(chunk) = download.bytes.next().await else { return Err(ManifestError::Short) };
        bytes.extend_from_slice(&chunk?);
    }
    bytes.truncate(size);
    for (algorithm, hash) in HASHES {
        let Some(expected) = artifact.hashes.get(algorithm) else { continue };
        let actual = hash(&bytes);
        if *expected != actual {
            return Err(ManifestError::Hash { algorithm, expected: expected.clone(), actual });
        }
    }
    Ok(serde_json::from_slice(&bytes)?)
}

/// The hash of some bytes, in hex.
type Hash = fn(&[u8]) -> String;

/// The hashes that are known.
const HASHES: [(&str, Hash); 3] = [
    ("sha256", |bytes| hex::encode(Sha256::digest(bytes))),
    ("sha512", |bytes| hex::encode(Sha512::digest(bytes))),
    ("sha512_256", |bytes| hex::encode(Sha512_256::digest(bytes))),
];
