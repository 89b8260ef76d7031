//! The host's API over real sockets, with real folders, volumes and mounts.

mod attach;
mod containers;
mod input;
mod jobs;
mod layers;
mod restart;
mod settings;
mod support;
mod volumes;
