//! Real containers, with the real init and monitor: needs root and `script/build-init`.

mod confinement;
mod cost;
mod lifecycle;
mod restart;
mod services;
mod support;
mod terminal;
