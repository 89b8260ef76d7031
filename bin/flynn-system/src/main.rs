//! `flynn-system`: the system components in one program, each a subcommand.
//!
//! Only argument parsing and wiring: what a component does is in its crate.

#![forbid(unsafe_code)]

mod controller;
mod router;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The router passes a request on in a few microseconds, and allocates for each.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "flynn-system", version, about = "The system components of Flynn, each a subcommand")]
struct Arguments {
    #[command(subcommand)]
    component: Component,
}

#[derive(Subcommand)]
enum Component {
    /// Serves the API of the cluster
    Controller,
    /// Proxies HTTP, HTTPS and TCP to the backends of services
    Router(router::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let vars = |name: &str| std::env::var(name).ok();
    let ended = match arguments.component {
        Component::Controller => controller::run(vars),
        Component::Router(options) => router::run(&options, vars),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            tracing::error!("{err:#}");
            #[expect(clippy::print_stderr, reason = "the last words of a program, also without a log")]
            {
                eprintln!("error: {err:#}");
            }
            ExitCode::FAILURE
        }
    }
}
