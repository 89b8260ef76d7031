//! All that the state machine knows.

use flynn_types::discoverd::Instance;
use flynn_types::sirenia::{ClusterState, Config, IdKey, PeerId, Role, Tunables};

use crate::config::same;
use crate::declare::Peers;
use crate::{Ticket, View};

/// Who a peer is and how it is set up.
#[derive(Clone, Debug, PartialEq)]
pub struct Me {
    pub id: PeerId,
    /// Where instances name their peer.
    pub key: IdKey,
    /// Whether the operator wants one peer that writes alone.
    pub singleton: bool,
}

/// What a peer found on its volume when it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// The last that [`crate::Effect::Remember`] put there; 0 on a new one.
    pub generation: u64,
    /// Whether there is a database.
    pub has_data: bool,
}

/// A peer's state machine between two events.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub(crate) me: Me,
    pub(crate) volume: Volume,
    /// Before discoverd told anything there is none.
    pub(crate) view: Option<View>,
    pub(crate) role: Role,
    /// What is under way.
    pub(crate) operation: Option<Operation>,
    /// The last that was given out.
    pub(crate) ticket: Ticket,
    /// What the database certainly is; nothing while it is fenced or being configured, and at first.
    pub(crate) applied: Option<Config>,
    /// What the database could not be made, until the timer.
    pub(crate) failed: Option<Config>,
    pub(crate) hold: Hold,
    pub(crate) settled: Settled,
    pub(crate) timer: bool,
    pub(crate) life: Life,
    /// What an operator wants.
    pub(crate) tunables: Option<Tunables>,
    /// The last error of the database that still matters.
    pub(crate) retry_reason: Option<String>,
    pub(crate) waiting: Option<Waiting>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operation {
    Fence(Plan),
    Write { index: u64, cluster: Box<ClusterState> },
    Configure(Box<Config>),
}

/// A generation to be declared, once the database is fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// By the sync.
    PrimaryGone,
    /// By the primary.
    SyncGone,
    /// By a primary that wrote alone.
    NormalMode,
}

/// What must not be tried before the timer, or a newer state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hold {
    Nothing,
    /// Fences and writes.
    Declaring,
    /// Those, and lifting a fence.
    Everything,
}

/// Whether a write of this peer may still be applied that it does not know the outcome of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    Yes,
    /// One at this index.
    UnlessAt(u64),
    /// One of an earlier process of this peer, at any index.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Runs,
    Stops,
    /// Stopped, or failed for good.
    Ended,
}

/// Why a peer is not further than it is.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Waiting {
    #[error("a second peer, to start the cluster")]
    SecondPeer,
    #[error("the first peer, to start the cluster")]
    FirstPeer,
    #[error(
        "an operator: there is no cluster state, but this volume was part of generation {0}; restore the state, or remove \
         the volume of every peer to begin anew"
    )]
    StateLost(u64),
    #[error(
        "an operator: the cluster state is of generation {found}, this volume was part of generation {known}; restore the \
         newer state, or give this peer an empty volume"
    )]
    OlderState { found: u64, known: u64 },
    #[error("an operator: the cluster's only peer {0} is gone; bring its volume back, no other has the data")]
    SingletonGone(PeerId),
    #[error(
        "an operator: this peer was replaced as primary; take it out of the deposed peers to let it copy their data"
    )]
    Deposed,
    #[error("the primary, to be added to the asyncs")]
    Primary,
    #[error("the end of the freeze: {0}")]
    Freeze(String),
    #[error("an async peer that could become the sync")]
    Async,
    #[error("peer is not caught up: its log ends at {own}, generation begins at {needed}")]
    NotCaughtUp { own: String, needed: String },
    #[error("database is offline")]
    Offline,
    #[error("an operator: the cluster's initial log position {position:?} is malformed: {reason}")]
    Malformed { position: String, reason: String },
    #[error("the database to stop acknowledging: {0}")]
    Fence(String),
    #[error("discoverd, whose answer to a write was lost")]
    Uncertain,
    #[error("the newer cluster state, which another peer wrote")]
    Newer,
}

impl State {
    /// A peer that just started, its database stopped.
    pub fn new(me: Me, volume: Volume) -> Self {
        Self {
            me,
            volume,
            view: None,
            role: Role::Unknown,
            operation: None,
            ticket: 0,
            applied: None,
            failed: None,
            hold: Hold::Nothing,
            settled: Settled::Unknown,
            timer: false,
            life: Life::Runs,
            tunables: None,
            retry_reason: None,
            waiting: None,
        }
    }

    pub fn me(&self) -> &Me {
        &self.me
    }

    pub fn role(&self) -> Role {
        self.role
    }

    /// The cluster's state as it was last seen or written, with its index.
    pub fn cluster(&self) -> Option<(u64, &ClusterState)> {
        let view = self.view.as_ref()?;
        Some((view.index, view.cluster.as_ref()?))
    }

    /// The registered peers, oldest first; `None` before they are known.
    pub fn peers(&self) -> Option<&[Instance]> {
        self.view.as_ref().map(|view| view.peers.as_slice())
    }

    /// Why the database is not as it should be, if that was tried.
    pub fn retry_reason(&self) -> Option<&str> {
        self.retry_reason.as_deref()
    }

    /// What the peer waits for, in words.
    pub fn waiting_for(&self) -> Option<String> {
        self.waiting.as_ref().map(Waiting::to_string)
    }

    /// What the database is, as far as the machine knows: nothing while that changes.
    pub fn applied(&self) -> Option<&Config> {
        self.applied.as_ref()
    }

    /// Whether the peer has left its cluster, or failed.
    pub fn ended(&self) -> bool {
        self.life == Life::Ended
    }

    pub(crate) fn present<'a>(&'a self, view: &'a View) -> Peers<'a> {
        Peers::new(&self.me.key, &view.peers)
    }

    /// Whether the database runs and is as it was told to be.
    pub(crate) fn runs(&self) -> bool {
        self.applied.as_ref().is_some_and(|config| config.role.runs())
    }

    pub(crate) fn same(&self, one: &Option<Config>, other: &Config) -> bool {
        one.as_ref().is_some_and(|one| same(one, other, &self.me.key))
    }
}
