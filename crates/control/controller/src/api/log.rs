//! Logs of apps, read from the log aggregator (spec controller-api section 6 L).

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use flynn_http::{Client, ClientError, Download};
use flynn_types::error::ApiError;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;

use crate::api::endpoints::Endpoints;
use crate::error::{Error, Result, invalid};
use crate::shared::Shared;
use crate::store;

/// Parameters that are passed on.
const PARAMETERS: [&str; 5] = ["follow", "job_id", "lines", "process_type", "stream_types"];
/// Longest line in bytes.
const MAX_LINE: usize = 1 << 20;
/// Apps may say nothing for as long as they like.
const SILENCE: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) fn endpoints() -> Endpoints {
    Endpoints::new().get("/apps/{app}/log", "Log of an app as lines or as a stream", log)
}

/// An item of the event stream.
#[derive(Serialize)]
struct Chunk {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
}

async fn log(
    State(shared): State<Shared>,
    Path(app): Path<String>,
    Query(parameters): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response> {
    let app = store::app::get(&mut *shared.sql().await?, &app).await?;
    if parameters.get("lines").is_some_and(|lines| !lines.is_empty() && lines.parse::<u64>().is_err()) {
        return Err(invalid("lines", "must be a number of lines"));
    }
    let passed = parameters.iter().filter(|(name, _)| PARAMETERS.contains(&name.as_str()));
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(passed).finish();
    let client = Client::new(&shared.config.log_aggregator).with_stall_limit(SILENCE);
    let opened = client.open(&format!("/log/{}?{query}", app.id), &HeaderMap::new()).await;
    let download = opened.map_err(|err| unavailable(&err))?;
    if flynn_http::wants_events(&headers) {
        return Ok(flynn_http::sse(chunks(download)));
    }
    let lines = Body::from_stream(download.bytes);
    Ok(([(header::CONTENT_TYPE, "text/plain")], lines).into_response())
}

fn unavailable(error: &ClientError) -> Error {
    let message = format!("logs cannot be read: {error}");
    if error.is_retryable() { ApiError::unavailable(message).into() } else { ApiError::internal(message).into() }
}

fn chunks(download: Download) -> impl futures_util::Stream<Item = Result<Chunk, String>> + Send {
    let bytes = download.bytes.map_err(std::io::Error::other);
    let lines = FramedRead::new(StreamReader::new(bytes), LinesCodec::new_with_max_length(MAX_LINE));
    let messages = lines.filter_map(|line| async {
        match line {
            Ok(line) => RawValue::from_string(line).ok().map(|data| Ok(Chunk { event: "message", data: Some(data) })),
            Err(err) => Some(Err(err.to_string())),
        }
    });
    messages.chain(futures_util::stream::iter([Ok(Chunk { event: "eof", data: None })]))
}
