//! The services of a job: health checks, registration with discoverd, heartbeats, withdrawal.
//!
//! They run on a thread with a runtime of their own, which exists only in containers that have services. Each service
//! is one [`instance::Instance`], told by a watch channel whether its port is up.

mod check;
mod discoverd;
mod health;
mod http;
mod instance;

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use flynn_types::host::{HealthCheck, Port};
use flynn_types::init::InitConfig;
use rustix::event::{EventfdFlags, eventfd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

use crate::log::{self, Level};
use check::Target;
use discoverd::Discoverd;
use health::{Change, Health};
use instance::Instance;

/// Stack of the services' thread, in bytes: TLS handshakes need the most.
const STACK: usize = 256 * 1024;
/// How often a port is tried until it is up for the first time.
const FIRST_INTERVAL: Duration = Duration::from_millis(100);

/// The services of a job, for its init.
#[derive(Debug)]
pub(crate) struct Services {
    withdraw: watch::Sender<bool>,
    shared: Arc<Shared>,
}

/// What the thread tells init; each change is announced on the event descriptor.
#[derive(Debug)]
struct Shared {
    events: OwnedFd,
    kill: AtomicBool,
    withdrawn: AtomicBool,
}

impl Shared {
    fn set(&self, what: &AtomicBool) {
        what.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.events, &1_u64.to_ne_bytes()); // only fails when it is readable anyway
    }
}

impl Services {
    /// Readable when there is news.
    pub(crate) fn events(&self) -> BorrowedFd<'_> {
        self.shared.events.as_fd()
    }

    /// Begins to withdraw all services, for good.
    pub(crate) fn withdraw(&self) {
        self.withdraw.send_replace(true);
    }

    pub(crate) fn are_withdrawn(&self) -> bool {
        self.shared.withdrawn.load(Ordering::Acquire)
    }

    /// Whether a health check wants the job killed, since the last call. Takes the news.
    pub(crate) fn take_kill_request(&mut self) -> bool {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.shared.events, &mut count);
        self.shared.kill.swap(false, Ordering::AcqRel)
    }
}

/// Checks the configuration before the job starts; errors are for the job's owner.
pub(crate) fn check(config: &InitConfig) -> Result<(), String> {
    for (_, service) in with_service(config) {
        if service.name.is_empty() {
            return Err("a port's service has no name".into());
        }
        if service.create {
            flynn_types::discoverd::validate_service_name(&service.name)
                .map_err(|err| format!("service {:?}: {err}", service.name))?;
        }
        if let Some(check) = &service.check {
            check::validate(check).map_err(|err| format!("service {:?}: {err}", service.name))?;
        }
    }
    if with_service(config).next().is_some() {
        discoverd::endpoints(&config.discoverd)?;
    }
    Ok(())
}

fn with_service(config: &InitConfig) -> impl Iterator<Item = (&Port, &flynn_types::host::Service)> {
    config.ports.iter().filter_map(|port| Some((port, port.service.as_ref()?)))
}

