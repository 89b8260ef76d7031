//! Contents as objects of a bucket at an object store, each under its id.
//!
//! What is written is sent in parts while it comes; the object is there when its last part is confirmed, and not before.
//! Short failures of the store are its client's to try again (`RETRY`).
//!
//! Parts of a process that ended in the middle stay at the store, unseen: a rule of the bucket's life cycle removes them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use http::Method;
use object_store::aws::AmazonS3Builder;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    Attribute, AttributeValue, ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, RetryConfig,
};
use tokio::io::AsyncWriteExt as _;
use url::Url;
use uuid::Uuid;

use super::settings::{S3, S3Keys};
use crate::error::Error;

/// Size of a part of an upload. Ten thousand are allowed, so that a content can have 78 GiB.
const PART: usize = 8 * 1024 * 1024;
/// Parts of an upload that are on their way at once: three parts are in memory at most.
const PARTS_AT_ONCE: usize = 2;
/// What a store copies itself; it refuses more, and the content passes through here.
const COPIED: u64 = 5 * 1024 * 1024 * 1024;
/// For so long can a content be fetched with an address that was given away (spec build-and-deploy section 13).
const SIGNED: Duration = Duration::from_secs(600);
/// Longest silence of the store, also while a part is sent: 8 MiB need 2.2 Mbit/s.
const SILENCE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(5);
/// No request is tried again after so long. Clients of ours wait for a minute or more.
const RETRY: Duration = Duration::from_secs(60);
/// Nothing has names like this.
const NOTHING: &str = "flynn-blobstore-check";

/// A bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    signer: Arc<dyn Signer>,
}

/// A content that is being written; without [`Writing::finish`], nothing of it stays.
#[derive(Debug)]
pub(crate) struct Writing {
    bucket: Bucket,
    object: Uuid,
    size: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Open(Box<BufWriter>),
    /// The store has been told that this is all.
    Ending,
    Whole,
}

/// A content that is being read.
pub(crate) struct Reading {
    bucket: Bucket,
    object: Uuid,
    /// What comes from `position` on.
    coming: BoxStream<'static, object_store::Result<Bytes>>,
    position: u64,
    /// What has come and was not asked for yet.
    here: Bytes,
}

impl Bucket {
    /// A bucket of S3 or of what speaks its language.
    pub(crate) fn s3(settings: &S3) -> object_store::Result<Self> {
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            // One by one: not all that speak S3 can remove several at once.
            .with_disable_bulk_delete(true)
            .with_retry(retry())
            .with_client_options(client());
        builder = match &settings.endpoint {
            Some(endpoint) => {
                let insecure = endpoint.scheme() == "http";
                builder.with_endpoint(endpoint.as_str().trim_end_matches('/')).with_allow_http(insecure)
            }
            // As Amazon wants it since 2020; a name with dots would not fit the certificate.
            None if settings.bucket.contains('.') => builder,
            None => {
                let host = amazon(&settings.region);
                let endpoint = format!("https://{}.{host}", settings.bucket);
                builder.with_endpoint(endpoint).with_virtual_hosted_style_request(true)
            }
        };
        builder = match &settings.keys {
            S3Keys::Given { id, secret, token } => {
                let builder = builder.with_access_key_id(id).with_secret_access_key(secret.text());
                token.iter().fold(builder, |builder, token| builder.with_token(token.text()))
            }
            S3Keys::Role(told) => told.iter().fold(builder, |builder, (key, value)| builder.with_config(*key, value)),
        };
        let store = Arc::new(builder.build()?);
        Ok(Self { store: Arc::clone(&store) as _, signer: store })
    }

    /// Whether the store knows the bucket and us.
    pub(crate) async fn check(&self) -> object_store::Result<()> {
        match self.store.list(Some(&Path::from(NOTHING))).next().await {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(err)) => Err(err),
        }
    }

    /// Where the bucket itself is made with a PUT.
    pub(crate) async fn to_make(&self) -> object_store::Result<Url> {
        self.signer.signed_url(Method::PUT, &Path::default(), SIGNED).await
    }

    /// An address that everybody can fetch the content from for a while.
    pub(crate) async fn address(&self, object: Uuid) -> Result<Url, Error> {
        let signed = self.signer.signed_url(Method::GET, &path(object), SIGNED).await;
        signed.map_err(|err| failed(object, err))
    }

    /// Begins a content. Who fetches it from the store is told its type there.
    pub(crate) fn create(&self, content_type: &str) -> Writing {
        let object = Uuid::new_v4();
        let writer = BufWriter::with_capacity(Arc::clone(&self.store), path(object), PART);
        let mut writer = writer.with_max_concurrency(PARTS_AT_ONCE);
        if !content_type.is_empty() && content_type.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            let told = (Attribute::ContentType, AttributeValue::from(content_type.to_owned()));
            writer = writer.with_attributes([told].into_iter().collect());
        }
        Writing { bucket: self.clone(), object, size: 0, state: State::Open(Box::new(writer)) }
    }

    pub(crate) async fn read(&self, object: Uuid) -> Result<Reading, Error> {
        let coming = self.from(object, 0).await?;
        Ok(Reading { bucket: self.clone(), object, coming, position: 0, here: Bytes::new() })
    }

    async fn from(&self, object: Uuid, offset: u64) -> Result<BoxStream<'static, object_store::Result<Bytes>>, Error> {
        // A range from the beginning of nothing is refused.
        let range = (offset > 0).then_some(GetRange::Offset(offset));
        let got = self.store.get_opts(&path(object), GetOptions { range, ..GetOptions::default() }).await;
        Ok(got.map_err(|err| failed(object, err))?.into_stream())
    }

    /// A second content with the same bytes.
    pub(crate) async fn copy(&self, object: Uuid, size: u64, content_type: &str) -> Result<Uuid, Error> {
        if size <= COPIED {
            let copy = Uuid::new_v4();
            self.store.copy(&path(object), &path(copy)).await.map_err(|err| failed(object, err))?;
            return Ok(copy);
        }
        let (mut reading, mut writing) = (self.read(object).await?, self.create(content_type));
        while let Some(bytes) = reading.next().await? {
            writing.write(bytes).await?;
        }
        writing.finish().await
    }

    /// Removes a content; one that is not there is no error.
    pub(crate) async fn remove(&self, object: Uuid) -> Result<(), Error> {
        match self.store.delete(&path(object)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            removed => removed.map_err(|err| failed(object, err)),
        }
    }
}

