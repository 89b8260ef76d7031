//! The server over real sockets.

mod answers;
mod forwarding;
mod malformed;
mod support;
mod takeover;
