//! Who is alive: leases in the leader's memory, renewed by heartbeats, and what happens when they run out.

mod batch;
mod expiry;
mod leases;

pub(crate) use batch::Batcher;
pub(crate) use expiry::expire;
pub(crate) use leases::Leases;
