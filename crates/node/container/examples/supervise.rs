//! The supervisor as a program of its own: what `flynn-host supervise` does. Tests and examples start it.
//!
//! Usage: `supervise <run directory>`

fn main() {
    let run_dir = std::env::args_os().next_back().unwrap_or_default();
    std::process::exit(flynn_container::supervise(run_dir.as_ref()));
}
