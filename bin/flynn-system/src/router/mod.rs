//! `flynn-system router`

mod acme;
mod instance;
mod lifetime;
mod options;
mod registration;
mod routes;
mod successor;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use flynn_telemetry::LogConfig;

pub(crate) use options::Options;
pub(crate) use routes::with_two_dashes;

use crate::supervise;

/// How variables are read.
pub(crate) type Vars<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Runs the router until it is told to end, or a child has replaced it and ends.
pub(crate) fn run(options: &Options, vars: Vars<'_>) -> anyhow::Result<ExitCode> {
    let vars = |name: &str| vars(name).filter(|value| !value.is_empty());
    let mut log = LogConfig::from_vars("router", vars)?;
    if vars("DEBUG").is_some() {
        log.filter = log.filter.replacen("info", "debug", 1);
    }
    flynn_telemetry::init(log).context("set up the log")?;
    // Before the file can be replaced: then the link of /proc names one that is gone.
    let program = std::env::current_exe().context("find this program")?;
    // Sources and the API only: requests have threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let ended = runtime.block_on(lifetime::run(options, &vars, &program));
    if let Ok(lifetime::End::Replaced { told }) = ended {
        return Err(supervise::become_supervisor(&program, told));
    }
    runtime.shutdown_timeout(Duration::ZERO);
    ended.map(|_| ExitCode::SUCCESS)
}
