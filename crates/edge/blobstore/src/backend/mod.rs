//! Where contents are.

pub(crate) mod bucket;
pub(crate) mod large_object;
pub(crate) mod local;
pub(crate) mod settings;

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use flynn_http::Client;
use http::{Request, header};
use url::Url;
use uuid::Uuid;

use self::bucket::Bucket;
use self::local::Local;
use self::settings::{Kind, S3, Settings};
use crate::error::Error;

/// The backend that is always there: large objects in the database of the names.
pub(crate) const POSTGRES: &str = "postgres";
/// Contents are read and written in pieces of so many bytes; large objects have pages of 2 KiB.
pub(crate) const PIECE: usize = 256 * 1024;
/// Longest answer that is read where a bucket is made.
const MAX_ANSWER: usize = 64 * 1024;

/// All backends besides [`POSTGRES`].
#[derive(Clone, Debug)]
pub(crate) struct Backends {
    default: String,
    others: BTreeMap<String, Backend>,
}

/// A place for contents outside of the database. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum Backend {
    Local(Local),
    Bucket(Bucket),
}

/// A content that is being written; without [`Writing::finish`], nothing of it stays.
#[derive(Debug)]
pub(crate) enum Writing {
    Local(local::Writing),
    Bucket(bucket::Writing),
}

/// A content that is being read.
pub(crate) enum Reading {
    Local(local::Reading),
    Bucket(bucket::Reading),
}

/// A backend that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("use the folder of the backend {name}")]
    Folder {
        name: String,
        #[source]
        err: io::Error,
    },
    #[error("use the bucket {bucket} of the backend {name}: is it there, and may these keys list what is in it?")]
    Bucket {
        name: String,
        bucket: String,
        #[source]
        err: object_store::Error,
    },
    #[error("make the bucket {bucket} of the backend {name}: {reason}")]
    Make { name: String, bucket: String, reason: String },
}

impl Backends {
    /// Opens all, and fails when one of them cannot be used.
    pub(crate) async fn open(settings: &Settings) -> Result<Self, BackendError> {
        let mut others = BTreeMap::new();
        for (name, kind) in &settings.backends {
            let opened = match kind {
                Kind::Local { path } => {
                    let opened = Local::open(path).map_err(|err| BackendError::Folder { name: name.clone(), err })?;
                    tracing::info!(name, path = %path.display(), "Configured additional backend: {name} (local)");
                    Backend::Local(opened)
                }
                Kind::S3(s3) => {
                    let opened = open_s3(name, s3).await?;
                    let kind = if s3.make { "minio" } else { "s3" };
                    tracing::info!(name, bucket = s3.bucket, "Configured additional backend: {name} ({kind})");
                    Backend::Bucket(opened)
                }
            };
            others.insert(name.clone(), opened);
        }
        Ok(Self { default: settings.default.clone(), others })
    }

    /// Where new contents go; `None` is the database.
    pub(crate) fn default(&self) -> Option<(&str, &Backend)> {
        self.others.get(&self.default).map(|backend| (self.default.as_str(), backend))
    }

    pub(crate) fn of(&self, name: &str) -> Result<&Backend, Error> {
        self.others.get(name).ok_or_else(|| Error::UnknownBackend(name.to_owned()))
    }
}

async fn open_s3(name: &str, settings: &S3) -> Result<Bucket, BackendError> {
    let failed = |err| BackendError::Bucket { name: name.to_owned(), bucket: settings.bucket.clone(), err };
    let bucket = Bucket::s3(settings).map_err(failed)?;
    match bucket.check().await {
        // The client does not tell a missing bucket from other failures: those end the making, too.
        Err(_) if settings.make => {
            let url = bucket.to_make().await.map_err(failed)?;
            make(&url).await.map_err(|reason| BackendError::Make {
                name: name.to_owned(),
                bucket: settings.bucket.clone(),
                reason,
            })?;
            bucket.check().await.map_err(failed)?;
        }
        checked => checked.map_err(failed)?,
    }
    Ok(bucket)
}

/// The client knows no request that makes a bucket: the address is signed for one.
async fn make(url: &Url) -> Result<(), String> {
    let request = Request::put(url.as_str()).header(header::CONTENT_LENGTH, 0).body(Bytes::new());
    let request = request.map_err(|err| err.to_string())?;
    let answer = Client::new("").send_as_is(request, MAX_ANSWER).await;
    let answer = answer.map_err(|err| flynn_types::error::with_causes(&err))?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => Err(format!("{status}: {}", String::from_utf8_lossy(answer.body()).escape_debug())),
    }
}

impl Backend {
    /// Begins a content of a type.
    pub(crate) async fn create(&self, content_type: &str) -> Result<Writing, Error> {
        Ok(match self {
            Self::Local(local) => Writing::Local(local.create().await?),
            Self::Bucket(bucket) => Writing::Bucket(bucket.create(content_type)),
        })
    }

    pub(crate) async fn read(&self, object: Uuid) -> Result<Reading, Error> {
        Ok(match self {
            Self::Local(local) => Reading::Local(local.read(object).await?),
            Self::Bucket(bucket) => Reading::Bucket(bucket.read(object).await?),
        })
    }

    /// A second content with the same `size` bytes.
    pub(crate) async fn copy(&self, object: Uuid, size: u64, content_type: &str) -> Result<Uuid, Error> {
        match self {
            Self::Local(local) => local.copy(object).await,
            Self::Bucket(bucket) => bucket.copy(object, size, content_type).await,
        }
    }

    /// Removes a content; one that is not there is no error.
    pub(crate) async fn remove(&self, object: Uuid) -> Result<(), Error> {
        match self {
            Self::Local(local) => local.remove(object).await,
            Self::Bucket(bucket) => bucket.remove(object).await,
        }
    }
}

impl Writing {
    pub(crate) async fn write(&mut self, piece: Bytes) -> Result<(), Error> {
        match self {
            Self::Local(writing) => writing.write(piece).await,
            Self::Bucket(writing) => writing.write(piece).await,
        }
    }

    /// Makes the content last; gives its name.
    pub(crate) async fn finish(self) -> Result<Uuid, Error> {
        match self {
            Self::Local(writing) => writing.finish().await,
            Self::Bucket(writing) => writing.finish().await,
        }
    }
}

impl Reading {
    /// Up to `length` bytes, at most a piece or what came at once; none only at the end.
    pub(crate) async fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, Error> {
        match self {
            Self::Local(reading) => reading.read(offset, length).await,
            Self::Bucket(reading) => reading.read(offset, length).await,
        }
    }
}
