//! The operator's page that is shown while a service cannot answer.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flynn_http::{Client, ClientError};
use futures_util::StreamExt as _;
use http::HeaderMap;

/// Longest page in bytes; what is longer is cut off (spec router section 2.3).
const LONGEST: usize = 1_000_000;
/// The router waits with its start for so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// A page of HTML.
#[derive(Clone, Debug)]
pub struct Page(pub(crate) Bytes);

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    #[error("fetch {url}")]
    Fetch { url: String, source: ClientError },
    #[error("{url} answers {status}, not 200")]
    Status { url: String, status: u16 },
    #[error("{url} takes longer than {PATIENCE:?}")]
    Slow { url: String },
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
}

impl Page {
    /// A page from memory.
    pub fn new(html: impl Into<Bytes>) -> Self {
        let mut html = html.into();
        html.truncate(LONGEST);
        Self(html)
    }

    /// Fetches a page, following redirects.
    ///
    /// # Errors
    /// When the answer is other than 200, or does not come in time.
    pub async fn fetch(url: &str) -> Result<Self, PageError> {
        let fetched = tokio::time::timeout(PATIENCE, download(url)).await;
        fetched.unwrap_or_else(|_| Err(PageError::Slow { url: url.to_owned() }))
    }

    /// Reads a page from a file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn read(path: &Path) -> Result<Self, PageError> {
        let html = tokio::fs::read(path).await;
        html.map(Self::new).map_err(|source| PageError::Read { path: path.to_owned(), source })
    }
}

async fn download(url: &str) -> Result<Page, PageError> {
    let failed = |source| PageError::Fetch { url: url.to_owned(), source };
    let mut download = Client::new(url).open(url, &HeaderMap::new()).await.map_err(failed)?;
    if download.status != 200 {
        return Err(PageError::Status { url: url.to_owned(), status: download.status });
    }
    let mut html = BytesMut::new();
    while html.len() < LONGEST
        && let Some(piece) = download.bytes.next().await
    {
        html.extend_from_slice(&piece.map_err(failed)?);
    }
    Ok(Page::new(html))
}
