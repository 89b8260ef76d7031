//! The worker with a real PostgreSQL, the real controller, and a scheduler that does as it is told.

#![forbid(unsafe_code)]

mod cluster;
mod deployments;
mod queue;
mod resuming;
