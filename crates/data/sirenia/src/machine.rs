//! The state machine: events in, effects out.

mod act;
mod evaluate;

use flynn_types::sirenia::{ClusterState, Tunables};

use crate::state::{Hold, Life, Operation, Plan, Settled, Waiting};
use crate::{Effect, Event, FenceFailure, Position, State, Ticket, View, WriteFailure};

/// What becomes of a peer by an event, and what is to be done.
///
/// Pure: equal states and events give equal results. Effects are carried out in their order; see [`Effect`].
pub fn next<P: Position>(state: &State, event: Event<P>) -> (State, Vec<Effect<P>>) {
    let mut step = Step { state: state.clone(), effects: Vec::new() };
    if step.state.life != Life::Ended {
        step.take(event);
        step.evaluate();
    }
    (step.state, step.effects)
}

/// One event's work.
struct Step<P> {
    state: State,
    effects: Vec<Effect<P>>,
}

impl<P: Position> Step<P> {
    fn take(&mut self, event: Event<P>) {
        match event {
            Event::Discovered(view) => self.see(*view),
            Event::Fenced(ticket, result) => {
                if let Some(Operation::Fence(plan)) = self.answered(ticket) {
                    self.fenced(plan, result);
                }
            }
            Event::Written(ticket, result) => {
                if let Some(Operation::Write { index, cluster }) = self.answered(ticket) {
                    self.written(index, *cluster, result);
                }
            }
            Event::Configured(ticket, result) => {
                if let Some(Operation::Configure(config)) = self.answered(ticket) {
                    self.configured(*config, result);
                }
            }
            Event::Timer => {
                self.state.timer = false;
                self.state.hold = Hold::Nothing;
                self.state.failed = None;
            }
            Event::Tune(tunables) => self.tune(tunables),
            Event::Stop => self.state.life = Life::Stops,
        }
    }

    /// The operation that the answer belongs to; answers to abandoned ones are of no interest.
    fn answered(&mut self, ticket: Ticket) -> Option<Operation> {
        if ticket == self.state.ticket { self.state.operation.take() } else { None }
    }

    /// A view that lags behind in its state may tell who is there, nothing more.
    fn see(&mut self, mut view: View) {
        view.peers.sort_by_key(|peer| peer.index);
        if let Some(known) = &mut self.state.view
            && view.index <= known.index
        {
            (known.peers, known.at) = (view.peers, view.at);
            return;
        }
        if matches!(self.state.settled, Settled::UnlessAt(index) if index < view.index) {
            self.state.settled = Settled::Yes; // a write at the older index is refused from now on
        }
        self.state.hold = Hold::Nothing;
        self.state.view = Some(view);
    }

    fn fenced(&mut self, plan: Plan, result: Result<P, FenceFailure<P>>) {
        let position = match result {
            Ok(position) => position,
            Err(FenceFailure::Offline) => {
                self.state.applied = None;
                return self.try_later(Hold::Declaring, Waiting::Offline);
            }
            Err(FenceFailure::Behind(position)) => return self.behind(&position),
            Err(FenceFailure::Failed(reason)) => {
                self.state.applied = None;
                return self.try_later(Hold::Declaring, Waiting::Fence(reason));
            }
        };
        self.state.applied = None; // fenced: whatever happens next, it is to be configured again
        match self.initial_position() {
            // The database has looked too, but this is the rule that keeps commits.
            Ok(needed) if position < needed => self.behind(&position),
            Err(malformed) => self.try_later(Hold::Declaring, malformed),
            Ok(_) => self.declare(plan, &position),
        }
    }

    fn behind(&mut self, position: &P) {
        let needed = self.state.cluster().map(|(_, cluster)| cluster.init_wal.clone()).unwrap_or_default();
        self.try_later(Hold::Declaring, Waiting::NotCaughtUp { own: position.to_string(), needed });
    }

    fn written(&mut self, index: u64, cluster: ClusterState, result: Result<u64, WriteFailure>) {
        match result {
            Ok(written) => {
                self.state.settled = Settled::Yes;
                self.state.hold = Hold::Nothing;
                // A newer state may have been seen before the answer came.
                if let Some(view) = self.state.view.as_mut().filter(|view| view.index < written) {
                    (view.index, view.cluster) = (written, Some(cluster));
                }
            }
            Err(WriteFailure::Refused) => {
                if matches!(self.state.settled, Settled::UnlessAt(at) if at <= index) {
                    self.state.settled = Settled::Yes; // so are those before it
                }
                if self.state.view.as_ref().is_some_and(|view| view.index <= index) {
                    self.try_later(Hold::Everything, Waiting::Newer);
                }
            }
            Err(WriteFailure::Uncertain) => {
                if self.state.view.as_ref().is_some_and(|view| view.index <= index) {
                    if self.state.settled != Settled::Unknown {
                        self.state.settled = Settled::UnlessAt(index);
                    }
                    self.try_later(Hold::Everything, Waiting::Uncertain);
                }
            }
        }
    }

    fn configured(&mut self, config: flynn_types::sirenia::Config, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.state.applied = Some(config);
                self.state.failed = None;
                self.state.retry_reason = None;
            }
            Err(reason) => {
                self.state.failed = Some(config);
                self.state.retry_reason = Some(reason);
                self.arm();
            }
        }
    }

    fn tune(&mut self, tunables: Tunables) {
        let newer = self
            .state
            .cluster()
            .is_some_and(|(_, cluster)| tunables.version > cluster.tunables.as_ref().map_or(0, |known| known.version));
        if newer && self.state.role == flynn_types::sirenia::Role::Primary {
            self.state.tunables = Some(tunables);
        }
    }

    fn try_later(&mut self, hold: Hold, waiting: Waiting) {
        self.state.hold = hold;
        self.state.waiting = Some(waiting);
        self.arm();
    }

    fn arm(&mut self) {
        if !std::mem::replace(&mut self.state.timer, true) {
            self.effects.push(Effect::Retry);
        }
    }
}
