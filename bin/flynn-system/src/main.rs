//! `flynn-system`: the system components in one program, each a subcommand.
//!
//! Only argument parsing and wiring: what a component does is in its crate.

#![forbid(unsafe_code)]

mod blobstore;
mod component;
mod controller;
mod logaggregator;
mod postgres;
mod router;
mod scheduler;
mod status;
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
    /// Keeps files: slugs, layers of images, repositories
    Blobstore,
    /// Serves the API of the cluster
    Controller,
    /// Runs a PostgreSQL server as a peer of its cluster
    Postgres(postgres::Options),
    /// Makes and removes databases for apps
    PostgresApi,
    /// Keeps the last log lines of every app
    Logaggregator,
    /// Proxies HTTP, HTTPS and TCP to the backends of services
    Router(Box<router::Options>),
    /// Decides which jobs run on which hosts
    Scheduler,
    /// Tells whether all components are well
    Status,
    /// Carries out what the controller orders: deployments, deletions
    Worker,
    /// What becomes of a process that a child has replaced
    #[command(name = supervise::NAME, hide = true)]
    Supervise(supervise::Options),
}

/// The arguments, those of the router in one form.
fn arguments() -> Vec<std::ffi::OsString> {
    let arguments: Vec<_> = std::env::args_os().collect();
    match arguments.get(1) {
        Some(component) if component == "router" => arguments.into_iter().map(router::with_two_dashes).collect(),
        _ => arguments,
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse_from(arguments());
    let vars = |name: &str| std::env::var(name).ok();
    let ended = match arguments.component {
        Component::Blobstore => blobstore::run().map(|()| ExitCode::SUCCESS),
        Component::Controller => controller::run().map(|()| ExitCode::SUCCESS),
        Component::Logaggregator => logaggregator::run().map(|()| ExitCode::SUCCESS),
        Component::Postgres(options) => postgres::run_peer(&options).map(|()| ExitCode::SUCCESS),
        Component::PostgresApi => postgres::run_provider().map(|()| ExitCode::SUCCESS),
        Component::Router(options) => router::run(&options, &vars),
        Component::Scheduler => scheduler::run().map(|()| ExitCode::SUCCESS),
        Component::Status => status::run().map(|()| ExitCode::SUCCESS),
        Component::Worker => worker::run().map(|()| ExitCode::SUCCESS),
        Component::Supervise(options) => supervise::run(&options),
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
