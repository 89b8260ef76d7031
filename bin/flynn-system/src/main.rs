//! `flynn-system`: the system components in one program, each a subcommand.
//!
//! Only argument parsing and wiring: what a component does is in its crate.

#![forbid(unsafe_code)]

mod component;
mod controller;
mod router;
mod supervise;
mod worker;

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
    Router(Box<router::Options>),
    /// Carries out what the controller orders: deployments, deletions
    Worker,
    /// What becomes of a process that a child has replaced
    #[command(name = supervise::NAME, hide = true)]
    Supervise,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let vars = |name: &str| std::env::var(name).ok();
    let ended = match arguments.component {
        Component::Controller => controller::run().map(|()| ExitCode::SUCCESS),
        Component::Router(options) => router::run(&options, &vars),
        Component::Worker => worker::run().map(|()| ExitCode::SUCCESS),
        Component::Supervise => supervise::run(),
    };
    match ended {
        Ok(code) => code,
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
