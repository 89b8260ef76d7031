//! What a peer has under way.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use flynn_types::discoverd::Instance;
use flynn_types::sirenia::{Config, Role};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{Memory, World};
use crate::{Effect, Event, FenceFailure, Position, RETRY};

/// Longest time for a fence: writes wait for it.
const FENCE_LIMIT: Duration = Duration::from_secs(30);

type Operation<P> = Pin<Box<dyn Future<Output = Event<P>> + Send>>;

pub(super) struct Work<P> {
    world: World<P>,
    /// The one operation; a new one takes its place.
    operation: Option<Operation<P>>,
    /// What is being made of the database, or was made.
    config: Option<Config>,
    /// Waits for the downstream and opens the primary for writes.
    opening: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    synced: bool,
    timer: Option<Instant>,
}

impl<P: Position> Work<P> {
    pub(super) fn new(world: World<P>) -> Self {
        Self { world, operation: None, config: None, opening: None, synced: false, timer: None }
    }

    pub(super) fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// The downstream, once it has everything.
    pub(super) fn synced_downstream(&self) -> Option<&Instance> {
        self.config.as_ref().filter(|_| self.synced)?.downstream.as_ref()
    }

    /// Begins what is asked for; what must be done before anything else, it does. Gives the reason for an end.
    pub(super) async fn begin(&mut self, effect: Effect<P>) -> Option<&'static str> {
        match effect {
            Effect::Remember(generation) => remember(self.world.memory.clone(), generation).await,
            Effect::Fence { ticket, at_least } => {
                self.close();
                let database = self.world.database.clone();
                self.operation = Some(Box::pin(async move {
                    let fence = tokio::time::timeout(FENCE_LIMIT, database.fence(&at_least)).await;
                    let late = |_| Err(FenceFailure::Failed(format!("no answer in {} s", FENCE_LIMIT.as_secs())));
                    Event::Fenced(ticket, fence.unwrap_or_else(late))
                }));
            }
            Effect::Write { ticket, index, cluster, leader } => {
                let discovery = self.world.discovery.clone();
                self.operation =
                    Some(Box::pin(
                        async move { Event::Written(ticket, discovery.write(index, &cluster, &leader).await) },
                    ));
            }
            Effect::Configure { ticket, config } => {
                self.close();
                self.config = Some((*config).clone());
                let database = self.world.database.clone();
                self.operation =
                    Some(Box::pin(async move { Event::Configured(ticket, database.configure(&config).await) }));
            }
            Effect::Retry => self.timer = Some(Instant::now() + RETRY),
            Effect::Withdraw => self.world.discovery.withdraw().await,
            Effect::Fail(reason) => return Some(reason),
        }
        None
    }

    fn close(&mut self) {
        (self.operation, self.opening, self.synced) = (None, None, false);
    }

    /// Waits for the next thing to be ready; gives what the machine has to hear of it. Cancel safe: what is under way
    /// lives here.
    pub(super) async fn next(&mut self) -> Option<Event<P>> {
        let timer = self.timer;
        tokio::select! {
            event = ready(&mut self.operation) => {
                self.operation = None;
                if let Event::Configured(_, Ok(())) = &event {
                    self.opening = self.config.as_ref().and_then(|config| self.opening(config.clone()));
                }
                Some(event)
            }
            () = ready(&mut self.opening) => {
                (self.opening, self.synced) = (None, true);
                None
            }
            () = async { tokio::time::sleep_until(timer.expect("there is one")).await }, if timer.is_some() => {
                self.timer = None;
                Some(Event::Timer)
            }
        }
    }

    fn opening(&self, config: Config) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        let leads = config.role == Role::Primary;
        if !config.role.runs() || (config.downstream.is_none() && !leads) {
            return None;
        }
        let database = self.world.database.clone();
        Some(Box::pin(async move {
            loop {
                let caught_up = match &config.downstream {
                    Some(_) => database.caught_up(&config).await,
                    None => Ok(()),
                };
                let done = match caught_up {
                    Ok(()) if leads => database.open().await,
                    other => other,
                };
                let Err(reason) = done else { return };
                debug!(reason, "the downstream is not caught up yet");
                tokio::time::sleep(RETRY).await;
            }
        }))
    }
}

/// The future's result; nothing, for ever, without one.
async fn ready<T>(future: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Goes on trying: a peer that acts in a generation that its volume may forget could follow an older one later.
async fn remember(memory: Arc<dyn Memory>, generation: u64) {
    while let Err(err) = memory.remember(generation).await {
        warn!(generation, %err, "the volume cannot be written, nothing goes on without it");
        tokio::time::sleep(RETRY).await;
    }
}
