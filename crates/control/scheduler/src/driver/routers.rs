//! What routers say of routes and backends (spec section 4.4).

use std::collections::BTreeMap;

use flynn_discoverd_client::Client;
use flynn_http::Followed;
use flynn_types::discoverd::EventKind;
use flynn_types::router::StreamEvent;
use tracing::debug;

use super::Inbox;
use crate::Event;

const ROUTERS: &str = "router-api";
const EVENTS: &str = "/events?types=set,remove,backend-up,backend-down,backend-drained";

/// Follows all routers.
pub(super) fn watch(inbox: &Inbox, discoverd: &Client) {
    let (inbox, mut watch) = (inbox.clone(), discoverd.watch(ROUTERS));
    inbox.clone().spawn(async move {
        let mut followed = BTreeMap::new();
        loop {
            let event = watch.next().await;
            let Some(router) = event.instance else { continue };
            match event.kind {
                EventKind::Up | EventKind::Update if !followed.contains_key(&router.id) => {
                    let events = inbox.spawn_guarded(follow(inbox.clone(), router.id.clone(), router.addr));
                    followed.insert(router.id, events);
                }
                EventKind::Down => {
                    followed.remove(&router.id);
                    inbox.put(Event::RouterDown(router.id)).await;
                }
                _ => {}
            }
        }
    });
}

async fn follow(inbox: Inbox, id: String, addr: String) {
    let mut events = flynn_http::Client::new(&format!("http://{addr}")).follow::<StreamEvent>(EVENTS);
    loop {
        match events.next().await {
            Ok(Followed::Opened) => inbox.put(Event::RouterUp(id.clone())).await,
            Ok(Followed::Item(event)) => inbox.put(Event::Router { router: id.clone(), event }).await,
            Err(err) => debug!(router = id, %err, "router's events"),
        }
    }
}
