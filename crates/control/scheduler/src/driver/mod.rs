//! Feeds a [`World`] with what happens, and carries out what its plans ask for.
//!
//! One task owns the world. Streams and requests are tasks of their own, which only send events: nothing waits for a host
//! that does not answer.

mod api;
mod clock;
mod controller;
mod discovery;
mod effects;
mod hosts;
mod routers;
mod state;

use std::collections::BTreeMap;
use std::time::Duration;

use flynn_types::discoverd::Instance;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use crate::world::TAKE_OVER_PATIENCE;
use crate::{Event, World, plan};
use clock::Clock;
use effects::Effects;
use hosts::Streams;

/// Events that wait for the world; whoever brings more waits.
const QUEUE: usize = 4096;
/// Events that are taken in before the next plan.
const BATCH: usize = 1024;
/// Plans in a row before events are taken in again.
const ROUNDS: usize = 8;

pub use api::router;

/// The name of schedulers in discovery.
pub const SERVICE: &str = "controller-scheduler";

/// What a scheduler works with.
pub struct Config {
    pub discoverd: flynn_discoverd_client::Client,
    pub controller: flynn_controller_client::Client,
    /// Key of the host API, where it asks for one.
    pub host_auth_key: Option<String>,
    /// This scheduler in discovery.
    pub instance: Instance,
    /// The job that runs it.
    pub job_id: String,
    /// Makes ids of new jobs different from those of other schedulers.
    pub seed: u128,
}

/// Asks a running scheduler what it knows. Cheap to clone.
#[derive(Clone)]
pub struct Handle(mpsc::Sender<Input>);

impl Handle {
    /// The state as `GET /debug/state` shows it; `None` when the scheduler has ended.
    pub async fn state(&self) -> Option<Value> {
        let (sender, answer) = oneshot::channel();
        self.0.send(Input::State(sender)).await.ok()?;
        answer.await.ok()
    }
}

enum Input {
    Event(Box<Event>),
    State(oneshot::Sender<Value>),
}

/// Where tasks put events.
#[derive(Clone)]
struct Inbox {
    sender: mpsc::Sender<Input>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Inbox {
    /// Waits while the world has too much to take in.
    async fn put(&self, event: Event) {
        let _ = self.sender.send(Input::Event(Box::new(event))).await; // closed: the scheduler ends
    }

    /// Runs until it ends or the scheduler does.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(task));
    }

    /// Runs until it ends, or the guard is dropped, or the scheduler ends.
    fn spawn_guarded(&self, task: impl Future<Output = ()> + Send + 'static) -> DropGuard {
        let stop = self.stop.child_token();
        self.tasks.spawn(stop.clone().run_until_cancelled_owned(task));
        stop.drop_guard()
    }
}

/// A scheduler that is about to run.
pub struct Scheduler {
    config: Config,
    inbox: Inbox,
    inputs: mpsc::Receiver<Input>,
}

impl Scheduler {
    /// Ends when `stop` is cancelled.
    pub fn new(config: Config, stop: &CancellationToken) -> Self {
        let (sender, inputs) = mpsc::channel(QUEUE);
        let inbox = Inbox { sender, stop: stop.child_token(), tasks: TaskTracker::new() };
        Self { config, inbox, inputs }
    }

    pub fn handle(&self) -> Handle {
        Handle(self.inbox.sender.clone())
    }

    /// Schedules until stopped, then withdraws from discovery. Requests under way are given up.
    pub async fn run(self) {
        let Self { config, inbox, inputs } = self;
        let clock = Clock::start();
        discovery::watch_hosts(&inbox, &config.discoverd);
        controller::follow(&inbox, &config.controller, clock);
        routers::watch(&inbox, &config.discoverd);
        let effects = Effects::new(&inbox, &config, clock);
        let mut driver = Driver {
            world: World::new(config.seed),
            clock,
            inbox: inbox.clone(),
            streams: Streams::new(&inbox, &config),
            services: BTreeMap::new(),
            effects,
            registration: None,
            config,
        };
        driver.work(inputs).await;
        inbox.stop.cancel();
        if let Some(registration) = driver.registration {
            registration.deregister().await;
        }
        inbox.tasks.close();
        inbox.tasks.wait().await;
    }
}

