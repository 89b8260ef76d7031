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

/// Answers with an event per item. An error is sent as the last event and ends the stream.
pub fn sse<T, E>(items: impl Stream<Item = Result<T, E>> + Send + 'static) -> Response
where
    T: Serialize + 'static,
    E: Display + 'static,
{
    let headers = [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    let frames = frames(items, KEEP_ALIVE).map(Ok::<_, Infallible>);
    (headers, Body::from_stream(frames)).into_response()
}

fn frames<T, E>(
    items: impl Stream<Item = Result<T, E>> + Send + 'static,
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
            Ok(Some(Ok(item))) => match serde_json::to_string(&item) {
                Ok(json) => Some((Bytes::from(format!("data: {json}\n\n")), Some(items))),
                Err(err) => Some((error_frame(&err), None)),
            },
            Ok(Some(Err(err))) => Some((error_frame(&err), None)),
        }
    })
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
        let items = futures_util::stream::iter([Ok(1), Ok(2), Err("no\nmore"), Ok(3)]);
        let bytes: Vec<Bytes> = frames(items, KEEP_ALIVE).collect().await;
        assert_eq!(bytes.concat(), b"data: 1\n\ndata: 2\n\nevent: error\ndata: no more\n\n");
        let silent = futures_util::stream::pending::<Result<u8, String>>();
        let first = Box::pin(frames(silent, Duration::from_millis(1))).next().await.unwrap();
        assert_eq!(first, b":\n".as_slice());
    }
}
