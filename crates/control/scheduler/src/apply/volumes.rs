//! What hosts and the controller say of volumes.

use flynn_types::controller::{Volume as Record, VolumeState};
use flynn_types::host::{VolumeEvent, VolumeEventKind, VolumeInfo};
use flynn_types::id::HostId;
use uuid::Uuid;

use crate::event::Write;
use crate::time::Time;
use crate::world::{JobIndex, Mounted, Timer, Volume, World};

impl World {
    pub(super) fn host_volume(&mut self, host: &HostId, event: &VolumeEvent) {
        match event.kind {
            VolumeEventKind::Create => self.volume_on_host(host, &event.volume),
            VolumeEventKind::Destroy => {
                let Some(volume) = self.volumes.find_mut(&event.volume.id).filter(|volume| volume.host == *host) else {
                    return;
                };
                volume.state = VolumeState::Destroyed;
                volume.holder = None;
                self.touch_volume(&event.volume.id);
                self.retry_waiting();
            }
        }
    }

    /// A host has the volume.
    pub(super) fn volume_on_host(&mut self, host: &HostId, info: &VolumeInfo) {
        if let Some(known) = self.volumes.find_mut(&info.id) {
            if known.state == VolumeState::Pending {
                known.state = VolumeState::Created;
                known.created_at = Some(info.created_at);
                self.touch_volume(&info.id);
            }
            return;
        }
        let Some(volume) = Volume::from_host(host, info) else { return };
        self.volumes.insert(volume);
        self.touch_volume(&info.id);
        self.retry_waiting();
    }

    /// What the controller recorded: whether it is decommissioned, and volumes of hosts that are away.
    pub(super) fn volume_record(&mut self, record: &Record) {
        if let Some(known) = self.volumes.find_mut(&record.id) {
            if known.decommissioned_at.is_none() && record.decommissioned_at.is_some() {
                known.decommissioned_at = record.decommissioned_at;
                self.retry_waiting();
            }
            return;
        }
        if let Some(mut volume) = Volume::from_record(record) {
            // Who has it now is for its host to say.
            volume.holder = volume.holder.filter(|job| self.uuids.contains_key(job));
            self.volumes.insert(volume);
        }
    }

    /// The job's volumes are in use.
    pub(super) fn hold_volumes(&mut self, index: JobIndex) {
        let (uuid, volumes) = (self.jobs[index].uuid, self.jobs[index].volumes.clone());
        for mounted in volumes {
            let known = self.volumes.find_mut(&mounted.id);
            let created = known.is_some_and(|volume| {
                let created = volume.state == VolumeState::Pending;
                if created {
                    volume.state = VolumeState::Created; // the host runs a job with it
                }
                created
            });
            if self.volumes.hold(&mounted.id, uuid) || created {
                self.touch_volume(&mounted.id);
            }
        }
    }

    pub(super) fn release_volumes(&mut self, index: JobIndex) {
        let (uuid, volumes) = (self.jobs[index].uuid, self.jobs[index].volumes.clone());
        let mut released = false;
        for mounted in volumes {
            if self.volumes.release(&mounted.id, uuid) {
                self.touch_volume(&mounted.id);
                released = true;
            }
        }
        if released {
            self.retry_waiting();
        }
    }

    /// A start failed. Volumes that were to be made for it are forgotten: their host tells if it made them. Others are free.
    pub(super) fn drop_new_volumes(&mut self, job: Uuid, volumes: &[Mounted]) {
        for mounted in volumes {
            match self.volumes.find(&mounted.id).map(|volume| volume.state) {
                Some(VolumeState::Pending) => {
                    self.volumes.remove(&mounted.id);
                    self.todo.unsaved_volumes.remove(&mounted.id);
                }
                _ if self.volumes.release(&mounted.id, job) => self.touch_volume(&mounted.id),
                _ => {}
            }
        }
    }

    pub(super) fn volume_saved(&mut self, id: &str, version: u32, outcome: Write, now: Time) {
        let saves = self.saves();
        let Some(volume) = self.volumes.find_mut(id) else { return };
        let again = volume.save.answered(version, outcome);
        let current = volume.save.saved == volume.save.version;
        if saves && !current {
            match again {
                Some(pause) => self.wake(now + pause, Timer::SaveVolumes),
                None => {
                    self.todo.unsaved_volumes.insert(id.to_owned());
                }
            }
        }
    }
}
