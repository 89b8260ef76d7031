//! A controller on a database of its own, and a client of it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::Pin;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use bytes::Bytes;
use flynn_controller::{Config, Discovery, serve};
use flynn_http::Client;
use flynn_test_postgres::Database;
use flynn_types::controller::{App, Event, Release};
use flynn_types::error::ApiError;
use flynn_types::image::Artifact;
use futures_util::{Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub(crate) const KEY: &str = "test-key";

/// A running controller. It ends with the test.
pub(crate) struct Controller {
    pub(crate) database: Database,
    pub(crate) url: String,
    pub(crate) shutdown: CancellationToken,
    http: legacy::Client<legacy::connect::HttpConnector, Body>,
    _serving: AbortOnDropHandle<()>,
}

/// An answer, read whole.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/json");
        serde_json::from_slice(&self.body).unwrap_or_else(|err| panic!("{err}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// 200 without a body.
    #[track_caller]
    pub(crate) fn empty(&self) {
        assert_eq!((self.status, &*self.body), (StatusCode::OK, &b""[..]), "{}", self.text());
    }

    /// 404 without a body, which clients take for "no such object" (T2).
    #[track_caller]
    pub(crate) fn not_found(&self) {
        assert_eq!((self.status, &*self.body), (StatusCode::NOT_FOUND, &b""[..]), "{}", self.text());
        assert!(!self.headers.contains_key(header::CONTENT_TYPE));
    }

    /// An error in JSON.
    #[track_caller]
    pub(crate) fn error(&self, status: u16, message: &str) -> ApiError {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        let error: ApiError = serde_json::from_slice(&self.body).expect("an error in JSON");
        assert_eq!(error.message, message);
        assert!(!error.retry || status >= 500, "users' mistakes are not to be sent again: {}", self.text());
        error
    }
}

impl Controller {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(Self::database().await, None, change).await
    }

    /// A migrated database.
    pub(crate) async fn database() -> Database {
        Database::create(|options| async move {
            let mut connection = sqlx::PgConnection::connect_with(&options).await.expect("connect");
            flynn_controller::migrate(&mut connection).await.expect("migrate");
        })
        .await
    }

    pub(crate) async fn start_in(
        database: Database,
        discovery: Option<Discovery>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config::new(KEY);
        change(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let shutdown = CancellationToken::new();
        let serving = serve(config, database.options(), listener, discovery, shutdown.clone());
        let serving = AbortOnDropHandle::new(tokio::spawn(async move { serving.await.expect("serve") }));
        let http = legacy::Client::builder(TokioExecutor::new()).build_http();
        Self { database, url, shutdown, http, _serving: serving }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.url).with_basic_auth(KEY)
    }

    /// A request with exactly these headers.
    pub(crate) async fn raw(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).expect("a request");
        let answered = async {
            let (parts, body) = self.http.request(request).await.expect("an answer").into_parts();
            Answer {
                status: parts.status,
                headers: parts.headers,
                body: body.collect().await.expect("a body").to_bytes(),
            }
        };
        tokio::time::timeout(flynn_patience::seconds(120), answered).await.expect("an answer in time")
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: &Value) -> Answer {
        let authorization = authorization(KEY);
        let headers =
            [("authorization", &*authorization), ("content-type", "application/json"), ("accept", "application/json")];
        self.raw(method, path, &headers, &if body.is_null() { String::new() } else { body.to_string() }).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &Value::Null).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, body).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &Value::Null).await
    }

    pub(crate) async fn app(&self, name: &str) -> App {
        self.post("/apps", &json!({ "name": name })).await.json()
    }

    /// An artifact that needs no download.
    pub(crate) async fn artifact(&self, uri: &str) -> Artifact {
        self.post("/artifacts", &json!({ "type": "flynn", "uri": uri, "manifest": manifest() })).await.json()
    }

    /// A release of an app with an artifact and processes of these types.
    pub(crate) async fn release(&self, app: &App, types: &[&str]) -> Release {
        let artifact = self.artifact(&format!("http://blobstore.discoverd/{}.json", app.name)).await;
        let processes: BTreeMap<_, _> = types.iter().map(|kind| (kind, json!({ "args": ["run", kind] }))).collect();
        let release =
            json!({ "app_id": app.id, "artifacts": [artifact.id], "env": { "A": "1" }, "processes": processes });
        self.post("/releases", &release).await.json()
    }

    /// All events of these types, oldest first.
    pub(crate) async fn events(&self, types: &str) -> Vec<Event> {
        let mut events: Vec<Event> = self.get(&format!("/events?object_types={types}")).await.json();
        events.reverse();
        events
    }

    /// A stream of objects.
    pub(crate) async fn stream<T: DeserializeOwned + Debug + Send + 'static>(&self, path: &str) -> Items<T> {
        let stream = self.client().events::<T>(path).await.expect("open the stream");
        Items(Box::pin(stream.map(|item| item.map_err(|err| err.to_string()))))
    }
}

/// What a stream gives, with a limit to the patience.
pub(crate) struct Items<T>(Pin<Box<dyn Stream<Item = Result<T, String>> + Send>>);

impl<T> Items<T> {
    pub(crate) async fn next(&mut self) -> T {
        self.outcome().await.expect("the stream goes on").expect("an item")
    }

    /// The next item, an error, or the end.
    pub(crate) async fn outcome(&mut self) -> Option<Result<T, String>> {
        tokio::time::timeout(flynn_patience::seconds(60), self.0.next()).await.expect("an item in time")
    }
}

pub(crate) fn authorization(key: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!(":{key}")))
}

/// An image with one layer.
pub(crate) fn manifest() -> Value {
    json!({
        "_type": "application/vnd.flynn.image.manifest.v1+json",
        "entrypoints": { "_default": { "args": ["/bin/app"], "env": { "FROM": "image" }, "cwd": "/app" } },
        "rootfs": [{
            "platform": { "architecture": "amd64", "os": "linux" },
            "layers": [{ "id": "layer1", "type": "application/vnd.flynn.image.squashfs.v1", "length": 5, "hashes": { "sha512_256": "ab" } }]
        }]
    })
}

/// The data of an event.
pub(crate) fn data(event: &Event) -> Value {
    serde_json::from_str(event.data.as_ref().expect("data").get()).expect("JSON")
}
