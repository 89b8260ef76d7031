//! The event streams of hosts.

use std::collections::BTreeMap;

use flynn_http::Followed;
use flynn_types::id::HostId;
use tokio_util::sync::DropGuard;
use tracing::debug;

use super::{Config, Inbox, host_client};
use crate::event::Report;
use crate::{Event, World};

/// A stream per host that the world has.
pub(super) struct Streams {
    inbox: Inbox,
    key: Option<String>,
    /// With the address that is followed.
    open: BTreeMap<HostId, (String, DropGuard)>,
}

impl Streams {
    pub(super) fn new(inbox: &Inbox, config: &Config) -> Self {
        Self { inbox: inbox.clone(), key: config.host_auth_key.clone(), open: BTreeMap::new() }
    }

    /// Opens and closes streams, so that there is one for each host at its present address.
    pub(super) fn follow(&mut self, world: &World) {
        self.open.retain(|id, (addr, _)| world.host(id).is_some_and(|host| host.addr == *addr));
        for host in world.hosts() {
            if self.open.contains_key(&host.id) {
                continue;
            }
            let Some(client) = host_client(&host.addr, self.key.as_deref()) else { continue };
            let stream = self.inbox.spawn_guarded(events(self.inbox.clone(), host.id.clone(), client));
            self.open.insert(host.id.clone(), (host.addr.clone(), stream));
        }
    }
}

async fn events(inbox: Inbox, id: HostId, client: flynn_host_client::Client) {
    let (mut jobs, mut volumes) = (client.follow_events(), client.follow_volume_events());
    loop {
        let event = tokio::select! {
            event = jobs.next() => match event {
                Ok(Followed::Opened) => Event::HostStream(id.clone()),
                Ok(Followed::Item(event)) => match Report::new(&event.job) {
                    Some(report) => Event::HostJob { host: id.clone(), report: Box::new(report) },
                    None => continue,
                },
                Err(err) => {
                    debug!(host_id = %id, %err, "host's job events");
                    continue;
                }
            },
            event = volumes.next() => match event {
                Ok(Followed::Opened) => Event::HostStream(id.clone()),
                Ok(Followed::Item(event)) => Event::HostVolume { host: id.clone(), event: Box::new(event) },
                Err(err) => {
                    debug!(host_id = %id, %err, "host's volume events");
                    continue;
                }
            },
        };
        inbox.put(event).await;
    }
}
