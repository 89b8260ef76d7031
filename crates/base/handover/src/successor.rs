//! Ending children.

use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a child may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// Sends a signal to a process; one that has ended gets none.
pub fn signal_to(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal); // ended meanwhile
    }
}

/// Ends a child: asks first, and kills it after ten seconds. Says how it ended. Blocks.
pub fn end(child: &mut Child) -> String {
    if let Ok(Some(status)) = child.try_wait() {
        return described(status);
    }
    signal_to(child.id(), Signal::TERM);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(Some(status)) => return described(status),
            Ok(None) => std::thread::sleep(POLL),
            Err(err) => return format!("cannot be waited for: {err}"),
        }
    }
    let _ = child.kill(); // ended meanwhile
    child.wait().map_or_else(|err| format!("cannot be waited for: {err}"), described)
}

fn described(status: ExitStatus) -> String {
    format!("ended with {status}")
}
