//! Routes, with their certificates, from the controller (spec router section 8).
//!
//! A stream of changes is opened first and the list is read then, so that nothing falls between them. A stream that breaks
//! is opened again, at another controller if there is one, and goes on after the last event that was seen; the list is
//! read again when that cannot be, and every few minutes in any case.

mod contact;
mod endpoints;
mod kept;

use std::sync::Arc;
use std::time::Duration;

use flynn_controller_client::{Client, ClientError, RouteChange, RouteEvent};
use flynn_http::Backoff;
use futures_util::StreamExt as _;
use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

pub use contact::Contact;
pub use endpoints::{Endpoint, Endpoints, locate};
pub use kept::{Kept, KeptError};

use super::{Change, Changes};

/// Longest time between two lists; a random part of it is taken off, so that routers do not ask all at once.
const LIST_AGAIN: Duration = Duration::from_secs(300);
/// Pauses after a failure: random up to a bound that doubles between these.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Tells the controller's routes until nobody listens. They are also kept on disk where that is wished.
pub async fn follow(endpoints: Endpoints, changes: Changes, kept: Option<Kept>, contact: Arc<Contact>) {
    let (listener, keeper) = (changes.clone(), kept.map(Kept::keeper));
    let follower = Follower { endpoints, changes, keeper, contact, seen: None, list_at: Instant::now() };
    tokio::select! {
        () = follower.run() => {}
        () = listener.closed() => {}
    }
}

struct Follower {
    endpoints: Endpoints,
    changes: Changes,
    keeper: Option<kept::Keeper>,
    contact: Arc<Contact>,
    /// The last event that was told.
    seen: Option<i64>,
    /// When the list is to be read again.
    list_at: Instant,
}

/// Why a session with a controller ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Failed(#[from] ClientError),
    #[error("the controller ended the stream")]
    ByController,
    #[error("the controller is gone from there")]
    Moved,
    #[error("the controller's database was taken back to an older state")]
    Rewound,
    #[error("nobody listens")]
    NobodyListens,
}

impl Follower {
    async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut is_told = false;
        let contact = Arc::clone(&self.contact);
        let mut last: Option<Endpoint> = None;
        while let Some(endpoint) = self.choose(last.as_ref()).await {
            let mut works = || {
                backoff.reset();
                contact.is_there();
                if std::mem::take(&mut is_told) {
                    info!(controller = endpoint.url, "routes are followed again");
                }
            };
            let mut watched = self.endpoints.clone();
            let ended = tokio::select! {
                ended = self.session(&endpoint, &mut works) => ended,
                () = gone(&mut watched, &endpoint) => Ended::Moved,
            };
            contact.is_lost();
            let pause = match &ended {
                Ended::NobodyListens => return,
                Ended::Moved | Ended::Rewound => Duration::ZERO,
                Ended::Failed(_) | Ended::ByController => backoff.pause(),
            };
            if is_told {
                debug!(controller = endpoint.url, err = %ended, "routes are not followed");
            } else {
                warn!(controller = endpoint.url, err = %ended, "routes are not followed, the last ones known are served");
            }
            is_told = true;
            last = Some(endpoint);
            tokio::time::sleep(pause).await;
        }
    }

    /// A controller, another one than the last if there is; `None` when there never will be one.
    async fn choose(&mut self, last: Option<&Endpoint>) -> Option<Endpoint> {
        let known = self.endpoints.wait_for(|endpoints| !endpoints.is_empty()).await.ok()?;
        let others: Vec<&Endpoint> = known.iter().filter(|endpoint| Some(*endpoint) != last).collect();
        others.choose(&mut rand::rng()).copied().or(known.first()).cloned()
    }

    /// Follows one controller as long as it works. May be given up at any point: what was not told is told again.
    async fn session(&mut self, endpoint: &Endpoint, works: &mut impl FnMut()) -> Ended {
        match self.follow(&Client::new(&endpoint.url, endpoint.key()), works).await {
            Ok(ended) | Err(ended) => ended,
        }
    }

    async fn follow(&mut self, client: &Client, works: &mut impl FnMut()) -> Result<Ended, Ended> {
        if let Some(seen) = self.seen
            && client.newest_event().await? < seen
        {
            // Its next events have ids that we have seen for others.
            self.seen = None;
            return Err(Ended::Rewound);
        }
        let mut events = client.route_changes(self.seen).await?;
        if self.seen.is_none() {
            // What changed meanwhile is in no stream.
            self.list(client).await?;
        }
        works();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(self.list_at) => self.list(client).await?,
                event = events.next() => match event {
                    Some(event) => self.take(event?).await?,
                    None => return Ok(Ended::ByController),
                },
            }
            works();
        }
    }

    /// Tells all routes there are.
    async fn list(&mut self, client: &Client) -> Result<(), Ended> {
        let mut routes = Vec::new();
        for route in client.routes().await? {
            match route {
                Ok(route) => routes.push(route),
                Err(err) => error!(%err, "route is left out"),
            }
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.all(&routes);
        }
        self.tell(Change::Routes(routes)).await?;
        let pause = LIST_AGAIN.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.list_at = Instant::now() + pause;
        Ok(())
    }

    async fn take(&mut self, RouteEvent { id, change }: RouteEvent) -> Result<(), Ended> {
        match change {
            RouteChange::Set(route) => {
                if let Some(keeper) = &mut self.keeper {
                    keeper.set(&route);
                }
                self.tell(Change::Set(route)).await?;
            }
            RouteChange::Removed { id } => {
                if let Some(keeper) = &mut self.keeper {
                    keeper.remove(&id);
                }
                self.tell(Change::Remove { id: id.into() }).await?;
            }
            RouteChange::Unreadable(err) => error!(%err, "route is left as it was"),
        }
        self.seen = Some(id);
        Ok(())
    }

    async fn tell(&self, change: Change) -> Result<(), Ended> {
        self.changes.send(change).await.map_err(|_| Ended::NobodyListens)
    }
}

/// Ends when other controllers are known, and this one is not any more. That nobody is known says nothing.
async fn gone(endpoints: &mut Endpoints, endpoint: &Endpoint) {
    let is_gone = |known: &Vec<Endpoint>| !known.is_empty() && !known.contains(endpoint);
    if endpoints.wait_for(is_gone).await.is_err() {
        std::future::pending().await
    }
}
