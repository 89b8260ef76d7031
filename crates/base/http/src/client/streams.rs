//! Answers that go on: event streams, downloads, upgraded connections.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use flynn_types::error::{ApiError, ErrorCode};
use futures_util::{Stream, StreamExt as _};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::success;
use super::{Client, ClientError, Hijacked};
use crate::Item;
use crate::parser::{EventParser, RawEvent};

/// Silence after which an event stream counts as broken: servers send something every 30 s.
const EVENT_SILENCE: Duration = Duration::from_secs(75);

pub(super) type RawEvents = Pin<Box<dyn Stream<Item = Result<RawEvent, ClientError>> + Send>>;

/// An open download.
pub struct Download {
    pub status: u16,
    /// In bytes, when the server says it.
    pub length: Option<u64>,
    pub bytes: Pin<Box<dyn Stream<Item = Result<Bytes, ClientError>> + Send>>,
}

impl Client {
    /// Opens an event stream. It ends when the connection does; an error event ends it with that error.
    pub async fn events<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<impl Stream<Item = Result<T, ClientError>> + Send + Unpin + use<T>, ClientError> {
        let items = self.events_after(path, None).await?;
        Ok(items.map(|item| item.map(|item| item.data)))
    }

    /// Like [`Client::events`], after the event that had this id, with the ids to resume after next time.
    pub async fn events_after<T: DeserializeOwned>(
        &self,
        path: &str,
        last_id: Option<&str>,
    ) -> Result<impl Stream<Item = Result<Item<T>, ClientError>> + Send + Unpin + use<T>, ClientError> {
        let url = self.url(path);
        let events = self.raw_events(&url, last_id).await?;
        Ok(events.map(move |event| {
            let event = event?;
            Ok(Item { data: decode(&event, &url)?, id: event.id })
        }))
    }

    pub(super) async fn raw_events(&self, url: &str, last_id: Option<&str>) -> Result<RawEvents, ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(id) = last_id.and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert("last-event-id", id);
        }
        let opened = async { success(self.request(Method::GET, url, None, &headers).await?, url).await };
        let response = self.in_time(url, opened).await?;
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            let reason = format!("content type {kind:?} where an event stream was expected");
            return Err(ClientError::Decode { url: url.to_owned(), reason });
        }
        Ok(Box::pin(parse(body(response, url, EVENT_SILENCE), url.to_owned())))
    }

    /// Opens a download: its length, if the server says it, and its bytes.
    pub async fn open(&self, path: &str, headers: &HeaderMap) -> Result<Download, ClientError> {
        self.download(self.url(path), headers, None).await
    }

    /// Like [`Client::open`] with a JSON body in the request.
    pub async fn open_with<B: Serialize + ?Sized>(
        &self,
        path: &str,
        headers: &HeaderMap,
        body: &B,
    ) -> Result<Download, ClientError> {
        let body = self.encode(body)?;
        self.download(self.url(path), headers, Some(body)).await
    }

    async fn download(&self, url: String, headers: &HeaderMap, sent: Option<Bytes>) -> Result<Download, ClientError> {
        let opened = async { success(self.request(Method::GET, &url, sent, headers).await?, &url).await };
        let response = self.in_time(&url, opened).await?;
        let status = response.status().as_u16();
        let length = response.headers().get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok());
        Ok(Download { status, length, bytes: body(response, &url, self.stall_limit) })
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
        let switched = async {
            let response = self.request(Method::POST, &url, Some(body), &headers).await?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                success(response, &url).await?;
                return Err(ClientError::Decode {
                    url: url.clone(),
                    reason: "the server did not switch protocols".into(),
                });
            }
            let upgraded = hyper::upgrade::on(response).await;
            upgraded.map_err(|err| ClientError::Broken { url: url.clone(), reason: err.to_string() })
        };
        Ok(Hijacked::new(TokioIo::new(self.in_time(&url, switched).await?)))
    }
}

/// The bytes of a body; silence for longer than `limit` is an error.
fn body(
    response: Response<Incoming>,
    url: &str,
    limit: Duration,
) -> Pin<Box<dyn Stream<Item = Result<Bytes, ClientError>> + Send>> {
    let state = Some((response.into_body().into_data_stream(), url.to_owned()));
    Box::pin(futures_util::stream::unfold(state, move |state| async move {
        let (mut body, url) = state?;
        let reason = match tokio::time::timeout(limit, body.next()).await {
            Ok(Some(Ok(bytes))) => return Some((Ok(bytes), Some((body, url)))),
            Ok(None) => return None,
            Ok(Some(Err(err))) => err.to_string(),
            Err(_) => format!("nothing came for {} s", limit.as_secs()),
        };
        Some((Err(ClientError::Broken { url, reason }), None))
    }))
}

fn parse(
    body: impl Stream<Item = Result<Bytes, ClientError>> + Send + Unpin,
    url: String,
) -> impl Stream<Item = Result<RawEvent, ClientError>> + Send {
    let state = Some((body, EventParser::default(), url));
    futures_util::stream::unfold(state, |state| async move {
        let (mut body, mut parser, url) = state?;
        loop {
            match parser.next_event() {
                Ok(Some(event)) if event.event == "error" => {
                    let error = ApiError::new(ErrorCode::Unknown, event.data).retryable();
                    return Some((Err(ClientError::Status { status: 200, error }), None));
                }
                Ok(Some(event)) => return Some((Ok(event), Some((body, parser, url)))),
                Ok(None) => {}
                Err(reason) => return Some((Err(ClientError::Decode { url, reason }), None)),
            }
            match body.next().await? {
                Ok(bytes) => parser.push(&bytes),
                Err(err) => return Some((Err(err), None)),
            }
        }
    })
}

pub(super) fn decode<T: DeserializeOwned>(event: &RawEvent, url: &str) -> Result<T, ClientError> {
    serde_json::from_str(&event.data)
        .map_err(|err| ClientError::Decode { url: url.to_owned(), reason: err.to_string() })
}
