//! What the present state calls for, whatever event led to it (spec section 3.3).

use flynn_types::discoverd::Instance;
use flynn_types::sirenia::{ClusterState, Role};

use super::Step;
use crate::config::role_in;
use crate::declare;
use crate::state::{Hold, Life, Plan, Settled, Waiting};
use crate::{Effect, Position, View};

const MODE_MISMATCH: &str = "configured for singleton mode but cluster found in normal mode";

impl<P: Position> Step<P> {
    pub(super) fn evaluate(&mut self) {
        if self.state.life == Life::Stops {
            return self.leave();
        }
        let Some(view) = self.state.view.clone() else { return };
        if self.state.hold == Hold::Nothing {
            self.state.waiting = None;
        }
        let followed = match &view.cluster {
            None => self.without_state(&view),
            Some(cluster) => self.follow(cluster, &view),
        };
        if followed {
            self.configure();
        }
    }

    /// N1 to N4. Gives whether the role is known.
    fn without_state(&mut self, view: &View) -> bool {
        let volume = self.state.volume;
        if volume.generation > 0 || volume.has_data {
            self.state.waiting = Some(Waiting::StateLost(volume.generation));
            // A database that runs goes on: what was decided is still in force, as far as anybody knows.
            if self.state.role == Role::Unknown {
                self.state.role = Role::Unassigned;
            }
            return self.state.role == Role::Unassigned;
        }
        let peers = self.state.present(view);
        let me = peers.find(&self.state.me.id);
        let is_first = me.is_some() && peers.first() == me;
        let first = declare::first(&peers, self.state.me.singleton, P::default().to_string(), view.at);
        self.state.role = Role::Unassigned;
        match (is_first, first) {
            (true, Some(cluster)) => self.write(view.index, cluster),
            (true, None) => self.state.waiting = Some(Waiting::SecondPeer),
            (false, _) => self.state.waiting = Some(Waiting::FirstPeer),
        }
        true
    }

    /// S1 to S17. Gives whether the role is known.
    fn follow(&mut self, cluster: &ClusterState, view: &View) -> bool {
        let known = self.state.volume.generation;
        if cluster.generation < known {
            self.state.waiting = Some(Waiting::OlderState { found: cluster.generation, known });
            return false;
        }
        if self.state.me.singleton && !cluster.singleton {
            self.state.life = Life::Ended;
            self.effects.push(Effect::Fail(MODE_MISMATCH));
            return false;
        }
        if cluster.generation > known {
            self.state.volume.generation = cluster.generation;
            self.effects.push(Effect::Remember(cluster.generation));
        }
        self.state.role = role_in(cluster, &self.state.me.key, &self.state.me.id);
        match self.state.role {
            Role::Primary => self.as_primary(cluster, view),
            Role::Sync => self.as_sync(cluster, view),
            Role::Deposed => self.wait(Waiting::Deposed),
            Role::Unassigned => self.wait(match &cluster.primary {
                Some(primary) if cluster.singleton && !self.state.present(view).has(primary) => {
                    Waiting::SingletonGone(self.state.me.key.peer(primary))
                }
                _ => Waiting::Primary,
            }),
            Role::Async | Role::Unknown | Role::None => {}
        }
        true
    }

    /// S12 to S17.
    fn as_primary(&mut self, cluster: &ClusterState, view: &View) {
        if self.busy() {
            return;
        }
        let peers = self.state.present(view);
        let mut current = declare::refreshed(cluster, &peers);
        let version = |cluster: &ClusterState| cluster.tunables.as_ref().map_or(0, |tunables| tunables.version);
        if self.state.tunables.as_ref().is_some_and(|wanted| wanted.version > version(cluster)) {
            current.tunables.clone_from(&self.state.tunables);
        }
        if self.state.settled != Settled::Yes || current != *cluster {
            return self.write(view.index, current);
        }
        if let Some(freeze) = &cluster.freeze {
            return self.wait(Waiting::Freeze(freeze.reason.clone()));
        }
        let plan = self.primarys_plan(cluster, &peers);
        let asyncs = declare::asyncs_as_present(cluster, &peers);
        match plan {
            Some(plan) if self.state.runs() => self.fence(plan),
            Some(_) => {}
            None if !cluster.singleton && asyncs != *cluster => self.write(view.index, asyncs),
            None => {}
        }
    }

    fn primarys_plan(&self, cluster: &ClusterState, peers: &declare::Peers<'_>) -> Option<Plan> {
        let plan = match &cluster.sync {
            _ if cluster.singleton && self.state.me.singleton => return None,
            _ if cluster.singleton => Plan::NormalMode,
            Some(sync) if peers.has(sync) => return None,
            _ => Plan::SyncGone,
        };
        self.declared(plan, cluster, peers).map(|_| plan)
    }

    /// S9, S10.
    fn as_sync(&mut self, cluster: &ClusterState, view: &View) {
        if self.busy() {
            return;
        }
        if self.state.settled != Settled::Yes {
            return self.write(view.index, cluster.clone());
        }
        let peers = self.state.present(view);
        if cluster.primary.as_ref().is_none_or(|primary| peers.has(primary)) {
            return;
        }
        if let Some(freeze) = &cluster.freeze {
            return self.wait(Waiting::Freeze(freeze.reason.clone()));
        }
        match self.declared(Plan::PrimaryGone, cluster, &peers) {
            None => self.wait(Waiting::Async),
            Some(_) if self.state.runs() => self.fence(Plan::PrimaryGone),
            Some(_) => self.wait(Waiting::Offline),
        }
    }

    /// The state that a plan leads to, if there are the peers for it.
    pub(super) fn declared(
        &self,
        plan: Plan,
        cluster: &ClusterState,
        peers: &declare::Peers<'_>,
    ) -> Option<ClusterState> {
        let me: &Instance = peers.find(&self.state.me.id).or(match plan {
            // Its registration may be missing from a late view; as the sync it is in the state.
            Plan::PrimaryGone => cluster.sync.as_ref(),
            Plan::SyncGone | Plan::NormalMode => cluster.primary.as_ref(),
        })?;
        match plan {
            Plan::PrimaryGone | Plan::SyncGone => declare::takeover(cluster, me, peers),
            Plan::NormalMode => declare::normal_mode(cluster, me, peers),
        }
    }

    /// Whether the plan is still called for, now that the database is fenced.
    pub(super) fn still_due(&self, plan: Plan, cluster: &ClusterState, peers: &declare::Peers<'_>) -> bool {
        let gone = |entry: &Option<Instance>| entry.as_ref().is_some_and(|entry| !peers.has(entry));
        let role = role_in(cluster, &self.state.me.key, &self.state.me.id);
        cluster.freeze.is_none()
            && match plan {
                Plan::PrimaryGone => role == Role::Sync && gone(&cluster.primary),
                Plan::SyncGone | Plan::NormalMode => {
                    role == Role::Primary && self.primarys_plan(cluster, peers) == Some(plan)
                }
            }
    }

    fn busy(&self) -> bool {
        self.state.operation.is_some() || self.state.hold != Hold::Nothing
    }

    /// Says what is waited for, unless something that failed is.
    fn wait(&mut self, waiting: Waiting) {
        if self.state.hold == Hold::Nothing {
            self.state.waiting = Some(waiting);
        }
    }
}
