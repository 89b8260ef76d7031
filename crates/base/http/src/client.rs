//! A client of our own services: JSON, event streams, downloads, upgrades.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use flynn_types::error::{ApiError, ErrorCode};
use futures_util::{Stream, StreamExt as _};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::parser::EventParser;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for an answer's headers where the caller sets none.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const REDIRECTS: u32 = 10;
/// Longest JSON answer in bytes.
const MAX_ANSWER: usize = 256 << 20;

/// Why a request gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("invalid URL {0:?}")]
    Url(String),
    #[error("connect to {url}: {reason}")]
    Connect { url: String, reason: String },
    #[error("no answer from {url} within {} s", after.as_secs())]
    Timeout { url: String, after: Duration },
    /// The server's own words.
    #[error("{error}")]
    Status { status: u16, error: ApiError },
    #[error("unexpected answer from {url}: {reason}")]
    Decode { url: String, reason: String },
    #[error("connection to {url} broke: {reason}")]
    Broken { url: String, reason: String },
}

impl ClientError {
    /// Whether the same request may succeed later without anybody's help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } | Self::Broken { .. } => true,
            Self::Status { error, .. } => error.retry,
            Self::Url(_) | Self::Decode { .. } => false,
        }
    }

    /// Status of the answer, if there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }
}

/// A client of one server. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub struct Client {
    base: String,
    inner: legacy::Client<HttpConnector, Full<Bytes>>,
    authorization: Option<HeaderValue>,
    headers: HeaderMap,
    timeout: Duration,
}

impl Client {
    /// A client of the server at `base`, such as `http://10.0.0.1:1113`.
    pub fn new(base: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        connector.set_keepalive(Some(Duration::from_secs(180)));
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Self { base: base.trim_end_matches('/').to_owned(), inner, authorization: None, headers: HeaderMap::new(), timeout: REQUEST_TIMEOUT }
    }

    /// Sends the key as the password of HTTP Basic.
    #[must_use]
    pub fn with_basic_auth(mut self, key: &str) -> Self {
        let encoded = base64::prelude::BASE64_STANDARD.encode(format!(":{key}"));
        self.authorization = HeaderValue::from_str(&format!("Basic {encoded}")).ok();
        self
    }

    /// Sends these headers with every request; invalid ones are left out.
    #[must_use]
    pub fn with_headers<'a>(mut self, headers: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) = (name.parse::<header::HeaderName>(), HeaderValue::from_str(value)) {
                self.headers.insert(name, value);
            }
        }
        self
    }

    /// Longest wait for an answer's headers, and for the body of one that is read whole.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// GET, the answer as JSON.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.exchange(Method::GET, path, None).await
    }

    /// Sends JSON, reads JSON.
    pub async fn send_json<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = self.encode(body)?;
        self.exchange(method, path, Some(body)).await
    }

    /// Sends JSON; only success matters.
    pub async fn put_json<B: Serialize + ?Sized>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<(), ClientError> {
        let body = self.encode(body)?;
        self.collect(method, path, Some(body)).await.map(drop)
    }

    /// Sends without a body; only success matters.
    pub async fn send(&self, method: Method, path: &str) -> Result<(), ClientError> {
        self.collect(method, path, None).await.map(drop)
    }

    fn encode<B: Serialize + ?Sized>(&self, body: &B) -> Result<Bytes, ClientError> {
        let encoded = serde_json::to_vec(body);
        encoded.map(Bytes::from).map_err(|err| ClientError::Decode { url: self.base.clone(), reason: err.to_string() })
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<T, ClientError> {
        let (url, bytes) = self.collect(method, path, body).await?;
        serde_json::from_slice(&bytes).map_err(|err| ClientError::Decode { url, reason: err.to_string() })
    }

    async fn collect(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<(String, Bytes), ClientError> {
        let url = self.url(path);
        let work = async {
            let response = self.request(method, &url, body, &HeaderMap::new()).await?;
            let response = success(response, &url).await?;
            read(response, &url, MAX_ANSWER).await
        };
        match tokio::time::timeout(self.timeout, work).await {
            Ok(bytes) => Ok((url.clone(), bytes?)),
            Err(_) => Err(ClientError::Timeout { url, after: self.timeout }),
        }
    }

    fn url(&self, path: &str) -> String {
        if path.starts_with("http://") { path.to_owned() } else { format!("{}{path}", self.base) }
    }

    /// Sends a request and follows redirects that keep method and body.
    async fn request(
        &self,
        method: Method,
        url: &str,
        body: Option<Bytes>,
        extra: &HeaderMap,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut target = url.to_owned();
        for _ in 0..=REDIRECTS {
            let request = self.build(method.clone(), &target, body.clone(), extra)?;
            let response = self.inner.request(request).await.map_err(|err| connect_error(&target, &err))?;
            let redirect = matches!(response.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
            match response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()) {
                Some(location) if redirect => {
                    let base = url::Url::parse(&target).map_err(|_| ClientError::Url(target.clone()))?;
                    target = base.join(location).map_err(|_| ClientError::Url(location.to_owned()))?.into();
                }
                _ => return Ok(response),
            }
        }
        Err(ClientError::Decode { url: url.to_owned(), reason: format!("more than {REDIRECTS} redirects") })
    }

    fn build(
        &self,
        method: Method,
        url: &str,
        body: Option<Bytes>,
        extra: &HeaderMap,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let invalid = || ClientError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| invalid())?;
        let mut request = Request::new(Full::new(body.unwrap_or_default()));
        (*request.method_mut(), *request.uri_mut()) = (method, uri);
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        headers.extend(self.headers.clone());
        headers.extend(extra.clone());
        Ok(request)
    }

    /// Opens an event stream. It ends when the connection does; an error event ends it with that error.
    pub async fn events<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<impl Stream<Item = Result<T, ClientError>> + Send + Unpin + use<T>, ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        let url = self.url(path);
        let opened = self.request(Method::GET, &url, None, &headers);
        let response = self.in_time(&url, opened).await?;
        let body = success(response, &url).await?.into_body();
        Ok(Box::pin(decode_events(body, url)))
    }

    /// Opens a download: its length, if the server says it, and its bytes.
    pub async fn open(&self, path: &str, headers: &HeaderMap) -> Result<Download, ClientError> {
        let url = self.url(path);
        let response = self.in_time(&url, self.request(Method::GET, &url, None, headers)).await?;
        self.download(response, url).await
    }

    /// Like [`Client::open`] with a JSON body in the request.
    pub async fn open_with<B: Serialize + ?Sized>(
        &self,
        path: &str,
        headers: &HeaderMap,
        body: &B,
    ) -> Result<Download, ClientError> {
        let (url, body) = (self.url(path), self.encode(body)?);
        let response = self.in_time(&url, self.request(Method::GET, &url, Some(body), headers)).await?;
        self.download(response, url).await
    }

    async fn download(&self, response: Response<Incoming>, url: String) -> Result<Download, ClientError> {
        let response = success(response, &url).await?;
        let status = response.status().as_u16();
        let length = response.headers().get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
        let bytes = response
            .into_body()
            .into_data_stream()
            .map(move |piece| piece.map_err(|err| ClientError::Broken { url: url.clone(), reason: err.to_string() }));
        Ok(Download { status, length, bytes: Box::pin(bytes) })
    }

    async fn in_time<T>(
        &self,
        url: &str,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        match tokio::time::timeout(self.timeout, work).await {
            Ok(done) => done,
            Err(_) => Err(ClientError::Timeout { url: url.to_owned(), after: self.timeout }),
        }
    }

    /// Posts JSON and takes the connection over after a 101 answer.
    pub async fn upgrade<B: Serialize + ?Sized>(
        &self,
        path: &str,
        body: &B,
        protocol: &'static str,
    ) -> Result<Hijacked, ClientError> {
        let (url, body) = (self.url(path), self.encode(body)?);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
        let response = self.in_time(&url, self.request(Method::POST, &url, Some(body), &headers)).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            success(response, &url).await?;
            return Err(ClientError::Decode { url, reason: "the server did not switch protocols".into() });
        }
        match hyper::upgrade::on(response).await {
            Ok(upgraded) => Ok(Hijacked(TokioIo::new(upgraded))),
            Err(err) => Err(ClientError::Broken { url, reason: err.to_string() }),
        }
    }
}