/// Starts the thread, if the job has services.
pub(crate) fn start(config: &InitConfig) -> io::Result<Option<Services>> {
    if with_service(config).next().is_none() {
        return Ok(None);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (withdraw, withdrawing) = watch::channel(false);
    let shared = Arc::new(Shared {
        events: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        kill: AtomicBool::new(false),
        withdrawn: AtomicBool::new(false),
    });
    let services = Services { withdraw, shared: Arc::clone(&shared) };
    let config = config.clone();
    std::thread::Builder::new().name("services".into()).stack_size(STACK).spawn(move || {
        tokio::task::LocalSet::new().block_on(&runtime, run(&config, &withdrawing, &shared));
        shared.set(&shared.withdrawn);
    })?;
    Ok(Some(services))
}

async fn run(config: &InitConfig, withdrawing: &watch::Receiver<bool>, shared: &Arc<Shared>) {
    let endpoints = match discoverd::endpoints(&config.discoverd) {
        Ok(endpoints) => endpoints,
        Err(err) => return log::write(Level::Error, err),
    };
    let discoverd = Rc::new(Discoverd::new(endpoints));
    let mut tasks = Vec::new();
    for (port, service) in with_service(config) {
        let (up, is_up) = watch::channel(service.check.is_none());
        let instance = Instance::new(config, port, service, Rc::clone(&discoverd));
        tasks.push(tokio::task::spawn_local(instance.run(is_up, withdrawing.clone())));
        if let Some(check) = &service.check {
            let target = Target::new(check, &address(config, port));
            let watch = Watch { check: check.clone(), name: service.name.clone(), up, shared: Arc::clone(shared) };
            let mut withdrawing = withdrawing.clone();
            tasks.push(tokio::task::spawn_local(async move {
                tokio::select! {
                    () = watch.run(target) => {}
                    _ = withdrawing.wait_for(|withdraw| *withdraw) => {}
                }
            }));
        }
    }
    for task in tasks {
        if let Err(err) = task.await {
            log::write(Level::Error, format_args!("a service's task failed: {err}"));
        }
    }
}

/// Where a port is registered and checked.
fn address(config: &InitConfig, port: &Port) -> String {
    let host = if config.external_ip.is_empty() { "127.0.0.1" } else { &config.external_ip };
    if host.contains(':') { format!("[{host}]:{}", port.port) } else { format!("{host}:{}", port.port) }
}

/// One service's health check.
struct Watch {
    check: HealthCheck,
    name: String,
    up: watch::Sender<bool>,
    shared: Arc<Shared>,
}

impl Watch {
    async fn run(self, target: Target) {
        let threshold = if self.check.threshold == 0 { HealthCheck::DEFAULT_THRESHOLD } else { self.check.threshold };
        let health = Cell::new(Health::new(threshold));
        let checking = self.keep_checking(&target, &health);
        if !self.check.kill_down {
            return checking.await;
        }
        let grace = positive(self.check.start_timeout).unwrap_or(HealthCheck::DEFAULT_START_TIMEOUT);
        let in_time = Cell::new(true);
        let deadline = async {
            tokio::time::sleep(grace).await;
            in_time.set(false);
            if !health.get().is_up() {
                self.kill();
            }
            std::future::pending::<()>().await;
        };
        let transitions = async {
            let mut up = self.up.subscribe();
            while up.changed().await.is_ok() {
                let down = !*up.borrow_and_update();
                if down && !in_time.get() {
                    self.kill();
                }
            }
        };
        tokio::join!(checking, deadline, transitions);
    }

    async fn keep_checking(&self, target: &Target, health: &Cell<Health>) {
        let interval = positive(self.check.interval).unwrap_or(HealthCheck::DEFAULT_INTERVAL);
        loop {
            let result = target.check().await;
            let mut now = health.get();
            match now.observe(result.is_ok()) {
                Some(Change::Up) => {
                    log::write(Level::Info, format_args!("service {:?} is up", self.name));
                    self.up.send_replace(true);
                }
                Some(Change::Down) => {
                    let reason = result.err().unwrap_or_default();
                    log::write(Level::Warn, format_args!("service {:?} is down: {reason}", self.name));
                    self.up.send_replace(false);
                }
                None => {
                    if let Err(reason) = result {
                        log::write(Level::Debug, format_args!("service {:?} failed its check: {reason}", self.name));
                    }
                }
            }
            health.set(now);
            tokio::time::sleep(if now.was_up() { interval } else { FIRST_INTERVAL }).await;
        }
    }

    fn kill(&self) {
        self.shared.set(&self.shared.kill);
    }
}

fn positive(duration: Option<Duration>) -> Option<Duration> {
    duration.filter(|duration| !duration.is_zero())
}

#[cfg(test)]
mod tests;
