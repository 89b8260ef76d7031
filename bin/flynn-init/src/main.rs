//! Process 1 of every container, and the monitor beside it.
//!
//! One static binary with two faces: as `/.containerinit` without arguments it is the container's first process
//! ([`init`]); `flynn-init monitor <run directory>` is what the supervisor of a job turns into ([`monitor`]). Both talk
//! as `flynn_types::init` says.
//!
//! **Invariant**: monitor and init each have one thread and no async runtime; only a job that has services gets a
//! second thread in its init ([`services`]).
//! **Invariant**: nothing here is fatal to the job but its own end: a lost daemon, a full disk or an absent discoverd
//! are waited out.
//! **Invariant**: unsafe code is in `sys` only.

mod init;
mod log;
mod monitor;
mod services;
mod sys;
mod wire;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [] => init::run(),
        [mode, run_dir] if mode == "monitor" => monitor::run(run_dir.as_ref()),
        _ => {
            log::say("usage: flynn-init (as process 1 of a container), or flynn-init monitor RUN_DIR");
            ExitCode::from(64)
        }
    }
}
