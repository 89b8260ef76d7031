//! Streams of objects: those that are there, an empty one as the end of the list, then changes (S7, S8).

use std::collections::VecDeque;
use std::pin::Pin;

use axum::response::Response;
use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt as _};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::events::{self, Filter, Stored};
use crate::shared::Shared;

/// A kind of object that can be followed.
pub(super) trait Followed: Send + 'static {
    /// Its default ends the initial list.
    type Object: Serialize + Default + Send + 'static;

    /// The events that tell of changes.
    fn filter() -> Filter;

    fn initial(shared: &Shared, since: DateTime<Utc>) -> impl Future<Output = Result<VecDeque<Self::Object>>> + Send;

    /// What an event changed; `None` for nothing that a reader need know.
    fn changed(shared: &Shared, event: &Stored) -> impl Future<Output = Result<Option<Self::Object>>> + Send;
}

type Changes = Pin<Box<dyn Stream<Item = Result<std::sync::Arc<Stored>, String>> + Send>>;

enum State<T> {
    Begin { since: Option<String> },
    Initial { objects: VecDeque<T>, changes: Changes },
    Live { changes: Changes },
}

/// A bad `since` is told within the stream, as clients expect.
pub(super) fn answer<F: Followed>(shared: Shared, since: Option<String>) -> Response {
    let begin = (shared, State::<F::Object>::Begin { since });
    flynn_http::sse(futures_util::stream::unfold(Some(begin), |state| async move {
        let (shared, state) = state?;
        match next::<F>(&shared, state).await {
            Ok((object, state)) => Some((Ok(object), Some((shared, state)))),
            Err(reason) => Some((Err(reason), None)),
        }
    }))
}

async fn next<F: Followed>(shared: &Shared, state: State<F::Object>) -> Result<(F::Object, State<F::Object>), String> {
    let (mut objects, changes) = match state {
        State::Begin { since } => {
            let since =
                timestamp(since.as_deref()).map_err(|_| "since must be a valid RFC3339 timestamp".to_owned())?;
            // Changes are heard of from before the list is read: none is lost, and one that comes twice does no harm.
            let changes = events::live(&shared.pool, &shared.feed, F::filter()).await.map_err(told)?;
            let changes: Changes = Box::pin(changes);
            (F::initial(shared, since).await.map_err(told)?, changes)
        }
        State::Initial { objects, changes } => (objects, changes),
        State::Live { mut changes } => loop {
            let Some(event) = changes.next().await else { return Err("controller: shutting down".into()) };
            if let Some(object) = F::changed(shared, &*event?).await.map_err(told)? {
                return Ok((object, State::Live { changes }));
            }
        },
    };
    match objects.pop_front() {
        Some(object) => Ok((object, State::Initial { objects, changes })),
        None => Ok((F::Object::default(), State::Live { changes })),
    }
}

fn told(error: Error) -> String {
    error.api().map_or_else(|| "not found".to_owned(), |error| error.message)
}

/// RFC 3339, with up to nanoseconds.
pub(super) fn timestamp(text: Option<&str>) -> Result<DateTime<Utc>, chrono::ParseError> {
    DateTime::parse_from_rfc3339(text.unwrap_or_default()).map(|time| time.with_timezone(&Utc))
}
