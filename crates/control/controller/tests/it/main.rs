//! The API as clients see it: over HTTP, on a real PostgreSQL. Tests are named after the statements that they hold.

#![forbid(unsafe_code)]

mod apps;
mod cluster;
mod deployments;
mod entry;
mod events;
mod faults;
mod fixture;
mod formations;
mod hosts;
mod inputs;
mod jobs;
mod migrations;
mod releases;
mod resources;
mod routes;
