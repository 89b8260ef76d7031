//! The API as clients see it: over HTTP, on a real PostgreSQL. Tests are named after the statements that they hold.

#![forbid(unsafe_code)]

mod apps;
mod deployments;
mod entry;
mod events;
mod fixture;
mod formations;
mod jobs;
mod migrations;
mod releases;
