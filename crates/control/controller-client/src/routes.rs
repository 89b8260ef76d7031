//! Routes as the router follows them: the list, and the changes by the event stream (spec router section 8).
//!
//! Each route is read by itself: one that means nothing to this version is named and harms no other.

use flynn_http::{ClientError, Item};
use flynn_types::controller::{Event, EventType};
use flynn_types::router::Route;
use futures_util::{Stream, StreamExt as _};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::Client;

const CHANGES: &str = "/events?object_types=route,route_deletion";

/// A route that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("route {id:?} cannot be read: {reason}")]
pub struct UnreadableRoute {
    pub id: String,
    pub reason: String,
}

/// What happened to a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteChange {
    Set(Box<Route>),
    Removed { id: String },
    Unreadable(UnreadableRoute),
}

/// A change, and the id of its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEvent {
    pub id: i64,
    pub change: RouteChange,
}

impl Client {
    /// All routes.
    ///
    /// # Errors
    /// When there is no list; what is wrong with a route is in its place.
    pub async fn routes(&self) -> Result<Vec<Result<Route, UnreadableRoute>>, ClientError> {
        let routes: Vec<Box<RawValue>> = self.http.get_json("/routes").await?;
        Ok(routes.iter().map(|text| route(text.get(), None)).collect())
    }

    /// Changes of routes: those after the event of this id, or those from now on. The answer begins when nothing that a
    /// later list lacks can be missing any more.
    ///
    /// # Errors
    /// When the stream cannot be opened; it ends with an error when it breaks.
    pub async fn route_changes(
        &self,
        after: Option<i64>,
    ) -> Result<impl Stream<Item = Result<RouteEvent, ClientError>> + Send + Unpin + use<>, ClientError> {
        let after = after.map(|id| id.to_string());
        let events = self.http.events_after::<Event>(CHANGES, after.as_deref()).await?;
        Ok(events.filter_map(|item| {
            std::future::ready(match item {
                Ok(Item { data, .. }) => change(&data).map(|change| Ok(RouteEvent { id: data.id, change })),
                Err(err) => Some(Err(err)),
            })
        }))
    }

    /// The id of the newest event; 0 when there is none. Less than one that was seen before when the database was taken
    /// back to an older state.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn newest_event(&self) -> Result<i64, ClientError> {
        let newest: Vec<Event> = self.http.get_json("/events?count=1").await?;
        Ok(newest.first().map_or(0, |event| event.id))
    }
}

/// What an event says about a route, if it does.
fn change(event: &Event) -> Option<RouteChange> {
    match event.object_type? {
        EventType::Route => {
            let text = event.data.as_ref().map_or("null", |data| data.get());
            Some(match route(text, Some(&event.object_id)) {
                Ok(route) => RouteChange::Set(Box::new(route)),
                Err(unreadable) => RouteChange::Unreadable(unreadable),
            })
        }
        EventType::RouteDeletion => Some(RouteChange::Removed { id: event.object_id.clone() }),
        _ => None,
    }
}

/// Reads a route. `id` is whose it is, where that is known.
fn route(text: &str, id: Option<&str>) -> Result<Route, UnreadableRoute> {
    #[derive(Default, Deserialize)]
    struct Named {
        id: String,
    }
    let id = || match id {
        Some(id) => id.to_owned(),
        None => serde_json::from_str::<Named>(text).unwrap_or_default().id,
    };
    match serde_json::from_str::<Route>(text) {
        Ok(route) if route.id.is_empty() => Err(UnreadableRoute { id: id(), reason: "it has no id".into() }),
        Ok(route) => Ok(route),
        Err(err) => Err(UnreadableRoute { id: id(), reason: err.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_means_nothing_is_named() {
        let read = |text| route(text, None);
        assert_eq!(read(r#"{"id":"a","type":"http","service":"s"}"#).unwrap().service, "s");
        let err = read(r#"{"id":"b","type":"quic"}"#).unwrap_err();
        assert!(err.id == "b" && err.reason.contains("quic"), "{err}");
        assert!(read("{}").unwrap_err().reason.contains("no id"));
        assert_eq!(route("[]", Some("c")).unwrap_err().id, "c");
    }

    #[test]
    fn events_are_changes_of_routes_or_nothing() {
        let event = |text| change(&serde_json::from_str(text).unwrap());
        let set = event(r#"{"id":7,"object_type":"route","object_id":"a","data":{"id":"a","service":"s"}}"#);
        assert!(matches!(set, Some(RouteChange::Set(route)) if route.id == "a"));
        let removed = event(r#"{"id":8,"object_type":"route_deletion","object_id":"a","data":{"id":"a"}}"#);
        assert_eq!(removed, Some(RouteChange::Removed { id: "a".into() }));
        let bad = event(r#"{"id":9,"object_type":"route","object_id":"b","data":{"port":70000}}"#);
        assert!(matches!(bad, Some(RouteChange::Unreadable(route)) if route.id == "b"));
        assert_eq!(event(r#"{"id":10,"object_type":"app"}"#), None);
        assert_eq!(event(r#"{"id":11}"#), None);
    }
}
