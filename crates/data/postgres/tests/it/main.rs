//! Peers with real servers over a real discoverd, on loopback addresses of their own.

mod cluster;
mod fence;
mod provider;
mod rig;
mod singleton;
mod writer;
