//! The aggregator as hosts and clients meet it: real log muxes, a real discoverd, sockets.

mod clients;
mod garbage;
mod hosts;
mod rig;
