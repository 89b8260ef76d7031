//! A client of our own services: JSON, event streams, downloads, upgrades.

mod connector;
mod error;
mod follow;
mod hijacked;
mod names;
mod streams;

use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::Backoff;
use connector::Connector;
use error::{connect_error, read, success};
use names::Names;

pub use error::ClientError;
pub use follow::{Follow, Followed};
pub use hijacked::Hijacked;
pub use names::Addresses;
pub use streams::Download;

/// Longest wait for an answer's headers where the caller sets none.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest silence within a download.
const STALL_LIMIT: Duration = Duration::from_secs(120);
const REDIRECTS: u32 = 10;
/// Longest JSON answer in bytes.
const MAX_ANSWER: usize = 256 << 20;

/// A client of one server. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub struct Client {
    base: String,
    inner: legacy::Client<Connector, Full<Bytes>>,
    authorization: Option<HeaderValue>,
    headers: HeaderMap,
    timeout: Duration,
    stall_limit: Duration,
    connect_patience: Duration,
}

/// An id as a segment of a path: everything but letters, digits and `-._~:` is escaped (RFC 3986 section 3.3).
pub fn path_segment(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' | b':' => out.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => out.push(byte.into()),
            _ => {
                let _ = write!(out, "%{byte:02X}"); // into memory
            }
        }
    }
    // Alone, these would be taken for steps in the path.
    if matches!(text, "." | "..") { out.replace('.', "%2E") } else { out }
}

impl Client {
    /// A client of the server at `base`, such as `http://10.0.0.1:1113`. Servers of `https` need a certificate that
    /// the system trusts.
    pub fn new(base: &str) -> Self {
        Self::with_connector(base, Connector::new(Names::of_system(), None))
    }

    /// Like [`Client::new`], trusting these authorities and no others.
    pub fn with_roots(base: &str, roots: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        Self::with_connector(base, Connector::new(Names::of_system(), Some(roots.into_iter().collect())))
    }

    /// Like [`Client::new`], with a way of its own to the addresses of names; where that gives `None`, the system's.
    pub fn with_lookup(base: &str, lookup: impl Fn(&str) -> Option<Addresses> + Send + Sync + 'static) -> Self {
        Self::with_connector(base, Connector::new(Names::with(lookup), None))
    }

    fn with_connector(base: &str, connector: Connector) -> Self {
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Self {
            base: base.trim_end_matches('/').to_owned(),
            inner,
            authorization: None,
            headers: HeaderMap::new(),
            timeout: REQUEST_TIMEOUT,
            stall_limit: STALL_LIMIT,
            connect_patience: Duration::ZERO,
        }
    }

    /// Sends the key as the password of HTTP Basic, but not to another host that the server redirects to.
    #[must_use]
    pub fn with_basic_auth(mut self, key: &str) -> Self {
        let encoded = base64::prelude::BASE64_STANDARD.encode(format!(":{key}"));
        self.authorization = HeaderValue::from_str(&format!("Basic {encoded}")).ok().map(|mut value| {
            value.set_sensitive(true);
            value
        });
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

    /// Longest silence within a download; 120 s unless told.
    #[must_use]
    pub fn with_stall_limit(mut self, limit: Duration) -> Self {
        self.stall_limit = limit;
        self
    }

    /// Goes on connecting for so long when nothing listens, for example while a daemon starts (spec flynn-host section
    /// 4.1: 30 s, every 500 ms). Counts towards the timeout.
    #[must_use]
    pub fn with_connect_patience(mut self, patience: Duration) -> Self {
        self.connect_patience = patience;
        self
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// GET, the answer as JSON.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.exchange(Method::GET, path, None).await
    }

    /// GET, the answer as text; what is no UTF-8 is replaced.
    pub async fn get_text(&self, path: &str) -> Result<String, ClientError> {
        let (_, bytes) = self.collect(Method::GET, path, None).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
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

    /// Sends a request to its own URI with its own headers, and reads the answer whole, whatever its status: for
    /// protocols of others. Redirects are not followed.
    ///
    /// # Errors
    /// When there is no answer in time, or one of more than `max_answer` bytes.
    pub async fn send_as_is(&self, request: Request<Bytes>, max_answer: usize) -> Result<Response<Bytes>, ClientError> {
        let url = request.uri().to_string();
        let work = async {
            let sent = self.inner.request(request.map(Full::new)).await;
            let response = sent.map_err(|err| connect_error(&url, &err))?;
            let status = response.status();
            let headers = response.headers().clone();
            let mut answer = Response::new(read(response, &url, max_answer).await?);
            (*answer.status_mut(), *answer.headers_mut()) = (status, headers);
            Ok(answer)
        };
        self.in_time(&url, work).await
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
        let absolute = path.starts_with("http://") || path.starts_with("https://");
        if absolute { path.to_owned() } else { format!("{}{path}", self.base) }
    }

    /// Sends a request and follows redirects. Those of GET may be of any kind, others must keep method and body.
    async fn request(
        &self,
        method: Method,
        url: &str,
        body: Option<Bytes>,
        extra: &HeaderMap,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut target = url.to_owned();
        let mut trusted = true;
        for _ in 0..=REDIRECTS {
            let response = self.connect_and_send(&method, &target, body.as_ref(), extra, trusted).await?;
            let redirects = match response.status() {
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
                StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => method == Method::GET,
                _ => false,
            };
            match response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()) {
                Some(location) if redirects => {
                    let from = url::Url::parse(&target).map_err(|_| ClientError::Url(target.clone()))?;
                    let to = from.join(location).map_err(|_| ClientError::Url(location.to_owned()))?;
                    trusted &= from.host_str() == to.host_str() && from.scheme() == to.scheme();
                    target = to.into();
                }
                _ => return Ok(response),
            }
        }
        Err(ClientError::Decode { url: url.to_owned(), reason: format!("more than {REDIRECTS} redirects") })
    }

    async fn connect_and_send(
        &self,
        method: &Method,
        url: &str,
        body: Option<&Bytes>,
        extra: &HeaderMap,
        trusted: bool,
    ) -> Result<Response<Incoming>, ClientError> {
        let deadline = Instant::now() + self.connect_patience;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        loop {
            let request = self.build(method.clone(), url, body.cloned(), extra, trusted)?;
            match self.inner.request(request).await {
                Ok(response) => return Ok(response),
                Err(err) => {
                    let pause = backoff.pause();
                    if !err.is_connect() || Instant::now() + pause >= deadline {
                        return Err(connect_error(url, &err));
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    fn build(
        &self,
        method: Method,
        url: &str,
        body: Option<Bytes>,
        extra: &HeaderMap,
        trusted: bool,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let invalid = || ClientError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| invalid())?;
        if uri.host().is_none() {
            return Err(invalid());
        }
        let mut request = Request::new(Full::new(body.unwrap_or_default()));
        (*request.method_mut(), *request.uri_mut()) = (method, uri);
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.extend(self.headers.clone());
        headers.extend(extra.clone());
        if let Some(authorization) = self.authorization.as_ref().filter(|_| trusted) {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        Ok(request)
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_leaves_its_segment() {
        for (id, segment) in [
            ("host1-5f2c6f0e", "host1-5f2c6f0e"),
            ("../host/update", "..%2Fhost%2Fupdate"),
            ("..", "%2E%2E"),
            ("a b?c#d%", "a%20b%3Fc%23d%25"),
            ("ü", "%C3%BC"),
        ] {
            assert_eq!(path_segment(id), segment);
        }
    }
}