/// An open download.
pub struct Download {
    pub status: u16,
    /// In bytes, when the server says it.
    pub length: Option<u64>,
    pub bytes: Pin<Box<dyn Stream<Item = Result<Bytes, ClientError>> + Send>>,
}

fn connect_error(url: &str, err: &legacy::Error) -> ClientError {
    let mut reason = err.to_string();
    let mut source = std::error::Error::source(err);
    while let Some(err) = source {
        reason = err.to_string(); // the innermost says what happened
        source = err.source();
    }
    let url = url.to_owned();
    if err.is_connect() { ClientError::Connect { url, reason } } else { ClientError::Broken { url, reason } }
}

/// 200 and 206 are successes; everything else becomes an error with what the server said.
async fn success(response: Response<Incoming>, url: &str) -> Result<Response<Incoming>, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = read(response, url, 1 << 20).await.unwrap_or_default();
    let error = serde_json::from_slice(&body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&body);
        let text = if text.trim().is_empty() { format!("{url} answered {status}") } else { text.trim().to_owned() };
        let code = if status == StatusCode::NOT_FOUND { ErrorCode::NotFound } else { ErrorCode::Unknown };
        ApiError::new(code, text)
    });
    Err(ClientError::Status { status: status.as_u16(), error })
}

async fn read(response: Response<Incoming>, url: &str, limit: usize) -> Result<Bytes, ClientError> {
    let collected = http_body_util::Limited::new(response.into_body(), limit).collect().await;
    let collected = collected.map_err(|err| ClientError::Broken { url: url.to_owned(), reason: err.to_string() })?;
    Ok(collected.to_bytes())
}

fn decode_events<T: DeserializeOwned>(
    body: Incoming,
    url: String,
) -> impl Stream<Item = Result<T, ClientError>> + Send {
    let state = Some((body.into_data_stream(), EventParser::default(), url));
    futures_util::stream::unfold(state, |state| async move {
        let (mut body, mut parser, url) = state?;
        loop {
            match parser.next_event() {
                Ok(Some(event)) if event.event == "error" => {
                    let error = ApiError::new(ErrorCode::Unknown, event.data).retryable();
                    return Some((Err(ClientError::Status { status: 200, error }), None));
                }
                Ok(Some(event)) => match serde_json::from_str(&event.data) {
                    Ok(item) => return Some((Ok(item), Some((body, parser, url)))),
                    Err(err) => return Some((Err(ClientError::Decode { url, reason: err.to_string() }), None)),
                },
                Ok(None) => {}
                Err(reason) => return Some((Err(ClientError::Decode { url, reason }), None)),
            }
            match body.next().await? {
                Ok(bytes) => parser.push(&bytes),
                Err(err) => return Some((Err(ClientError::Broken { url, reason: err.to_string() }), None)),
            }
        }
    })
}

/// A connection that was taken over after a 101 answer.
pub struct Hijacked(TokioIo<hyper::upgrade::Upgraded>);

impl AsyncRead for Hijacked {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Hijacked {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
