//! Requests to the authority: with a limit in time and size, and with an eye on `Retry-After`.

use std::pin::Pin;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flynn_http::Client;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt as _, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls_pki_types::CertificateDer;

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer in bytes; chains have some thousand.
const MAX_ANSWER: usize = 1 << 20;

/// The way to one authority. Clones share their connections.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    client: Client,
    /// The last pause that the server asked for with an error.
    retry_after: Arc<Mutex<Option<Duration>>>,
}

impl Transport {
    pub(crate) fn new(directory: &str, roots: Option<&[CertificateDer<'static>]>) -> Self {
        let client = match roots {
            Some(roots) => Client::with_roots(directory, roots.iter().cloned()),
            None => Client::new(directory),
        };
        Self { client: client.with_timeout(TIMEOUT), retry_after: Arc::default() }
    }

    /// The same connections for an order of its own: pauses asked for in others are not its own.
    pub(crate) fn for_order(&self) -> Self {
        Self { client: self.client.clone(), retry_after: Arc::default() }
    }

    /// The pause that the server asked for.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            let request = Request::from_parts(head, body.to_bytes());
            let response =
                this.client.send_as_is(request, MAX_ANSWER).await.map_err(|err| Error::Other(Box::new(err)))?;
            if response.status().is_client_error() || response.status().is_server_error() {
                let asked = retry_after(response.headers(), SystemTime::now());
                *this.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = asked;
            }
            Ok(BytesResponse::from(response.map(Full::new)))
        })
    }
}

/// Seconds, or a date (RFC 9110 section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = u64::from_str(value) {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(value).ok()?;
    SystemTime::from(date).duration_since(now).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_717);
        for (value, pause) in [
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", None),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), pause.map(Duration::from_secs), "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
