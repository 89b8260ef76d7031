//! A process hands its sockets to the one that replaces it.
//!
//! Two ways: [`pass`] gives a child descriptors with names, which it takes by [`Passed`]; [`offer`] and [`take`] move
//! any number of sockets over a [`Control`] connection, between processes that need not be related. [`notify`] tells
//! systemd.
//!
//! **Invariant:** a socket that is handed over is never closed by both sides at once, so that no connection which waits
//! in its queue is reset: the giver keeps its own until the taker serves.

#![forbid(unsafe_code)]

mod control;
mod exchange;
mod notify;
mod passed;
mod point;
mod successor;

pub use control::{Control, MAX_DESCRIPTORS};
pub use exchange::{HandoverError, Predecessor, offer, take};
pub use notify::notify;
pub use passed::{FIRST_DESCRIPTOR, NAMES, Passed, pass};
pub use point::MeetingPoint;
pub use successor::{end, signal_to};
