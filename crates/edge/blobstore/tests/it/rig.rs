//! A blob store on a database of its own, and a client of it.

use axum::body::Body;
use base64::Engine as _;
use bytes::Bytes;
use flynn_blobstore::{Config, serve};
use flynn_test_postgres::Database;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
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
    pub(crate) async fn start() -> Self {
        Self::start_on(Database::empty().await).await
    }

    pub(crate) async fn start_on(database: Database) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("an address");
        let config = Config { database: database.options(), version: "v1".to_owned() };
        let shutdown = CancellationToken::new();
        let serving = AbortOnDropHandle::new(tokio::spawn(serve(config, listener, None, shutdown.clone())));
        let http = legacy::Client::builder(TokioExecutor::new()).build_http();
        Self { database, address, http, shutdown: shutdown.drop_guard(), serving }
    }

    /// Ends it as SIGTERM does; gives its database.
    pub(crate) async fn stop(self) -> Database {
        drop(self.shutdown);
        self.serving.await.expect("no panic").expect("a good end");
        self.database
    }

    pub(crate) async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Body) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
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
