//! A stream of a service's events that resumes by itself.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use flynn_http::{Backoff, ClientError};
use flynn_types::discoverd::{Event, EventKind, Instance};
use futures_util::{Stream, StreamExt as _};
use tracing::debug;

use crate::{Client, View};

type Connection = Pin<Box<dyn Stream<Item = Result<Event, ClientError>> + Send>>;
type Connecting = Pin<Box<dyn Future<Output = Result<(View, Connection), String>> + Send>>;

/// Events of one service, for ever. While no server answers there are none.
pub struct Watch {
    client: Client,
    service: String,
    state: State,
    view: View,
    /// Events to hand out before the connection is asked again.
    ready: VecDeque<Event>,
    backoff: Backoff,
}

enum State {
    /// A pause, a connection and its replay. Lives here and not in [`Watch::next`], whose callers may give up any time.
    Connecting(Connecting),
    Connected(Connection),
}

impl Client {
    /// Watches a service, which need not exist yet. Every (re)connection ends its replay with a `current` event.
    pub fn watch(&self, service: &str) -> Watch {
        Watch {
            client: self.clone(),
            service: service.to_owned(),
            state: State::Connecting(connecting(self, service, Duration::ZERO)),
            view: View::default(),
            ready: VecDeque::new(),
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(2)),
        }
    }

    /// Watches who leads a service.
    pub fn watch_leader(&self, service: &str) -> LeaderWatch {
        LeaderWatch { watch: self.watch(service), told: None }
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
            let reason = match &mut self.state {
                State::Connecting(connecting) => match connecting.await {
                    Ok((view, connection)) => {
                        self.ready.extend(self.view.events_to(&view, &self.service));
                        self.state = State::Connected(connection);
                        continue;
                    }
                    Err(reason) => reason,
                },
                State::Connected(connection) => match connection.next().await {
                    Some(Ok(event)) => {
                        self.backoff.reset();
                        self.ready.push_back(event);
                        continue;
                    }
                    Some(Err(err)) => err.to_string(),
                    None => "the server ended it".into(),
                },
            };
            debug!(service = self.service, reason, "event stream broke, connecting again");
            self.state = State::Connecting(connecting(&self.client, &self.service, self.backoff.pause()));
        }
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Event> + Send {
        futures_util::stream::unfold(self, |mut watch| async move { Some((watch.next().await, watch)) })
    }
}

fn connecting(client: &Client, service: &str, pause: Duration) -> Connecting {
    let (client, service) = (client.clone(), service.to_owned());
    Box::pin(async move {
        tokio::time::sleep(pause).await;
        replay(&client, &service).await
    })
}

/// Opens the stream and takes in what it begins with.
async fn replay(client: &Client, service: &str) -> Result<(View, Connection), String> {
    let mut connection: Connection = Box::pin(client.events(service).await.map_err(|err| err.to_string())?);
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

/// The leaders of a service.
pub struct LeaderWatch {
    watch: Watch,
    /// The leader that was told last; nothing was told before the first replay.
    told: Option<Option<Instance>>,
}

impl LeaderWatch {
    /// The leader, at first the present one; `None` while there is none. Cancel safe.
    pub async fn next(&mut self) -> Option<Instance> {
        loop {
            let event = self.watch.next().await;
            let known = matches!(event.kind, EventKind::Leader | EventKind::Current);
            let leader = &self.watch.view().leader;
            if known && self.told.as_ref() != Some(leader) {
                self.told = Some(leader.clone());
                return leader.clone();
            }
        }
    }
}
