//! `flynn-host`: the daemon of a node, and the operator's commands.
//!
//! Only argument parsing and wiring: what the daemon does is in the crates below `crates/node`.

#![forbid(unsafe_code)]

mod cli;
mod daemon;
mod version;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    // The supervisor of a container must stay single-threaded, so it never gets near an async runtime.
    if args.get(1).map(String::as_str) == Some("supervise") {
        let Some(run_dir) = args.get(2) else { return ExitCode::FAILURE };
        let code = flynn_container::supervise(std::path::Path::new(run_dir));
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    cli::main(&args)
}
