//! A random world of peers: faults from a seed, and what must hold whatever happens.

pub(crate) mod database;
pub(crate) mod discovery;
mod runs;
mod truth;
mod world;

/// A rule that the world breaks, to see that breaking it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// Fencing does nothing.
    NoFence,
    /// A log that is too short is called long enough.
    AnyPosition,
    /// Positions of different histories are compared by their offsets.
    OffsetsOnly,
    /// Compare-and-set does not compare.
    LastWriterWins,
    /// Commits are acknowledged before the sync has them.
    AckAlone,
    /// New generations get the old number.
    SameGeneration,
    /// The timer never fires.
    NoRetry,
}
