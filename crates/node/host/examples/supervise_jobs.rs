//! The supervisor of the tests' containers: what `flynn-host supervise` is in production.

fn main() {
    let run_dir = std::env::args_os().next_back().unwrap_or_default();
    std::process::exit(flynn_container::supervise(run_dir.as_ref()));
}
