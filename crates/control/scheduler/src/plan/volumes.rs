//! Jobs go where their data is.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use flynn_types::controller::VolumeReq;
use flynn_types::id::HostId;

use super::draft::{Candidate, Draft};
use crate::action::Claim;
use crate::reason::Reason;
use crate::world::{Formation, FormationKey, HostIndex, Phase, TypeState, Volume};

/// A volume that a job could have.
#[derive(Clone)]
struct Usable<'a> {
    volume: &'a Volume,
    /// The job that still has it, and is stopping.
    ending: Option<uuid::Uuid>,
}

impl<'a> Draft<'a> {
    /// Places a job of a type with volumes: on the host that has most of its data, or anywhere with new volumes. Data that
    /// exists and cannot be reached now is waited for, not replaced by an empty volume.
    pub(super) fn place_with_volumes(&mut self, formation: &Formation, kind: &TypeState, candidate: &Candidate<'_>) {
        let found = self.by_host(formation, kind);
        let best = found.iter().min_by_key(|(host, volumes)| {
            let has = volumes.iter().flatten().count();
            let ending = volumes.iter().flatten().filter(|usable| usable.ending.is_some()).count();
            (Reverse(has), self.unfit(host, kind).is_some(), ending, *host)
        });
        let Some((host_id, volumes)) = best else {
            return match self.any_host(kind, candidate.avoid) {
                Some(host) => {
                    let claims = self.claims(kind, &vec![None; kind.volumes.len()]);
                    self.start(candidate, kind, host, claims);
                }
                None => self.wait(candidate, self.why_nowhere(kind)),
            };
        };
        let first = volumes.iter().flatten().next().expect("the host has one of them");
        let volume = first.volume.id.clone();
        if let Some(why) = self.unfit(host_id, kind) {
            return self.wait(candidate, Reason::VolumeHost { volume, host: host_id.to_string(), why });
        }
        let ending = volumes.iter().flatten().find_map(|usable| Some((usable.volume.id.clone(), usable.ending?)));
        if let Some((volume, job)) = ending {
            return self.wait(candidate, Reason::VolumeInUse { volume, job: job.to_string() });
        }
        let host = self.world.host_ids[*host_id];
        let claims = self.claims(kind, volumes);
        self.start(candidate, kind, host, claims);
    }

    /// Volumes for a job on a host that was chosen for other reasons.
    pub(super) fn claims_on(&mut self, formation: &Formation, kind: &TypeState, host: HostIndex) -> Vec<Claim> {
        if kind.volumes.is_empty() {
            return Vec::new();
        }
        let mut found = self.by_host(formation, kind);
        let mut volumes = found.remove(&self.world.hosts[host].id).unwrap_or_else(|| vec![None; kind.volumes.len()]);
        for volume in &mut volumes {
            *volume = volume.take().filter(|usable| usable.ending.is_none());
        }
        self.claims(kind, &volumes)
    }

    /// For each host what it has of the type's volumes, in the order of the requests.
    fn by_host(&self, formation: &Formation, kind: &TypeState) -> BTreeMap<&'a HostId, Vec<Option<Usable<'a>>>> {
        let mut found: BTreeMap<&HostId, Vec<Option<Usable<'_>>>> = BTreeMap::new();
        for (place, request) in kind.volumes.iter().enumerate().filter(|(_, request)| !request.delete_on_stop) {
            for volume in self.world.volumes.made_for(&formation.key.app, &kind.name, &request.path) {
                let Some(usable) = self.usable(formation, volume) else { continue };
                let of_host = found.entry(&volume.host).or_insert_with(|| vec![None; kind.volumes.len()]);
                let free = |usable: &Usable<'_>| usable.ending.is_none();
                // The first that is free, else the first.
                if of_host[place].as_ref().is_none_or(|before| free(&usable) && !free(before)) {
                    of_host[place] = Some(usable);
                }
            }
        }
        found
    }

    /// Whether the volume may go to a job of the formation (spec L4). One that a live job has may not: one writer.
    fn usable(&self, formation: &Formation, volume: &'a Volume) -> Option<Usable<'a>> {
        let known = || {
            let key = FormationKey { app: volume.app.clone(), release: volume.release.clone() };
            self.world.formation(&key).is_some_and(|formation| formation.known.is_some())
        };
        if !volume.is_reusable() || self.taken.contains(&volume.id) {
            return None;
        }
        if volume.release != formation.key.release && !known() {
            return None;
        }
        match volume.holder.and_then(|holder| self.world.job(holder)).map(|job| (job.phase, job.uuid)) {
            None | Some((Phase::Pending { .. } | Phase::Stopped, _)) => Some(Usable { volume, ending: None }),
            Some((Phase::Stopping { .. }, job)) => Some(Usable { volume, ending: Some(job) }),
            Some((Phase::Placed { .. } | Phase::Starting { .. } | Phase::Running { .. }, _)) => None,
        }
    }

    /// Why the type's jobs cannot run on a host. One that is draining is no obstacle: the data is there.
    fn unfit(&self, id: &HostId, kind: &TypeState) -> Option<String> {
        let Some(host) = self.world.host(id) else { return Some("is not in the cluster".into()) };
        if let Some((key, value)) = kind.tags.iter().find(|(key, value)| host.tags.get(key) != Some(value)) {
            return Some(format!("has no tag {key}={value}"));
        }
        if host.size().memory < kind.needs.memory {
            return Some("has too little memory".into());
        }
        host.closed_to_omni().map(str::to_owned)
    }

    fn claims(&mut self, kind: &TypeState, volumes: &[Option<Usable<'_>>]) -> Vec<Claim> {
        let claim = |(request, usable): (&VolumeReq, &Option<Usable<'_>>)| {
            let id = match usable {
                Some(usable) => usable.volume.id.clone(),
                None => self.ids.next().to_string(),
            };
            Claim { id, path: request.path.clone(), delete_on_stop: request.delete_on_stop, new: usable.is_none() }
        };
        kind.volumes.iter().zip(volumes).map(claim).collect()
    }
}
