//! The stream that schedulers follow (F10).

use std::collections::VecDeque;

use axum::response::Response;
use flynn_types::controller::{EventType, ExpandedFormation, ScaleRequest};

use crate::api::follow::{self, Followed};
use crate::error::Result;
use crate::events::{Filter, Stored};
use crate::shared::Shared;
use crate::store;

pub(super) fn stream(shared: Shared, since: Option<String>) -> Response {
    follow::answer::<Formations>(shared, since)
}

struct Formations;

impl Followed for Formations {
    type Object = ExpandedFormation;

    fn filter() -> Filter {
        Filter::of_kinds(&[EventType::ScaleRequest])
    }

    async fn initial(shared: &Shared, since: chrono::DateTime<chrono::Utc>) -> Result<VecDeque<Self::Object>> {
        let mut sql = shared.sql().await?;
        let formations = store::formation::since(&mut sql, since).await?;
        Ok(store::formation::expand(&mut sql, formations).await?.into())
    }

    /// The formation as it is now: an event that comes twice, or late, does no harm.
    async fn changed(shared: &Shared, event: &Stored) -> Result<Option<Self::Object>> {
        let Some(request) = event.data::<ScaleRequest>() else { return Ok(None) };
        let mut sql = shared.sql().await?;
        let (app_id, release_id) = (store::id(&request.app_id)?, store::id(&request.release_id)?);
        let found = store::formation::find(&mut sql, app_id, release_id).await?;
        let Some(found) = found else { return Ok(None) };
        Ok(store::formation::expand(&mut sql, vec![found]).await?.pop())
    }
}
