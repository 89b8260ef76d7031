//! A blob store on a database of its own, and a client of it.

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use base64::Engine as _;
use bytes::Bytes;
use flynn_blobstore::{Config, Settings, serve};
use flynn_test_postgres::Database;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

/// A running blob store. It ends with the test.
pub(crate) struct Blobstore {
    pub(crate) database: Database,
    pub(crate) address: std::net::SocketAddr,
    http: legacy::Client<HttpConnector, Body>,
    shutdown: DropGuard,
    serving: AbortOnDropHandle<Result<(), flynn_blobstore::ServeError>>,
    /// Where contents are, when they are not in the database.
    folder: Option<Arc<TempDir>>,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("(none)", |value| value.to_str().expect("ASCII"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }
}

impl Blobstore {
    /// One of each kind, by where contents are.
    pub(crate) async fn each() -> [Self; 2] {
        let folder = Arc::new(tempfile::tempdir().expect("a folder"));
        let mut local = Self::start_in(folder.path()).await;
        local.folder = Some(folder);
        [Self::start_on(Database::empty().await).await, local]
    }

    pub(crate) async fn start_on(database: Database) -> Self {
        Self::start_with(database, Settings::default()).await
    }

    /// New contents go to a folder.
    pub(crate) async fn start_in(folder: &Path) -> Self {
        Self::start_with(Database::empty().await, settings(folder, "local")).await
    }

    pub(crate) async fn start_with(database: Database, backends: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("an address");
        let config = Config { database: database.options(), backends, version: "v1".to_owned() };
        let shutdown = CancellationToken::new();
        let serving = AbortOnDropHandle::new(tokio::spawn(serve(config, listener, None, shutdown.clone())));
        let http = legacy::Client::builder(TokioExecutor::new()).build_http();
        Self { database, address, http, shutdown: shutdown.drop_guard(), serving, folder: None }
    }

    /// Ends it as SIGTERM does, and starts another one with the same contents.
    pub(crate) async fn restart(self) -> Self {
        drop(self.shutdown);
        self.serving.await.expect("no panic").expect("a good end");
        let settings = self.folder.as_ref().map_or_else(Settings::default, |folder| settings(folder.path(), "local"));
        let next = Self::start_with(self.database, settings).await;
        Self { folder: self.folder, ..next }
    }

    /// How many contents there are, whole or not, with a name or without.
    pub(crate) async fn contents(&self) -> i64 {
        let Some(folder) = &self.folder else {
            let count = sqlx::query_scalar("SELECT count(*) FROM pg_largeobject_metadata");
            return count.fetch_one(&mut self.database.connect().await).await.expect("a number");
        };
        files_below(folder.path())
    }

    /// Waits until there are so many.
    pub(crate) async fn wait_for_contents(&self, count: i64) {
        let waiting = async {
            while self.contents().await != count {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(flynn_patience::seconds(30), waiting).await;
        waited.unwrap_or_else(|_| panic!("waited in vain for {count} contents"));
    }

    /// Why it does not run.
    pub(crate) async fn ended(self) -> String {
        let ended = tokio::time::timeout(flynn_patience::seconds(60), self.serving).await.expect("it ends in time");
        flynn_types::error::with_causes(&ended.expect("no panic").expect_err("an error"))
    }

    pub(crate) async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Body) -> Answer {
        self.request(method, &format!("http://{}{path}", self.address), headers, body).await
    }

    /// Gets something from another server.
    pub(crate) async fn fetch(&self, url: &str, headers: &[(&str, &str)]) -> Answer {
        self.request(Method::GET, url, headers, Body::empty()).await
    }

    /// Gets a file from where the answer says that it is.
    pub(crate) async fn follow(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let answer = self.get_with(path, headers).await;
        assert_eq!(answer.status, 302, "GET {path}");
        self.fetch(answer.header("location"), headers).await
    }

    async fn request(&self, method: Method, url: &str, headers: &[(&str, &str)], body: Body) -> Answer {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answered = async {
            let response = self.http.request(request.body(body).expect("a request")).await.expect("an answer");
            let (parts, body) = response.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            Answer { status: parts.status.as_u16(), headers: parts.headers, body }
        };
        tokio::time::timeout(flynn_patience::seconds(60), answered).await.expect("an answer in time")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(Method::GET, path, headers, Body::empty()).await
    }

    pub(crate) async fn head(&self, path: &str) -> Answer {
        self.send(Method::HEAD, path, &[], Body::empty()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], Body::empty()).await
    }

    /// Stores a file, which must succeed.
    pub(crate) async fn put(&self, path: &str, content: impl Into<Bytes>, headers: &[(&str, &str)]) {
        let answer = self.send(Method::PUT, path, headers, Body::from(content.into())).await;
        assert_eq!((answer.status, answer.text()), (200, ""), "PUT {path}");
    }

    /// What `GET /?dir=` gives.
    pub(crate) async fn list(&self, directory: &str) -> Vec<String> {
        let answer = self.get(&format!("/?dir={directory}")).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "text/plain; charset=utf-8"));
        assert!(answer.text().ends_with("]\n"), "{}", answer.text());
        serde_json::from_slice(&answer.body).expect("a list")
    }
}

/// Files in the folders of a folder.
pub(crate) fn files_below(folder: &Path) -> i64 {
    let entries = |path: &Path| std::fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries(folder).map(|path| entries(&path).count() as i64).sum()
}

/// A folder besides the database, and which of them is for new contents.
pub(crate) fn settings(folder: &Path, default: &str) -> Settings {
    let path = folder.to_str().expect("a path of ours");
    variables(&[("BACKEND", "local"), ("LOCAL_PATH", path), ("DEFAULT_BACKEND", default)])
}

/// What these variables say.
pub(crate) fn variables(vars: &[(&str, &str)]) -> Settings {
    let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Settings::from_vars(vars).expect("settings")
}

/// The tag of a content.
pub(crate) fn etag(content: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, content);
    format!("\"{}\"", base64::prelude::BASE64_STANDARD.encode(digest))
}

/// Bytes that are different everywhere.
pub(crate) fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rand::Rng::fill(&mut rand::rng(), &mut bytes[..]);
    bytes
}
