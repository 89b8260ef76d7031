//! The whole of a node, and clusters of three, on real sockets. Tests name the statements of the specification's section
//! 17 (discoverd-and-network) that they check.

mod api;
mod cluster;
mod rig;
mod semantics;
mod streams;
