//! The certificate authority, as a server of RFC 8555.

mod account;
mod error;
mod order;
mod transport;

pub(crate) use account::forget;
pub(crate) use error::OrderError;
pub(crate) use order::{Context, finish, place};
pub(crate) use transport::Transport;
