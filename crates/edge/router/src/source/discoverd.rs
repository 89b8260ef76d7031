//! Instances from discoverd, of exactly the services that routes name.

use std::collections::BTreeMap;
use std::sync::Arc;

use flynn_discoverd_client::{Client, View};
use flynn_types::discoverd::EventKind;
use tokio::task::{AbortHandle, JoinSet};
use tracing::warn;

use super::{Change, Changes, Instance, Interest, Membership};

/// Follows services until nobody listens. What was known of a service stays while discoverd is away.
pub async fn follow(client: Client, mut interest: Interest, changes: Changes) {
    let mut watches: BTreeMap<Arc<str>, AbortHandle> = BTreeMap::new();
    let mut running = JoinSet::new();
    loop {
        let wanted = Arc::clone(&interest.borrow_and_update());
        watches.retain(|service, watch| {
            let keep = wanted.contains(service);
            if !keep {
                watch.abort();
            }
            keep
        });
        for service in wanted.iter() {
            watches
                .entry(Arc::clone(service))
                .or_insert_with(|| running.spawn(follow_service(client.clone(), Arc::clone(service), changes.clone())));
        }
        tokio::select! {
            change = interest.changed() => if change.is_err() { return },
            () = changes.closed() => return,
            Some(_ended) = running.join_next() => {}
        }
    }
}

async fn follow_service(client: Client, service: Arc<str>, changes: Changes) {
    let mut watch = client.watch(&service);
    let mut complete = false;
    loop {
        let event = watch.next().await;
        // Before the first replay is over the view lacks instances that are there.
        complete |= event.kind == EventKind::Current;
        if complete && changes.send(Change::Members(membership(&service, watch.view()))).await.is_err() {
            return;
        }
    }
}

/// The instances of a view. One whose address is none cannot be reached and is left out.
fn membership(service: &str, view: &View) -> Membership {
    let meta =
        |meta: &BTreeMap<String, String>, key: &str| meta.get(key).map(|value| (**value).into()).unwrap_or_default();
    let instances = view.instances.values().filter_map(|instance| match instance.addr.parse() {
        Ok(address) => {
            let (app, job_id) = (meta(&instance.meta, "FLYNN_APP_NAME"), meta(&instance.meta, "FLYNN_JOB_ID"));
            Some(Instance { address, app, job_id })
        }
        Err(_) => {
            warn!(service, addr = instance.addr, "instance has no address of the form ip:port");
            None
        }
    });
    let leader = view.leader.as_ref().and_then(|leader| leader.addr.parse().ok());
    Membership { service: service.into(), instances: instances.collect(), leader }
}

#[cfg(test)]
mod tests {
    use flynn_types::discoverd as wire;

    use super::*;

    #[test]
    fn a_view_becomes_backends_and_bad_addresses_are_left_out() {
        let meta = BTreeMap::from([("FLYNN_JOB_ID".to_owned(), "host-1".to_owned())]);
        let good = wire::Instance::new("http", "10.0.0.1:80", meta);
        let bad = wire::Instance::new("http", "name:80", BTreeMap::new());
        let instances = [&good, &bad].map(|instance| (instance.id.clone(), instance.clone())).into();
        let view = View { instances, leader: Some(good), meta: None };
        let membership = membership("s", &view);
        assert_eq!(membership.instances.len(), 1);
        assert_eq!(&*membership.instances[0].job_id, "host-1");
        assert_eq!(membership.leader, Some(membership.instances[0].address));
    }
}
