//! What the scenarios in `tests/it` share: the image of their jobs, hosts with their clients, waiting, and the checkers of
//! what was recorded while things were broken.
//!
//! A scenario brings up a cluster of real daemons ([`cluster`]), uses it as clients do ([`Node`], [`registers`]), breaks
//! something, and asserts two kinds of truth: what must hold at every moment ([`hold`]) and what must come back within
//! its time ([`flynn_harness::wait_until`]).

#![forbid(unsafe_code)]

mod audit;
mod cluster;
pub mod control;
mod image;
mod jobs;
mod lines;
mod load;
mod node;
mod platform;
pub mod registers;
mod seed;
mod writing;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub use audit::Audit;
pub use cluster::{cluster, elections, formed, networked, raft_leader, subnets};
pub use image::{busybox, busybox_file};
pub use jobs::{counting, shell, with_service, with_volume};
pub use lines::numbered;
pub use load::{Failure, Load, under_load};
pub use node::{Node, Output, SETTLING};
pub use platform::{Answer, CHANGE, Platform, server};
pub use seed::seeded;
pub use writing::writing;

/// The runtime of all clients.
fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().expect("a runtime starts"))
}

/// Runs a request to its end.
pub fn block_on<F: Future>(request: F) -> F::Output {
    runtime().block_on(request)
}

/// Asserts that something holds at every look for so long: the opposite of waiting for it.
pub fn hold(time: Duration, what: &str, mut look: impl FnMut() -> Result<(), String>) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if let Err(seen) = look() {
            anyhow::bail!("{what} does not hold: {seen}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
