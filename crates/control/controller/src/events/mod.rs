//! Streams of events: what is stored, then what comes, without gaps (spec controller-api sections 3.4 and 6 E).

mod feed;
mod stream;

pub(crate) use feed::Feed;
pub(crate) use stream::{live, resumed};

use uuid::Uuid;

/// Which events a reader wants.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) app_id: Option<Uuid>,
    /// All when empty.
    pub(crate) kinds: Vec<String>,
    pub(crate) object_id: Option<String>,
}

impl Filter {
    pub(crate) fn of_kinds(kinds: &[flynn_types::controller::EventType]) -> Self {
        Self { kinds: kinds.iter().map(|kind| kind.as_str().to_owned()).collect(), ..Self::default() }
    }

    fn matches(&self, event: &Stored) -> bool {
        self.app_id.is_none_or(|id| event.app_id == Some(id))
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self.object_id.as_ref().is_none_or(|id| *id == event.object_id)
    }
}

/// An event as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) id: i64,
    pub(crate) app_id: Option<Uuid>,
    pub(crate) kind: String,
    pub(crate) object_id: String,
    /// The event as clients get it.
    pub(crate) event: flynn_types::controller::Event,
}

impl Stored {
    /// The object that the event carries, if it can be read.
    pub(crate) fn data<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(self.event.data.as_ref()?.get()).ok()
    }
}
