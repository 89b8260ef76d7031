//! Lists that go on with their changes.

use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use flynn_http::{Backoff, ClientError};
use flynn_types::controller::{ExpandedFormation, Sink, Volume};
use flynn_types::time::GoTime;
use futures_util::{Stream, StreamExt as _};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;
use tracing::{debug, warn};

/// An object of a feed.
pub trait Listed: DeserializeOwned + Send + 'static {
    /// When it changed last.
    fn updated_at(&self) -> GoTime;
    /// Whether this is no object but the end of the list that a feed begins with.
    fn ends_list(head: &Head) -> bool;
}

/// What tells an object from the end of a list: that one has fields without values, which no object has.
#[derive(Deserialize)]
pub struct Head {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    app: Option<IgnoredAny>,
}

impl Head {
    fn is_unnamed(&self) -> bool {
        self.id.as_ref().is_none_or(String::is_empty)
    }
}

impl Listed for ExpandedFormation {
    fn updated_at(&self) -> GoTime {
        self.updated_at
    }

    fn ends_list(head: &Head) -> bool {
        head.app.is_none()
    }
}

impl Listed for Volume {
    fn updated_at(&self) -> GoTime {
        self.updated_at.unwrap_or_default()
    }

    fn ends_list(head: &Head) -> bool {
        head.is_unnamed()
    }
}

impl Listed for Sink {
    fn updated_at(&self) -> GoTime {
        self.updated_at.unwrap_or_default()
    }

    fn ends_list(head: &Head) -> bool {
        head.is_unnamed()
    }
}

/// What a feed gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fed<T> {
    Item(T),
    /// All that exists was given. Again after each time that the stream broke.
    Current,
}

type Items = Pin<Box<dyn Stream<Item = Result<Box<RawValue>, ClientError>> + Send>>;

/// The items of a list, then its changes. A stream that breaks is opened again.
pub struct Feed<T> {
    http: flynn_http::Client,
    path: &'static str,
    since: GoTime,
    items: Option<Items>,
    backoff: Backoff,
    kind: PhantomData<fn() -> T>,
}

impl<T: Listed> Feed<T> {
    pub(crate) fn new(http: flynn_http::Client, path: &'static str) -> Self {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        Self { http, path, since: GoTime::UNSET, items: None, backoff, kind: PhantomData }
    }

    /// The next item. Waits for ever while the controller is away. Cancel safe.
    pub async fn next(&mut self) -> Fed<T> {
        loop {
            let Some(items) = &mut self.items else {
                let path = format!("{}?since={}", self.path, self.since);
                match self.http.events(&path).await {
                    Ok(items) => self.items = Some(Box::pin(items)),
                    Err(err) => self.broke(&err.to_string()).await,
                }
                continue;
            };
            match items.next().await {
                Some(Ok(item)) => {
                    self.backoff.reset();
                    match read::<T>(&item) {
                        Ok(Fed::Item(item)) => {
                            self.since = self.since.max(item.updated_at());
                            return Fed::Item(item);
                        }
                        Ok(Fed::Current) => return Fed::Current,
                        // Only itself must fail: all others are behind it.
                        Err(err) => {
                            warn!(path = self.path, %err, item = item.get(), "an object makes no sense and is left out")
                        }
                    }
                }
                Some(Err(err)) => self.broke(&err.to_string()).await,
                None => self.broke("the server ended it").await,
            }
        }
    }

    async fn broke(&mut self, reason: &str) {
        debug!(path = self.path, reason, "feed broke, opening it again");
        self.items = None;
        tokio::time::sleep(self.backoff.pause()).await;
    }
}

fn read<T: Listed>(item: &RawValue) -> serde_json::Result<Fed<T>> {
    if T::ends_list(&serde_json::from_str(item.get())?) {
        return Ok(Fed::Current);
    }
    serde_json::from_str(item.get()).map(Fed::Item)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::extract::Query;
    use axum::response::Response;
    use flynn_types::controller::App;

    use super::*;
    use crate::Client;

    fn formation(seconds: i64) -> ExpandedFormation {
        let app = Some(App { id: seconds.to_string(), ..App::default() });
        ExpandedFormation { app, updated_at: at(seconds), ..ExpandedFormation::default() }
    }

    fn at(seconds: i64) -> GoTime {
        serde_json::from_str(&format!("\"2026-01-01T00:00:0{seconds}Z\"")).unwrap()
    }

    /// A controller whose streams end after the list; it records what was asked for.
    async fn controller() -> (String, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let record = asked.clone();
        let answer = move |Query(query): Query<std::collections::BTreeMap<String, String>>| {
            let mut asked = record.lock().unwrap();
            asked.push(query["since"].clone());
            let items = match asked.len() {
                1 => vec![formation(2), formation(1), ExpandedFormation::default()],
                _ => vec![formation(3), ExpandedFormation::default()],
            };
            let response: Response =
                flynn_http::sse(futures_util::stream::iter(items.into_iter().map(Ok::<_, String>)));
            std::future::ready(response)
        };
        let app = axum::Router::new().route("/formations", axum::routing::get(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (base, asked)
    }

    #[tokio::test]
    async fn a_feed_that_breaks_goes_on_after_the_latest_item() {
        let (base, asked) = controller().await;
        let mut feed = Client::new(&base, "key").formations();
        let expected =
            [Fed::Item(formation(2)), Fed::Item(formation(1)), Fed::Current, Fed::Item(formation(3)), Fed::Current];
        for expected in expected {
            assert_eq!(feed.next().await, expected);
        }
        assert_eq!(asked.lock().unwrap()[..2], ["0001-01-01T00:00:00Z", "2026-01-01T00:00:02Z"]);
    }

    #[test]
    fn the_end_of_a_list_is_told_from_objects_and_from_nonsense() {
        let read_volume = |text: &str| {
            let raw: Box<RawValue> = serde_json::from_str(text).unwrap();
            read::<Volume>(&raw).map(|fed| matches!(fed, Fed::Current))
        };
        // As the controller sends it: neither is a type or a state.
        assert!(read_volume(r#"{"id":"","host_id":"","type":"","state":""}"#).unwrap());
        assert!(!read_volume(r#"{"id":"1","host_id":"host1","type":"data","state":"created"}"#).unwrap());
        read_volume(r#"{"id":"1","host_id":"host1","type":"tape","state":"created"}"#).unwrap_err();
    }
}
