//! What nodes say to each other: messages on the API's port, below a path of their own.

mod contacts;
mod messages;
mod transport;

pub(crate) use contacts::Contacts;
pub(crate) use messages::{Announce, Beat, BeatOutcome, Envelope, Hello, Message, Reply, Request, WriteReply};
pub(crate) use transport::{CallError, Transport};

/// Path of the messages.
pub(crate) const PATH: &str = "/raft/messages";
