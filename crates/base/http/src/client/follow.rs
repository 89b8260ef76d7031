//! Event streams that resume.

use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use tracing::debug;

use super::streams::{RawEvents, decode};
use super::{Client, ClientError};
use crate::Backoff;

/// What a followed stream gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed<T> {
    /// The stream is open, at first or again. Where the server keeps no history, now is the time to list.
    Opened,
    Item(T),
}

/// An event stream that is opened again, after the last event's id, when it ends or breaks.
pub struct Follow<T> {
    client: Client,
    url: String,
    last_id: Option<String>,
    state: State,
    backoff: Backoff,
    items: PhantomData<fn() -> T>,
}

type Opening = Pin<Box<dyn Future<Output = Result<RawEvents, ClientError>> + Send>>;

enum State {
    Opening(Opening),
    Open(RawEvents),
}

impl Client {
    /// Follows an event stream for ever.
    pub fn follow<T: DeserializeOwned>(&self, path: &str) -> Follow<T> {
        let url = self.url(path);
        let state = State::Opening(opening(self, &url, None, Duration::ZERO));
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        Follow { client: self.clone(), url, last_id: None, state, backoff, items: PhantomData }
    }
}

fn opening(client: &Client, url: &str, last_id: Option<String>, pause: Duration) -> Opening {
    let (client, url) = (client.clone(), url.to_owned());
    Box::pin(async move {
        tokio::time::sleep(pause).await;
        client.raw_events(&url, last_id.as_deref()).await
    })
}

impl<T: DeserializeOwned> Follow<T> {
    /// The next item. Cancel safe.
    ///
    /// # Errors
    /// Only those that do not pass by themselves, such as 404 or an item that means nothing. The next call tries again.
    pub async fn next(&mut self) -> Result<Followed<T>, ClientError> {
        loop {
            let err = match &mut self.state {
                State::Opening(opening) => match opening.await {
                    Ok(events) => {
                        self.state = State::Open(events);
                        return Ok(Followed::Opened);
                    }
                    Err(err) => Some(err),
                },
                State::Open(events) => match events.next().await {
                    Some(Ok(event)) => {
                        self.backoff.reset();
                        let item = decode(&event, &self.url);
                        self.last_id = event.id.or(self.last_id.take());
                        return item.map(Followed::Item);
                    }
                    Some(Err(err)) => Some(err),
                    None => None,
                },
            };
            let pause = self.backoff.pause();
            self.state = State::Opening(opening(&self.client, &self.url, self.last_id.clone(), pause));
            match err {
                Some(err) if !err.is_retryable() => return Err(err),
                Some(err) => debug!(url = self.url, %err, "event stream broke, opening it again"),
                None => debug!(url = self.url, "event stream ended, opening it again"),
            }
        }
    }
}
