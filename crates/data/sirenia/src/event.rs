//! What the state machine hears, and what it asks for.

use flynn_types::discoverd::Instance;
use flynn_types::sirenia::{ClusterState, Config, Tunables};
use flynn_types::time::GoTime;

/// The service as discoverd tells it. Always the whole: events of single peers may be lost, a view cannot be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Who is registered, in any order.
    pub peers: Vec<Instance>,
    /// Index of the state's last write, 0 when there never was one.
    pub index: u64,
    pub cluster: Option<ClusterState>,
    /// When this was seen; only written down, never compared.
    pub at: GoTime,
}

/// Numbers what was asked for, so that a late answer is known as one.
pub type Ticket = u64;

/// Why a state was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFailure {
    /// Certainly not written: the index is no longer the current one.
    Refused,
    /// The answer was lost. The write may have been applied, and **may still be applied later**.
    Uncertain,
}

/// Why a database was not fenced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FenceFailure<P> {
    /// It does not run. Nothing changed.
    Offline,
    /// Its log ends here, before what was demanded. Nothing changed.
    Behind(P),
    /// Whether it is fenced is unknown.
    Failed(String),
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<P> {
    Discovered(Box<View>),
    /// Answer to [`Effect::Fence`].
    Fenced(Ticket, Result<P, FenceFailure<P>>),
    /// Answer to [`Effect::Write`]: the new index.
    Written(Ticket, Result<u64, WriteFailure>),
    /// Answer to [`Effect::Configure`]; an error says why, in words.
    Configured(Ticket, Result<(), String>),
    /// Answer to [`Effect::Retry`].
    Timer,
    /// An operator changes the tunables. Only the primary takes this, and only with a higher version.
    Tune(Tunables),
    /// The peer is to leave its cluster. The machine does nothing else any more.
    Stop,
}

/// What is to be done, in this order.
///
/// At most one of `Fence`, `Write` and `Configure` is under way. A new one replaces the one before it, which is then
/// abandoned at whatever point it is; its answer is of no interest.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect<P> {
    /// Puts the generation on the volume, durably, before any later effect. Given to [`crate::State::new`] after a
    /// restart.
    Remember(u64),
    /// From the answer on, until the next `Configure`: the primary acknowledges no commit, a standby takes nothing from
    /// its upstream. The answer is the position at which the log stays.
    ///
    /// A database whose log ends before `at_least` is left as it is.
    Fence { ticket: Ticket, at_least: P },
    /// Writes the state if its index is still this one, and makes `leader` (an instance's id) the service's leader.
    Write { ticket: Ticket, index: u64, cluster: Box<ClusterState>, leader: String },
    /// Makes the database what this says, and lifts a fence.
    Configure { ticket: Ticket, config: Box<Config> },
    /// Tells [`Event::Timer`] in [`crate::RETRY`]. While one runs, a second one is not started.
    Retry,
    /// The database is stopped: the registration is to be withdrawn.
    Withdraw,
    /// The peer must not run: it ends with this message.
    Fail(&'static str),
}