impl Writing {
    pub(crate) async fn write(&mut self, piece: Bytes) -> Result<(), Error> {
        self.size += piece.len() as u64;
        let State::Open(writer) = &mut self.state else { return Ok(()) };
        writer.put(piece).await.map_err(|err| failed(self.object, err))
    }

    /// Makes the content last; gives its name.
    pub(crate) async fn finish(mut self) -> Result<Uuid, Error> {
        let (object, size) = (self.object, self.size);
        if let State::Open(mut writer) = std::mem::replace(&mut self.state, State::Ending) {
            // A failure here ends the upload at the store, too.
            writer.shutdown().await.map_err(|err| Error::Content { object: object.to_string(), err })?;
        }
        // What was sent is signed, part by part; whether the store has put all of it together, is asked.
        let stored = self.bucket.store.head(&path(object)).await.map_err(|err| failed(object, err))?.size;
        if stored != size {
            return Err(Error::Shortened { object, size, stored });
        }
        self.state = State::Whole;
        Ok(object)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (bucket, object) = (self.bucket.clone(), self.object);
        // Nobody could wait for these here: who wrote has gone. What fails takes room and is never seen.
        match std::mem::replace(&mut self.state, State::Whole) {
            State::Whole => {}
            State::Open(mut writer) => drop(runtime.spawn(async move {
                if let Err(err) = writer.abort().await {
                    let err = &err as &dyn std::error::Error;
                    tracing::warn!(%object, err, "parts of a broken upload stay at the store");
                }
            })),
            State::Ending => drop(runtime.spawn(async move {
                if let Err(err) = bucket.remove(object).await {
                    let err = &err as &dyn std::error::Error;
                    tracing::warn!(%object, err, "a content without a name cannot be removed");
                }
            })),
        }
    }
}

impl Reading {
    /// Up to `length` bytes; none only at the end. Quick when offsets follow each other.
    pub(crate) async fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, Error> {
        if offset != self.position {
            self.coming = self.bucket.from(self.object, offset).await?;
            (self.position, self.here) = (offset, Bytes::new());
        }
        while self.here.is_empty() {
            match self.coming.next().await {
                Some(bytes) => self.here = bytes.map_err(|err| failed(self.object, err))?,
                None => return Ok(Bytes::new()),
            }
        }
        let piece = self.here.split_to(length.min(self.here.len()));
        self.position += piece.len() as u64;
        Ok(piece)
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let piece = self.read(self.position, usize::MAX).await?;
        Ok((!piece.is_empty()).then_some(piece))
    }
}

fn path(object: Uuid) -> Path {
    Path::from(object.to_string())
}

fn failed(object: Uuid, err: object_store::Error) -> Error {
    Error::Object { object, err }
}

/// The host that a bucket's name is put before.
fn amazon(region: &str) -> String {
    match region {
        "us-east-1" => "s3.amazonaws.com".to_owned(),
        region if region.starts_with("cn-") => format!("s3.{region}.amazonaws.com.cn"),
        region => format!("s3.{region}.amazonaws.com"),
    }
}

fn retry() -> RetryConfig {
    RetryConfig { retry_timeout: RETRY, ..RetryConfig::default() }
}

fn client() -> ClientOptions {
    // Contents may be large: what is limited is silence.
    ClientOptions::new().with_timeout_disabled().with_read_timeout(SILENCE).with_connect_timeout(CONNECT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::settings::Secret;

    #[tokio::test]
    async fn addresses_are_those_of_amazon_or_of_the_endpoint() {
        for (bucket, region, endpoint, begin) in [
            ("blobs", "us-east-1", None, "https://blobs.s3.amazonaws.com/"),
            ("blobs", "eu-west-1", None, "https://blobs.s3.eu-west-1.amazonaws.com/"),
            ("my.blobs", "eu-west-1", None, "https://s3.eu-west-1.amazonaws.com/my.blobs/"),
            ("blobs", "x", Some("http://127.0.0.1:9000/"), "http://127.0.0.1:9000/blobs/"),
        ] {
            let keys = S3Keys::Given { id: "id".to_owned(), secret: Secret::new("secret"), token: None };
            let endpoint = endpoint.map(|url| url.parse().unwrap());
            let settings = S3 { bucket: bucket.to_owned(), region: region.to_owned(), endpoint, keys, make: false };
            let object = Uuid::new_v4();
            let address = Bucket::s3(&settings).unwrap().address(object).await.unwrap();
            assert!(address.as_str().starts_with(&format!("{begin}{object}?X-Amz-")), "{address}");
            let query = address.query().unwrap();
            assert!(query.contains("X-Amz-Expires=600") && !query.contains("secret"), "{query}");
        }
    }
}
