//! Where layers come from.

use std::io::{self, SeekFrom};
use std::path::PathBuf;
use std::pin::Pin;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncSeekExt};

/// A layer's bytes.
pub struct LayerBody {
    pub reader: Pin<Box<dyn AsyncRead + Send>>,
    /// Position in the layer of the reader's first byte: what was asked for, or 0 where the source cannot resume.
    pub offset: u64,
    /// Length of the whole layer, if the source says it.
    pub len: Option<u64>,
}

/// Opens layers at `http://` and `https://` addresses. Errors of kinds `NotFound`, `PermissionDenied` and `Unsupported`
/// are final, others are tried again.
#[async_trait]
pub trait LayerSource: Send + Sync + 'static {
    /// Opens the bytes at `url` from `offset` on.
    async fn open(&self, url: &str, offset: u64) -> io::Result<LayerBody>;
}

/// Opens `file://` addresses, and no others.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileSource;

#[async_trait]
impl LayerSource for FileSource {
    async fn open(&self, url: &str, offset: u64) -> io::Result<LayerBody> {
        let path =
            file_path(url).ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "it is no file:// address"))?;
        let mut file = tokio::fs::File::open(&path).await?;
        let len = file.metadata().await?.len();
        file.seek(SeekFrom::Start(offset)).await?;
        Ok(LayerBody { reader: Box::pin(file), offset, len: Some(len) })
    }
}

/// Path of a `file://` address: query dropped, `%xx` decoded.
fn file_path(url: &str) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let rest = url.strip_prefix("file://")?;
    let rest = rest.split(['?', '#']).next().unwrap_or(rest);
    let rest = rest.strip_prefix("localhost").unwrap_or(rest);
    let mut bytes = Vec::with_capacity(rest.len());
    let mut left = rest.as_bytes();
    while let Some((&first, tail)) = left.split_first() {
        let hex = tail.get(..2).and_then(|t| std::str::from_utf8(t).ok()).and_then(|t| u8::from_str_radix(t, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                left = &tail[2..];
            }
            _ => {
                bytes.push(first);
                left = tail;
            }
        }
    }
    let path = PathBuf::from(std::ffi::OsString::from_vec(bytes));
    path.is_absolute().then_some(path)
}

/// Scheme of an address, in lower case.
pub(crate) fn scheme(url: &str) -> String {
    url.split_once(':').map_or("", |(scheme, _)| scheme).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_addresses_become_paths() {
        for (url, path) in [
            ("file:///a/b.squashfs", Some("/a/b.squashfs")),
            ("file://localhost/a", Some("/a")),
            ("file:///a%20b?name=x", Some("/a b")),
            ("file://a/b", None),
            ("http:///a", None),
        ] {
            assert_eq!(file_path(url), path.map(PathBuf::from), "{url}");
        }
    }
}
