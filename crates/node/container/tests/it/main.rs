//! Real containers, with the real init and monitor: needs root and `script/build-init`.

#![expect(clippy::print_stdout, reason = "measurements, and a process that tells its test that it is ready")]

mod confinement;
mod cost;
mod lifecycle;
mod restart;
mod services;
mod support;
mod terminal;
