//! One reader's stream.

use std::collections::VecDeque;
use std::sync::Arc;

use flynn_http::Item;
use flynn_types::controller::Event;
use futures_util::Stream;
use sqlx::PgPool;

use super::feed::{Ended, Subscription};
use super::{Feed, Filter, Stored};
use crate::error::Result;
use crate::store;

/// Stored events read at once.
const PAGE: i64 = 200;

struct State {
    pool: PgPool,
    filter: Filter,
    subscription: Subscription,
    page: VecDeque<Stored>,
    /// Stored events up to this id are still read from the table.
    until: i64,
    last: i64,
}

/// Events after `after`, or only those to come. With `count`, of the stored ones only so many of the newest.
///
/// The subscription is older than the view of the table, and what the table gave is not given again.
pub(crate) async fn resumed(
    pool: &PgPool,
    feed: &Feed,
    filter: Filter,
    after: Option<i64>,
    count: Option<i64>,
) -> Result<impl Stream<Item = Result<Item<Event>, String>> + Send + use<>> {
    let subscription = feed.subscribe(filter.clone());
    let until = store::event::newest(&mut *pool.acquire().await?).await?;
    let mut last = after.unwrap_or(until);
    if let (Some(after), Some(count)) = (after, count) {
        last = store::event::start_of_newest(&mut *pool.acquire().await?, &filter, after, count).await?;
    }
    let state = State { pool: pool.clone(), filter, subscription, page: VecDeque::new(), until, last };
    Ok(futures_util::stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        match state.next().await {
            Ok(event) => Some((Ok(Item { id: Some(event.id.to_string()), data: event }), Some(state))),
            Err(reason) => Some((Err(reason), None)),
        }
    }))
}

impl State {
    async fn next(&mut self) -> Result<Event, String> {
        if self.page.is_empty() && self.last < self.until {
            let page = async {
                let mut connection = self.pool.acquire().await?;
                store::event::page(&mut connection, &self.filter, self.last, self.until, PAGE).await
            };
            self.page = page.await.map_err(|_| Ended::Blind.to_string())?.into();
            if self.page.is_empty() {
                self.last = self.until;
            }
        }
        if let Some(stored) = self.page.pop_front() {
            self.last = stored.id;
            return Ok(stored.event);
        }
        loop {
            let event = self.subscription.next().await.map_err(|ended| ended.to_string())?;
            if event.id > self.last {
                self.last = event.id;
                return Ok(event.event.clone());
            }
        }
    }
}

/// Only what comes, as it is stored: nothing that a query which begins when this has returned sees already.
pub(crate) async fn live(
    pool: &PgPool,
    feed: &Feed,
    filter: Filter,
) -> Result<impl Stream<Item = Result<Arc<Stored>, String>> + Send + use<>> {
    let subscription = feed.subscribe(filter);
    let seen = store::event::newest(&mut *pool.acquire().await?).await?;
    Ok(futures_util::stream::unfold(Some(subscription), move |subscription| async move {
        let mut subscription = subscription?;
        loop {
            match subscription.next().await {
                Ok(event) if event.id <= seen => {}
                Ok(event) => return Some((Ok(event), Some(subscription))),
                Err(ended) => return Some((Err(ended.to_string()), None)),
            }
        }
    }))
}
