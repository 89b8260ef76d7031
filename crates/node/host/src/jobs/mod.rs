//! Jobs: their table, its record on disk, the events, and the tasks that carry each job through its life.

mod book;
mod cleanup;
mod gate;
mod layers;
pub(crate) mod prepare;
mod restore;
mod runner;
mod stop;
mod table;
mod upkeep;

pub(crate) use book::{JobBook, RecordError};
pub(crate) use gate::{Gate, Turn};
pub use runner::NetworkSlot;
pub(crate) use runner::{Live, LiveJobs, Runner};
pub(crate) use stop::StopFailure;
pub(crate) use table::{StopError, StopTarget};
pub(crate) use upkeep::{forget_expired, watch_memory};