struct Driver {
    world: World,
    clock: Clock,
    inbox: Inbox,
    streams: Streams,
    /// Services that are watched, each with what ends that.
    services: BTreeMap<String, DropGuard>,
    effects: Effects,
    registration: Option<flynn_discoverd_client::Registration>,
    config: Config,
}

impl Driver {
    async fn work(&mut self, mut inputs: mpsc::Receiver<Input>) {
        let mut batch = Vec::new();
        let begun = self.clock.now();
        loop {
            let now = self.clock.now();
            let pause = self.world.next_wake().map_or(Duration::from_secs(1), |at| at.since(now));
            // Not for ever: what becomes possible with time alone is looked at once a second.
            let pause = pause.clamp(Duration::from_millis(1), Duration::from_secs(1));
            tokio::select! {
                () = self.inbox.stop.cancelled() => return,
                received = inputs.recv_many(&mut batch, BATCH) => if received == 0 { return },
                () = tokio::time::sleep(pause) => {}
            }
            let now = self.clock.now();
            for input in batch.drain(..) {
                self.take(input);
            }
            self.world.advance(now);
            self.decide();
            self.streams.follow(&self.world);
            self.watch_services();
            if self.registration.is_none() && (self.knows_all() || now >= begun + TAKE_OVER_PATIENCE + LONG) {
                self.register();
            }
        }
    }

    /// Plans until nothing is left: one step may make the next one possible.
    fn decide(&mut self) {
        for _ in 0..ROUNDS {
            let now = self.clock.now();
            let actions = plan(&self.world, now);
            self.world.order(&actions, now);
            for action in &actions {
                debug!(?action, "ordered");
                self.effects.perform(&self.world, action);
            }
            if actions.is_empty() {
                return;
            }
        }
    }

    fn take(&mut self, input: Input) {
        let now = self.clock.now();
        match input {
            Input::Event(event) => {
                let before = self.world.leading();
                self.world.apply(*event, now);
                let leading = self.world.leading();
                if before != leading {
                    info!(term = leading, leads = leading.is_some(), "the leader changed");
                    self.effects.lead(leading);
                }
            }
            Input::State(sender) => drop(sender.send(state::state(&self.world, &self.config.job_id))),
        }
    }

    /// Whether everything that runs and everything that is wanted was told (spec S1).
    fn knows_all(&self) -> bool {
        self.world.is_current() && self.world.hosts().all(|host| host.is_followed() || !host.is_healthy())
    }

    /// From now on this scheduler may be the leader: it has watched all hosts before (spec S2).
    fn register(&mut self) {
        self.registration = Some(self.config.discoverd.register(SERVICE, self.config.instance.clone()));
        discovery::watch_leader(&self.inbox, &self.config.discoverd, &self.config.instance);
        info!(addr = self.config.instance.addr, "registered");
    }

    fn watch_services(&mut self) {
        let world = &self.world;
        self.services.retain(|name, _| world.services().any(|wanted| wanted == name));
        for name in world.services() {
            if !self.services.contains_key(name) {
                let watch = discovery::watch_service(&self.inbox, &self.config.discoverd, name);
                self.services.insert(name.to_owned(), watch);
            }
        }
    }
}

/// A controller that is away must not keep the only scheduler from looking after hosts.
const LONG: Duration = Duration::from_secs(5 * 60);

/// A client of the host's API.
fn host_client(addr: &str, key: Option<&str>) -> Option<flynn_host_client::Client> {
    flynn_host_client::Client::new(&format!("http://{addr}"), key).ok()
}
