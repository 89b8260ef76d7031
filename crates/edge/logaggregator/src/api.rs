//! The HTTP API (spec operations section 11.2).

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query as Parameters, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use flynn_http::Failure;
use flynn_types::host::SinkCursor;
use flynn_types::status::Status;
use futures_util::{Stream, StreamExt as _};
use http::header;
use tokio_util::sync::CancellationToken;

use crate::frames;
use crate::query::Query;
use crate::reader::Reader;
use crate::store::{Place, Store};

/// Ours: the Go implementation's snapshots have another format and a name without the end.
const SNAPSHOT: &str = "application/vnd.flynn.logaggregator-snapshot.frames";

#[derive(Clone)]
struct Shared {
    store: Arc<Store>,
    version: String,
    shutdown: CancellationToken,
}

pub(crate) fn router(store: Arc<Store>, version: String, shutdown: CancellationToken) -> Router {
    let router = Router::new()
        .route("/log/{channel}", get(log))
        .route("/cursors", get(cursors))
        .route("/snapshot", get(snapshot))
        .route("/.well-known/status", get(status))
        .with_state(Shared { store, version, shutdown });
    flynn_http::with_text_fallbacks(router)
}

async fn log(
    State(shared): State<Shared>,
    Path(channel): Path<String>,
    Parameters(parameters): Parameters<BTreeMap<String, String>>,
) -> Result<Response, Failure> {
    let query = Query::parse(&parameters)?;
    let reader = Reader::new(&shared.store, channel, query);
    let lines = futures_util::stream::unfold(reader, |mut reader| async {
        let batch = reader.next().await?;
        let mut lines = Vec::new();
        batch.iter().for_each(|message| message.write_json(&mut lines));
        Some((Ok::<_, Infallible>(Bytes::from(lines)), reader))
    });
    let lines = lines.take_until(shared.shutdown.cancelled_owned());
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response())
}

async fn cursors(State(shared): State<Shared>) -> Json<BTreeMap<String, SinkCursor>> {
    Json(shared.store.cursors())
}

async fn snapshot(State(shared): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, SNAPSHOT)], Body::from_stream(all_messages(shared.store))).into_response()
}

/// All messages that have arrived up to now: no later ones, or a host would go on behind one of them without those
/// before it in channels that were read earlier.
fn all_messages(store: Arc<Store>) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let (channels, before) = store.channels();
    let places = channels.into_iter().map(move |name| (name, Place::Buffered { after: Bound::Unbounded, before }));
    let left: VecDeque<_> = places.collect();
    futures_util::stream::unfold((store, left), |(store, mut left)| async {
        loop {
            let (name, place) = left.pop_front()?;
            let (batch, behind) = store.take(&name, place, |_| true);
            if matches!(behind, Place::Buffered { .. }) {
                left.push_front((name, behind));
            }
            if !batch.is_empty() {
                let mut out = Vec::new();
                batch.iter().for_each(|message| frames::write(message.raw(), &mut out));
                return Some((Ok(Bytes::from(out)), (store, left)));
            }
        }
    })
}

async fn status(State(shared): State<Shared>) -> Response {
    flynn_http::status(&Status::healthy(&shared.version))
}
