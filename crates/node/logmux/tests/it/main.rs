//! The log mux over real files, spools, sockets and processes.

mod crash;
mod follow;
mod full_disk;
mod read;
mod rotate;
mod sinks;
mod support;
mod syslog;
