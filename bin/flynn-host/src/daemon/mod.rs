//! The daemon: what a node does, put together from the crates below `crates/node`.
//!
//! A [`node::Node`] is everything between start and end; [`lifetime`] runs one, and another when a replacement failed.
//! Listening sockets live outside of it (`sockets`), so that none is ever closed between two of them.

mod cleanup;
mod departed;
mod discovery;
mod external_ip;
mod leases;
mod lifetime;
mod machine;
mod mounts;
mod network;
mod node;
mod options;
mod peers;
mod replace;
mod setup;
mod sockets;
mod upkeep;

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use flynn_telemetry::{LogConfig, LogFile};

pub(crate) use options::{CONFIG_FILE, ConfigFile, Options, read_config};

/// Runs the daemon until it is told to end. `arguments` is the command line after `daemon`.
pub(crate) fn main(options: Options, arguments: Vec<String>) -> anyhow::Result<ExitCode> {
    with_configured_environment()?;
    let setup = setup::Setup::new(options, arguments)?;
    anyhow::ensure!(rustix::process::geteuid().is_root(), "the daemon needs root: it builds containers and networks");
    let mut log = LogConfig::from_vars("host", |name| std::env::var(name).ok())?;
    log.file = Some(LogFile::new(&setup.log_file));
    log.stderr = false;
    let logs = flynn_telemetry::init(log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8))
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()
        .context("start the runtime")?;
    if setup.options.clean_up {
        return runtime.block_on(cleanup::clean_up(&setup));
    }
    let ended = runtime.block_on(lifetime::run(setup, logs));
    if let Err(err) = &ended {
        tracing::error!(err = %format!("{err:#}"), "the daemon ends");
    }
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    ended.map(|()| ExitCode::SUCCESS)
}

/// Starts this program anew with the configuration file's environment when some of it is not set yet: a process cannot
/// safely change its own.
fn with_configured_environment() -> anyhow::Result<()> {
    let named = std::env::var_os("FLYNN_HOST_CONFIG");
    let config = read_config(named.as_deref().map(Path::new))?;
    let missing = config.env.iter().any(|(name, value)| std::env::var(name).as_ref() != Ok(value));
    if !missing {
        return Ok(());
    }
    let err = std::process::Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).envs(&config.env).exec();
    Err(err).context("start again with the environment of the configuration file")
}
