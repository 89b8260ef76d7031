//! Hosts appear, change, fall silent and are given up.

use flynn_types::host::SinkInfo;
use flynn_types::id::HostId;

use crate::event::{HostListing, HostNews};
use crate::time::Time;
use crate::world::{CHECK_INTERVAL, CHECKS, Check, Host, HostIndex, Listing, Phase, Timer, World};

/// From one listing of a host to the next (spec section 5, job sync).
const LIST_INTERVAL: std::time::Duration = std::time::Duration::from_secs(30);
/// After a listing that failed.
const LIST_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);
/// From one look at the jobs of a draining host to the next.
const DRAIN_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

impl World {
    /// Discovery has the host. Also what discovery says of one that did not answer: it may be back.
    pub(super) fn host_up(&mut self, news: &HostNews, now: Time) {
        let known = self.host_ids.get(&news.id).copied();
        let index = match known {
            Some(index) => index,
            None => {
                let index = self.hosts.insert(Host::new(news.id.clone(), now));
                self.host_ids.insert(news.id.clone(), index);
                index
            }
        };
        let host = &mut self.hosts[index];
        let before = (host.closed(), host.counts_for_omni(), host.draining);
        let tags = host.tags != news.tags;
        host.addr.clone_from(&news.addr);
        host.tags.clone_from(&news.tags);
        (host.draining, host.shutting_down) = (news.draining, news.shutting_down);
        if !std::mem::replace(&mut host.registered, true) {
            // It registered itself anew, so it lives; whether it answers us a check tells, and silence is counted anew.
            host.failed_checks = 0;
        }
        let changed = tags || before != (host.closed(), host.counts_for_omni(), host.draining);
        self.todo.hosts.insert(index);
        if changed || known.is_none() {
            self.host_changed(index, now);
        }
    }

    /// Discovery lost the host: it is asked itself. One that said it would go is gone.
    pub(super) fn host_down(&mut self, id: &HostId, now: Time) {
        let Some(index) = self.host_ids.get(id).copied() else { return };
        let host = &mut self.hosts[index];
        host.registered = false;
        if host.shutting_down {
            self.lose_host(index, now, "was shut down");
        } else if host.check == Check::No {
            host.check = Check::Due(now);
            host.suspect = true;
            self.todo.hosts.insert(index);
            self.host_changed(index, now);
        }
    }

    /// What discovery has now. Being absent makes a host suspect, no more.
    pub(super) fn all_hosts(&mut self, hosts: &[HostNews], now: Time) {
        for news in hosts {
            self.host_up(news, now);
        }
        let present: std::collections::BTreeSet<&HostId> = hosts.iter().map(|news| &news.id).collect();
        let absent: Vec<HostId> = self
            .hosts()
            .filter(|host| !present.contains(&host.id) && !host.shutting_down)
            .map(|host| host.id.clone())
            .collect();
        for id in absent {
            self.host_down(&id, now);
        }
    }

    pub(super) fn checked(&mut self, id: &HostId, alive: bool, now: Time) {
        let Some(index) = self.host_ids.get(id).copied() else { return };
        let host = &mut self.hosts[index];
        if host.check != Check::InFlight {
            return;
        }
        if alive {
            host.failed_checks = 0;
            // One that discovery does not have is asked for as long.
            host.check = if host.registered { Check::No } else { Check::Due(now + CHECK_INTERVAL) };
            if std::mem::take(&mut host.suspect) {
                host.listing = Listing::Due(now);
                self.host_changed(index, now);
            }
        } else {
            if !std::mem::replace(&mut host.suspect, true) {
                self.host_changed(index, now);
            }
            let host = &mut self.hosts[index];
            host.failed_checks = host.failed_checks.saturating_add(1);
            host.check = Check::Due(now + CHECK_INTERVAL);
        }
        let failed = self.hosts[index].failed_checks;
        if failed >= CHECKS && self.others_answer(index) {
            self.lose_host(index, now, "does not answer any more");
        } else {
            self.todo.hosts.insert(index);
            self.wake(now + CHECK_INTERVAL, Timer::Host(index));
        }
    }

    /// Whether some other host is known to live. When none is, this scheduler may be the one that is cut off, and there is
    /// no place for the jobs anyway: no host is given up.
    fn others_answer(&self, index: HostIndex) -> bool {
        self.hosts.iter().any(|(other, host)| other != index && host.listed.is_some() && host.is_healthy())
    }

