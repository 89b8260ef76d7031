//! The scheduler against a small cluster in memory: hosts, controller and wires, with the time of the test.

mod cluster;
mod history;
mod hosts;
mod jobs;
mod placement;
mod scale;
mod services;
