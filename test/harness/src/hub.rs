//! The process that holds the network namespace between the hosts, and cleans up after a test that was killed.

use std::io::Read as _;
use std::path::Path;

use nix::sys::signal::{SigSet, Signal};

use crate::cluster::tear_down;
use crate::record::Record;

/// Holds the namespace it was started in. An owned hub waits for the end of its standard input, which comes when its
/// owner has ended without an orderly `down`, and then removes the cluster.
pub fn run(dir: &Path, owned: bool) -> anyhow::Result<()> {
    if owned {
        // An interrupt from the keyboard is for the owner.
        let mut interrupts = SigSet::empty();
        interrupts.add(Signal::SIGINT);
        interrupts.add(Signal::SIGTERM);
        interrupts.thread_block()?;
        std::io::stdin().read_to_end(&mut Vec::new())?;
        let mut record = Record::load(dir)?;
        record.hub = None;
        return tear_down(&mut record);
    }
    loop {
        std::thread::park();
    }
}
