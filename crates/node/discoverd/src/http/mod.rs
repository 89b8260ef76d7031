//! The HTTP API on port 1111 (spec discoverd-and-network sections 4 and 5).

mod answer;
mod body;
mod compact;
mod raft;
mod route;
mod server;
mod services;
mod stream;

pub(crate) use server::serve;
