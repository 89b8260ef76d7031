//! What a peer keeps on its volume beside its database: who it is and which generation it was part of.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use flynn_types::sirenia::PeerId;

use crate::driver::Memory;

/// The peer's identity (spec section 2.3).
const IDENTITY: &str = "instance_id";
/// The newest generation that the volume was part of.
const GENERATION: &str = "cluster_generation";

/// The files of a peer on its volume.
#[derive(Clone, Debug)]
pub struct VolumeFiles {
    folder: PathBuf,
    id: PeerId,
    generation: u64,
}

/// Why a volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("read or write {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("{} holds no generation; look which the cluster state has, and write that number into it", path.display())]
    Generation { path: PathBuf },
}

impl VolumeFiles {
    /// Reads a volume's files; a new volume gets its identity.
    pub async fn open(folder: &Path) -> Result<Self, VolumeError> {
        let at = |name: &str| folder.join(name);
        let failed = |path: PathBuf| |err| VolumeError::File { path, err };
        let id = read(&at(IDENTITY)).await.map_err(failed(at(IDENTITY)))?.filter(|id| !id.is_empty());
        let id = match id {
            Some(id) => id,
            None => {
                let id = uuid::Uuid::new_v4().to_string();
                write(folder, IDENTITY, &id).await.map_err(failed(at(IDENTITY)))?;
                id
            }
        };
        let generation = read(&at(GENERATION)).await.map_err(failed(at(GENERATION)))?;
        let generation = generation.map_or(Ok(0), |text| text.parse());
        let generation = generation.map_err(|_| VolumeError::Generation { path: at(GENERATION) })?;
        Ok(Self { folder: folder.to_owned(), id: PeerId(id), generation })
    }

    /// Who the volume's peer is.
    pub fn id(&self) -> &PeerId {
        &self.id
    }

    /// The newest generation that the volume was part of when it was opened, 0 for none.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

#[async_trait]
impl Memory for VolumeFiles {
    async fn remember(&self, generation: u64) -> io::Result<()> {
        write(&self.folder, GENERATION, &generation.to_string()).await
    }
}

async fn read(path: &Path) -> io::Result<Option<String>> {
    match tokio::fs::read_to_string(path).await {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// New file, sync, rename, sync of the folder: after a power cut there is the old text or the new one.
async fn write(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    use tokio::io::AsyncWriteExt as _;
    let new = folder.join(format!("{name}.new"));
    let mut file = tokio::fs::File::create(&new).await?;
    file.write_all(format!("{text}\n").as_bytes()).await?;
    file.sync_all().await?;
    tokio::fs::rename(&new, folder.join(name)).await?;
    tokio::fs::File::open(folder).await?.sync_all().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_volume_keeps_its_identity_and_its_generation() {
        let folder = tempfile::tempdir().unwrap();
        let new = VolumeFiles::open(folder.path()).await.unwrap();
        assert_eq!(new.generation(), 0);
        new.remember(7).await.unwrap();
        let again = VolumeFiles::open(folder.path()).await.unwrap();
        assert_eq!((again.id(), again.generation()), (new.id(), 7));
        let text = std::fs::read_to_string(folder.path().join(IDENTITY)).unwrap();
        assert_eq!(text.trim().len(), 36, "a UUID");
        std::fs::write(folder.path().join(GENERATION), "x").unwrap();
        let wrong = VolumeFiles::open(folder.path()).await.unwrap_err();
        assert!(wrong.to_string().contains("write that number into it"), "{wrong}");
        assert!(VolumeFiles::open(&folder.path().join("missing")).await.is_err());
    }
}
