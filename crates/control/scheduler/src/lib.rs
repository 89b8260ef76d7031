//! Decides which jobs run on which hosts.
//!
//! [`World`] is what is known: it takes in [`Event`]s and keeps track of what they touched. [`plan`] compares what is wanted
//! with what is, and gives the [`Action`]s that bring them together; [`World::order`] remembers them as begun, and their
//! [`Answer`](event::Answer)s are events like any other.
//!
//! [`driver`] feeds a world from discovery, hosts, routers and the controller, and carries its plans out.
//!
//! **Invariant:** outside of `driver` nothing reads a clock, a socket or chance: equal events give equal plans.
//! **Invariant:** jobs are started and stopped only by the leader, and only when all that runs is known or had time to
//! say so. **Invariant:** what is not heard of is asked for, never taken for gone: a job is given up by its host's word, or
//! with its host after ten failed checks while others answer.

#![forbid(unsafe_code)]

mod action;
mod apply;
mod arena;
pub mod driver;
pub mod event;
mod host_job;
mod order;
mod plan;
mod reason;
mod record;
mod time;
pub mod world;

pub use action::{Action, Claim};
pub use event::Event;
pub use plan::plan;
pub use reason::Reason;
pub use time::Time;
pub use world::World;

#[cfg(test)]
mod tests;
