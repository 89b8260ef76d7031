//! Server-sent events, byte for byte as existing clients want them.

use std::convert::Infallible;
use std::fmt::Display;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use serde::Serialize;

/// Silence after which a keep-alive is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Whether the client asks for an event stream.
pub fn wants_events(headers: &HeaderMap) -> bool {
    let accepts = |value: &header::HeaderValue| value.to_str().is_ok_and(|text| text.contains("text/event-stream"));
    headers.get_all(header::ACCEPT).iter().any(accepts)
}

/// One event with what a client needs to resume after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item<T> {
    /// Sent again by clients as `Last-Event-ID`. Without line breaks.
    pub id: Option<String>,
    pub data: T,
}

/// Answers with an event per item. An error is sent as the last event and ends the stream.
pub fn sse<T, E>(items: impl Stream<Item = Result<T, E>> + Send + 'static) -> Response
where
    T: Serialize + 'static,
    E: Display + 'static,
{
    sse_items(items.map(|item| item.map(|data| Item { id: None, data })))
}

/// Like [`sse`], with a comment after so much silence.
pub fn sse_every<T, E>(items: impl Stream<Item = Result<T, E>> + Send + 'static, keep_alive: Duration) -> Response
where
    T: Serialize + 'static,
    E: Display + 'static,
{
    respond(items.map(|item| item.map(|data| Item { id: None, data })), keep_alive)
}

/// Like [`sse`], for items with ids.
pub fn sse_items<T, E>(items: impl Stream<Item = Result<Item<T>, E>> + Send + 'static) -> Response
where
    T: Serialize + 'static,
    E: Display + 'static,
{
    respond(items, KEEP_ALIVE)
}

fn respond<T, E>(items: impl Stream<Item = Result<Item<T>, E>> + Send + 'static, keep_alive: Duration) -> Response
where
    T: Serialize + 'static,
    E: Display + 'static,
{
    let headers = [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    let frames = frames(items, keep_alive).map(Ok::<_, Infallible>);
    (headers, Body::from_stream(frames)).into_response()
}

fn frames<T, E>(
    items: impl Stream<Item = Result<Item<T>, E>> + Send + 'static,
    keep_alive: Duration,
) -> impl Stream<Item = Bytes> + Send
where
    T: Serialize + 'static,
    E: Display + 'static,
{
    let state = Some(Box::pin(items));
    futures_util::stream::unfold(state, move |state| async move {
        let mut items = state?;
        match tokio::time::timeout(keep_alive, items.next()).await {
            // No empty line: clients would take it for an item.
            Err(_silent) => Some((Bytes::from_static(b":\n"), Some(items))),
            Ok(None) => None,
            Ok(Some(Ok(item))) => match frame(&item) {
                Ok(frame) => Some((frame, Some(items))),
                Err(err) => Some((error_frame(&err), None)),
            },
            Ok(Some(Err(err))) => Some((error_frame(&err), None)),
        }
    })
}

fn frame<T: Serialize>(item: &Item<T>) -> Result<Bytes, serde_json::Error> {
    let mut frame = Vec::with_capacity(256);
    if let Some(id) = &item.id {
        frame.extend_from_slice(b"id: ");
        frame.extend(id.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n' | 0)));
        frame.push(b'\n');
    }
    frame.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut frame, &item.data)?;
    frame.extend_from_slice(b"\n\n");
    Ok(frame.into())
}

fn error_frame(err: &dyn Display) -> Bytes {
    let text = err.to_string().replace(['\r', '\n'], " ");
    Bytes::from(format!("event: error\ndata: {text}\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_has_exactly_the_bytes_that_clients_expect() {
        let item = |id: Option<&str>, data| Item { id: id.map(str::to_owned), data };
        let items = [Ok(item(None, 1)), Ok(item(Some("7\n"), 2)), Err("no\nmore"), Ok(item(None, 3))];
        let bytes: Vec<Bytes> = frames(futures_util::stream::iter(items), KEEP_ALIVE).collect().await;
        assert_eq!(bytes.concat(), b"data: 1\n\nid: 7\ndata: 2\n\nevent: error\ndata: no more\n\n");
        let silent = futures_util::stream::pending::<Result<Item<u8>, String>>();
        let first = Box::pin(frames(silent, Duration::from_millis(1))).next().await.unwrap();
        assert_eq!(first, b":\n".as_slice());
    }
}
