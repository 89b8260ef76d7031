//! The worker with a real PostgreSQL, the real controller, and a scheduler that does as it is told.

#![forbid(unsafe_code)]

mod cancelling;
mod cluster;
mod deletions;
mod deployments;
mod domain;
mod queue;
mod resuming;
