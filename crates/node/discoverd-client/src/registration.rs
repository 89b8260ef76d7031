//! Keeping an instance registered.

use std::sync::Arc;
use std::time::Duration;

use flynn_types::discoverd::{Instance, ServiceConfig};
use rand::Rng as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use crate::Client;

/// Spec discoverd-and-network section 9.2: every 5 s less up to 2 s, and 200–400 ms after a failure.
const INTERVAL: std::ops::RangeInclusive<u64> = 3000..=5000;
const INTERVAL_FAILING: std::ops::RangeInclusive<u64> = 200..=400;
/// Longest wait for one server: an instance expires after 10 s.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(2);
const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(5);

/// A registered instance. Dropping it ends the heartbeats, and the instance expires; [`Registration::deregister`]
/// withdraws it at once.
#[derive(Debug)]
pub struct Registration {
    client: Client,
    service: String,
    instance: watch::Sender<Instance>,
    registered: watch::Receiver<bool>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Client {
    /// Keeps `instance` registered from now on. Does not wait for the first success.
    pub fn register(&self, service: &str, instance: Instance) -> Registration {
        let stop = CancellationToken::new();
        let (instance, changes) = watch::channel(instance);
        let (told, registered) = watch::channel(false);
        let task = tokio::spawn(beat(self.clone(), service.to_owned(), changes, told, stop.clone()));
        Registration {
            client: self.clone(),
            service: service.to_owned(),
            instance,
            registered,
            stop: stop.drop_guard(),
            task,
        }
    }
}

impl Registration {
    /// Changes the instance's metadata or address; told at once. With a new address the old instance is withdrawn.
    pub fn update(&self, instance: Instance) {
        self.instance.send_if_modified(|current| {
            let changed = *current != instance;
            *current = instance;
            changed
        });
    }

    /// Whether the last heartbeat was accepted.
    pub fn registered(&self) -> watch::Receiver<bool> {
        self.registered.clone()
    }

    /// Waits until a heartbeat was accepted, for at most `limit`.
    pub async fn wait(&self, limit: Duration) -> bool {
        let mut registered = self.registered.clone();
        let accepted = tokio::time::timeout(limit, registered.wait_for(|accepted| *accepted)).await;
        matches!(accepted, Ok(Ok(_)))
    }

    /// Ends the heartbeats and withdraws the instance. Tries for at most 5 s; after that it expires by itself.
    pub async fn deregister(self) {
        drop(self.stop);
        let id = self.instance.borrow().id.clone();
        let removal = async {
            // The heartbeat in flight ends first: arriving after the removal, it would bring the instance back.
            let _ = self.task.await;
            self.client.remove_instance(&self.service, &id).await
        };
        match tokio::time::timeout(DEREGISTER_TIMEOUT, removal).await {
            Ok(Ok(())) => {}
            Ok(Err(err)) => debug!(service = self.service, %err, "instance cannot be withdrawn, it will expire"),
            Err(_) => debug!(service = self.service, "instance cannot be withdrawn in time, it will expire"),
        }
    }
}

async fn beat(
    client: Client,
    service: String,
    mut changes: watch::Receiver<Instance>,
    told: watch::Sender<bool>,
    stop: CancellationToken,
) {
    // Each server once: the loop itself goes on for ever, and a server that hangs must not cost the instance its life.
    let client = client.with_request_timeout(HEARTBEAT_TIMEOUT).with_patience(Duration::ZERO);
    let mut last: Option<Arc<Instance>> = None;
    let (mut failing, mut created) = (false, false);
    loop {
        let instance = Arc::new(changes.borrow_and_update().clone());
        if let Some(old) = last.as_ref().filter(|old| old.id != instance.id) {
            let _ = client.remove_instance(&service, &old.id).await; // expires otherwise
        }
        let interval = match client.put_instance(&service, &instance).await {
            Ok(()) => {
                created = false;
                if std::mem::take(&mut failing) {
                    info!(service, addr = instance.addr, "instance is registered again");
                }
                told.send_replace(true);
                INTERVAL
            }
            Err(err) => {
                // A missing service may be one that is not created yet, or was lost: ours to make.
                if err.is_not_found() && !created {
                    created = client.add_service(&service, &ServiceConfig::default()).await.is_ok();
                    if created {
                        continue;
                    }
                }
                if !std::mem::replace(&mut failing, true) {
                    warn!(
                        service,
                        addr = instance.addr,
                        err = &err as &dyn std::error::Error,
                        "heartbeat failed, trying again"
                    );
                }
                told.send_replace(false);
                INTERVAL_FAILING
            }
        };
        last = Some(instance);
        let pause = Duration::from_millis(rand::rng().random_range(interval));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            changed = changes.changed() => if changed.is_err() { return }, // told at once; or the owner is gone
        }
    }
}
