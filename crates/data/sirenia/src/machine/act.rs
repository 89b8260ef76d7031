//! Asking for things to be done.

use flynn_types::sirenia::{ClusterState, Role};

use super::Step;
use crate::config::{config_of, same, stopped};
use crate::state::{Hold, Life, Operation, Plan, Settled, Waiting};
use crate::{Effect, Position, Ticket};

impl<P: Position> Step<P> {
    fn begin(&mut self, operation: Operation) -> Ticket {
        self.state.ticket += 1;
        self.state.operation = Some(operation);
        self.state.ticket
    }

    /// Where the generation begins.
    pub(super) fn initial_position(&self) -> Result<P, Waiting> {
        let position = self.state.cluster().map(|(_, cluster)| cluster.init_wal.clone()).unwrap_or_default();
        if position.is_empty() {
            return Ok(P::default()); // how some databases write their zero
        }
        position.parse().map_err(|err: P::Err| Waiting::Malformed { position, reason: err.to_string() })
    }

    pub(super) fn fence(&mut self, plan: Plan) {
        match self.initial_position() {
            Ok(at_least) => {
                let ticket = self.begin(Operation::Fence(plan));
                self.effects.push(Effect::Fence { ticket, at_least });
            }
            Err(malformed) => self.try_later(Hold::Declaring, malformed),
        }
    }

    /// The database is fenced: writes the new generation if there is still a reason to.
    pub(super) fn declare(&mut self, plan: Plan, position: &P) {
        let Some(view) = self.state.view.clone() else { return };
        let Some(cluster) = &view.cluster else { return };
        let peers = self.state.present(&view);
        if !self.still_due(plan, cluster, &peers) {
            return;
        }
        if let Some(declared) = self.declared(plan, cluster, &peers) {
            self.write(view.index, ClusterState { init_wal: position.to_string(), ..declared });
        }
    }

    pub(super) fn write(&mut self, index: u64, cluster: ClusterState) {
        if self.state.operation.is_some() || self.state.hold != Hold::Nothing {
            return;
        }
        let leader = cluster.primary.as_ref().map(|primary| primary.id.clone()).unwrap_or_default();
        let cluster = Box::new(cluster);
        let ticket = self.begin(Operation::Write { index, cluster: cluster.clone() });
        self.effects.push(Effect::Write { ticket, index, cluster, leader });
    }

    /// Makes the database what the role says (spec section 3.9).
    pub(super) fn configure(&mut self) {
        let Some(view) = &self.state.view else { return };
        let config = match &view.cluster {
            Some(cluster) => {
                let peers = self.state.present(view);
                config_of(self.state.role, &self.state.me.id, cluster, &self.state.me.key, &peers)
            }
            None => stopped(),
        };
        let declares = matches!(self.state.operation, Some(Operation::Fence(_) | Operation::Write { .. }));
        let acts = matches!(config.role, Role::Primary | Role::Sync);
        let unsettled = acts && (self.state.settled != Settled::Yes || self.state.hold == Hold::Everything);
        if declares || unsettled || self.state.same(&self.state.failed, &config) {
            return;
        }
        self.set(config);
    }

    fn set(&mut self, config: flynn_types::sirenia::Config) {
        let key = &self.state.me.key;
        let under_way = matches!(&self.state.operation, Some(Operation::Configure(other)) if same(other, &config, key));
        if under_way || self.state.operation.is_none() && self.state.same(&self.state.applied, &config) {
            return;
        }
        self.state.applied = None;
        let ticket = self.begin(Operation::Configure(Box::new(config.clone())));
        self.effects.push(Effect::Configure { ticket, config: Box::new(config) });
    }

    /// Stops the database, then withdraws.
    pub(super) fn leave(&mut self) {
        self.state.role = Role::None;
        let config = stopped();
        if self.state.same(&self.state.applied, &config) {
            self.state.life = Life::Ended;
            self.effects.push(Effect::Withdraw);
        } else if !self.state.same(&self.state.failed, &config) {
            self.set(config);
        }
    }
}
