//! HTTP to clients: connections, requests, and their answers.

mod attempts;
mod body;
mod connection;
mod exchange;
mod head;
mod page;
mod record;
mod relay;
pub(crate) mod secure;
mod stalls;
mod tunnel;

pub(crate) use connection::{LocalExecutor, Origin, serve};
pub(crate) use tunnel::{Traffic, copy_both_ways};