    /// Gives a host up: its jobs count as ended (spec H5).
    pub(super) fn lose_host(&mut self, index: HostIndex, now: Time, why: &str) {
        self.todo.hosts.remove(&index);
        self.todo.unheard.remove(&index);
        self.todo.strays.retain(|(host, _), _| *host != index);
        let id = self.hosts[index].id.clone();
        // Omni counts shrink first: nothing replaces omni jobs elsewhere (spec O3).
        self.hosts[index].listed = None;
        let jobs: Vec<_> = self.hosts[index].jobs.iter().copied().collect();
        for job in jobs {
            self.stopped(job, None, Some(format!("host {id} {why}")), false, now);
        }
        self.host_ids.remove(&id);
        self.hosts.remove(index);
        self.mark_omni();
        self.retry_waiting();
    }

    /// The host opened its event stream: it was heard just now, and what it said before is to be listed.
    pub(super) fn stream_opened(&mut self, id: &HostId, now: Time) {
        let Some(index) = self.host_ids.get(id).copied() else { return };
        self.hosts[index].failed_checks = 0;
        self.hosts[index].listing = Listing::Due(now);
        self.todo.hosts.insert(index);
    }

    /// Everything that a host has, as of `asked`.
    pub(super) fn listed(
        &mut self,
        id: &HostId,
        asked: Time,
        term: Option<u64>,
        listing: Option<&HostListing>,
        now: Time,
    ) {
        let Some(index) = self.host_ids.get(id).copied() else { return };
        let Some(listing) = listing else {
            self.hosts[index].listing = Listing::Due(now + LIST_AGAIN);
            self.wake(now + LIST_AGAIN, Timer::Host(index));
            return;
        };
        for report in &listing.jobs {
            self.report(index, report, now.min(asked), now);
        }
        for info in &listing.volumes {
            self.volume_on_host(id, info);
        }
        let host = &mut self.hosts[index];
        let before = (host.closed(), host.size());
        host.listed = Some(asked);
        host.capacity = listing.capacity.or(host.capacity);
        let changed = before != (host.closed(), host.size());
        if listing.sinks.is_some() {
            host.sinks.clone_from(&listing.sinks);
        }
        let stale = term != self.leading();
        let host = &mut self.hosts[index];
        if stale {
            host.listing = Listing::Due(now);
        } else {
            host.fenced = term;
            host.listing = Listing::Due(now + LIST_INTERVAL);
            self.todo.unheard.remove(&index);
        }
        let due = if stale { now } else { now + LIST_INTERVAL };
        self.todo.hosts.insert(index);
        self.wake(due, Timer::Host(index));
        if changed {
            self.host_changed(index, now);
        }
        self.absent_jobs(index, asked, &listing.jobs);
    }

    /// Jobs that should be there and are not listed: the host is asked for each.
    fn absent_jobs(&mut self, index: HostIndex, asked: Time, reports: &[crate::event::Report]) {
        let listed: std::collections::HashSet<uuid::Uuid> = reports.iter().map(|report| report.uuid).collect();
        for job in self.hosts[index].jobs.iter().copied().collect::<Vec<_>>() {
            let known = &self.jobs[job];
            let unanswered = matches!(known.phase, Phase::Placed { accepted: false, .. });
            if !listed.contains(&known.uuid) && known.heard < asked && !unanswered {
                self.todo.lookups.insert(job);
            }
        }
    }

    /// What the host can take, or must not have, is different now.
    fn host_changed(&mut self, index: HostIndex, now: Time) {
        self.retry_waiting();
        self.mark_omni();
        // Jobs of this host, and those of draining ones, which may have a place to go now.
        let drained = self.hosts.iter().filter(|(other, host)| host.draining || *other == index);
        for job in drained.flat_map(|(_, host)| host.jobs.iter().copied()).collect::<Vec<_>>() {
            self.mark_formation_of(job);
        }
        if self.hosts[index].draining {
            self.wake(now + DRAIN_INTERVAL, Timer::Host(index));
        }
    }

    /// Jobs of draining hosts are moved a few at a time.
    pub(crate) fn look_at_drain(&mut self, index: HostIndex, now: Time) {
        let Some(host) = self.hosts.find(index).filter(|host| host.draining && !host.jobs.is_empty()) else { return };
        for job in host.jobs.iter().copied().collect::<Vec<_>>() {
            self.mark_formation_of(job);
        }
        self.wake(now + DRAIN_INTERVAL, Timer::Host(index));
    }

    /// Formations with a job on each host.
    fn mark_omni(&mut self) {
        let omni = self.formations.iter().filter(|(_, formation)| formation.types.iter().any(|kind| kind.omni));
        self.todo.formations.extend(omni.map(|(index, _)| index));
    }

    pub(super) fn sinks_synced(&mut self, id: &HostId, sinks: Option<Vec<SinkInfo>>, _now: Time) {
        let Some(index) = self.host_ids.get(id).copied() else { return };
        self.hosts[index].sinks = sinks;
        self.todo.hosts.insert(index);
    }
}
