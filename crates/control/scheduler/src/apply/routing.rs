//! What discovery and routers say of services.

use flynn_types::router::StreamEvent;
use uuid::Uuid;

use crate::time::Time;
use crate::world::World;

impl World {
    pub(super) fn instance_up(&mut self, service: &str, instance: &str, job: Uuid, now: Time) {
        self.routing.instance_up(service, instance, job, now);
        self.served(job, now);
    }

    pub(super) fn router_down(&mut self, router: &str, now: Time) {
        for job in self.routing.router_down(router) {
            self.served(job, now);
        }
    }

    pub(super) fn router_event(&mut self, router: &str, event: &StreamEvent, now: Time) {
        if let Some(job) = self.routing.router_event(router, event) {
            self.served(job, now);
        }
    }

    /// A job may serve now, or be drained.
    fn served(&mut self, job: Uuid, now: Time) {
        if let Some(index) = self.uuids.get(&job).copied() {
            self.service_changed(index, now);
            self.stop_goes_on(index, now);
        }
    }
}
