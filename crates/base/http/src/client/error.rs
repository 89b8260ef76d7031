//! Why requests fail.

use bytes::Bytes;
use std::time::Duration;

use flynn_types::error::{ApiError, ErrorCode};
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::client::legacy;

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

pub(super) fn connect_error(url: &str, err: &legacy::Error) -> ClientError {
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
pub(super) async fn success(response: Response<Incoming>, url: &str) -> Result<Response<Incoming>, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = read(response, url, 1 << 20).await.unwrap_or_default();
    let error = serde_json::from_slice(&body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&body);
        let text = if text.trim().is_empty() { format!("{url} answered {status}") } else { text.trim().to_owned() };
        let code = if status == StatusCode::NOT_FOUND { ErrorCode::NotFound } else { ErrorCode::Unknown };
        // Whatever stands before the server, or a server that is about to end: it may be another one's turn soon.
        let passes = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        ApiError { retry: passes, ..ApiError::new(code, text) }
    });
    Err(ClientError::Status { status: status.as_u16(), error })
}

pub(super) async fn read(response: Response<Incoming>, url: &str, limit: usize) -> Result<Bytes, ClientError> {
    let collected = http_body_util::Limited::new(response.into_body(), limit).collect().await;
    let collected = collected.map_err(|err| ClientError::Broken { url: url.to_owned(), reason: err.to_string() })?;
    Ok(collected.to_bytes())
}
