//! A stream of a service's events that resumes by itself.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use flynn_http::{Backoff, ClientError};
use flynn_types::discoverd::{Event, EventKind};
use futures_util::{Stream, StreamExt as _};
use tracing::debug;

use crate::{Client, View};

type Connection = Pin<Box<dyn Stream<Item = Result<Event, ClientError>> + Send>>;

/// Events of one service, for ever. While no server answers there are none.
pub struct Watch {
    client: Client,
    service: String,
    connection: Option<Connection>,
    view: View,
    /// Events to hand out before the connection is asked again.
    ready: VecDeque<Event>,
    backoff: Backoff,
}

impl Client {
    /// Watches a service, which need not exist yet. Every (re)connection ends its replay with a `current` event.
    pub fn watch(&self, service: &str) -> Watch {
        Watch {
            client: self.clone(),
            service: service.to_owned(),
            connection: None,
            view: View::default(),
            ready: VecDeque::new(),
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(2)),
        }
    }
}

impl Watch {
    /// What is known of the service after the events handed out so far.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The next event. Cancel safe.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.view.apply(&event);
                return event;
            }
            let Some(connection) = &mut self.connection else {
                self.connect().await;
                continue;
            };
            match connection.next().await {
                Some(Ok(event)) => self.ready.push_back(event),
                Some(Err(err)) => {
                    debug!(service = self.service, %err, "event stream broke, connecting again");
                    self.connection = None;
                }
                None => self.connection = None,
            }
        }
    }

    /// Connects and turns the replay into differences. On failure it pauses.
    async fn connect(&mut self) {
        match self.replay().await {
            Ok((view, connection)) => {
                self.ready.extend(self.view.events_to(&view, &self.service));
                self.connection = Some(connection);
                self.backoff.reset();
            }
            Err(reason) => {
                debug!(service = self.service, reason, "event stream cannot be opened, trying again");
                tokio::time::sleep(self.backoff.pause()).await;
            }
        }
    }

    async fn replay(&self) -> Result<(View, Connection), String> {
        let mut connection: Connection =
            Box::pin(self.client.events(&self.service).await.map_err(|err| err.to_string())?);
        let mut view = View::default();
        loop {
            match connection.next().await {
                Some(Ok(event)) if event.kind == EventKind::Current => return Ok((view, connection)),
                Some(Ok(event)) => view.apply(&event),
                Some(Err(err)) => return Err(err.to_string()),
                None => return Err("the stream ended during the replay".into()),
            }
        }
    }
}
