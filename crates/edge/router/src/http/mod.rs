//! HTTP to clients: connections, requests, and their answers.

mod body;
mod connection;
mod exchange;
mod page;
mod record;
mod relay;
pub(crate) mod secure;
mod tunnel;

pub(crate) use connection::{Origin, serve};
pub(crate) use tunnel::copy_both_ways;
