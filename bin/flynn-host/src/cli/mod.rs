//! The command line (spec flynn-host section 15).

mod bootstrap;
mod cluster;
mod debug;
mod discovery;
mod fix;
mod hosts;
mod jobs;
mod run;
mod setup;
mod table;
mod volumes;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::daemon;
use crate::version::VERSION;

#[derive(Parser)]
#[command(name = "flynn-host", version = VERSION, about = "Runs a node of a Flynn cluster, and administers it", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show usage for a specific command
    Help { command: Option<String> },
    /// Show the version
    Version(setup::Version),
    /// Write the daemon's configuration file
    Init(setup::Init),
    /// Start the daemon
    Daemon(Box<daemon::Options>),
    /// Make a cluster of running daemons
    Bootstrap(bootstrap::Bootstrap),
    /// Start database, controller and scheduler again when they do not run
    Fix(fix::Fix),
    /// Print the line that tells the flynn client of this cluster
    #[command(name = "cli-add-command")]
    ClientLine,
    /// List the hosts of the cluster
    List,
    /// List jobs
    Ps(jobs::Ps),
    /// Show everything about a job
    Inspect(jobs::Inspect),
    /// Show the output of a job
    Log(jobs::Log),
    /// Run an interactive job
    #[command(hide = true)]
    Run(run::Run),
    /// Stop jobs
    Stop(jobs::Stop),
    /// Send a signal to a job
    Signal(jobs::Signal),
    /// List, set and delete the tags of hosts
    Tags(hosts::Tags),
    /// Show the instances of services
    Discover(discovery::Discover),
    /// Make a host a member of the consensus
    Promote(discovery::Promote),
    /// Take a host out of the consensus
    Demote(discovery::Demote),
    /// Manage volumes
    Volume(volumes::Volume),
    /// List log sinks
    LogSink(hosts::LogSink),
    /// Check whether ports are free on a host
    ResourceCheck(hosts::ResourceCheck),
    /// Collect what helps to understand a problem
    CollectDebugInfo(debug::Collect),
}

/// What a command's success is: most have exit code 0.
pub(crate) type Outcome = anyhow::Result<ExitCode>;

pub(crate) fn main(args: &[String]) -> ExitCode {
    if let Some(name) = args.get(1)
        && !name.starts_with('-')
        && Cli::command().find_subcommand(name).is_none()
    {
        print(&format!("ERROR: {name:?} is not a valid command\n\n{}", usage(None)));
        return ExitCode::FAILURE;
    }
    let args = match with_config_file(args) {
        Ok(args) => args,
        Err(err) => return fail(&err),
    };
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(err) => {
            // Usage goes to stdout, also when it was not asked for.
            print(&err.render().to_string());
            return if err.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match run(cli.command, &args) {
        Ok(code) => code,
        Err(err) => fail(&err),
    }
}

fn fail(err: &anyhow::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{err:#}"); // nobody is left to tell
    ExitCode::FAILURE
}

/// Prints to stdout; a closed pipe is not an error.
pub(crate) fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn usage(command: Option<&str>) -> String {
    let mut cli = Cli::command();
    cli.build();
    match command.and_then(|name| cli.find_subcommand_mut(name)) {
        Some(command) => command.render_long_help().to_string(),
        None => cli.render_help().to_string(),
    }
}

/// Appends the configuration file's arguments to those of the `daemon` command, which sees to its environment itself.
fn with_config_file(args: &[String]) -> anyhow::Result<Vec<String>> {
    let mut args = args.to_vec();
    if args.get(1).map(String::as_str) == Some("daemon") {
        let named = std::env::var_os("FLYNN_HOST_CONFIG");
        let config = daemon::read_config(named.as_deref().map(Path::new))?;
        args.extend(config.args);
    }
    Ok(args)
}

fn run(command: Command, args: &[String]) -> Outcome {
    match command {
        Command::Help { command } => {
            if let Some(name) = &command
                && Cli::command().find_subcommand(name).is_none()
            {
                print(&format!("ERROR: {name:?} is not a valid command\n\n{}", usage(None)));
                return Ok(ExitCode::FAILURE);
            }
            print(&usage(command.as_deref()));
            Ok(ExitCode::SUCCESS)
        }
        Command::Version(command) => command.run(),
        Command::Init(command) => command.run(),
        Command::Daemon(options) => daemon::main(*options, args.get(2..).unwrap_or_default().to_vec()),
        Command::Bootstrap(command) => wait(command.run()),
        Command::Fix(command) => wait(command.run()),
        Command::ClientLine => wait(bootstrap::cli_add_command()),
        Command::List => wait(hosts::list()),
        Command::Ps(command) => wait(command.run()),
        Command::Inspect(command) => wait(command.run()),
        Command::Log(command) => wait(command.run()),
        Command::Run(command) => wait(command.run()),
        Command::Stop(command) => wait(command.run()),
        Command::Signal(command) => wait(command.run()),
        Command::Tags(command) => wait(command.run()),
        Command::Discover(command) => wait(command.run()),
        Command::Promote(command) => wait(command.run()),
        Command::Demote(command) => wait(command.run()),
        Command::Volume(command) => wait(command.run()),
        Command::LogSink(command) => wait(command.run()),
        Command::ResourceCheck(command) => wait(command.run()),
        Command::CollectDebugInfo(command) => wait(command.run()),
    }
}

/// Runs a command that talks to others.
fn wait(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(command);
    // A read of the terminal may still block a thread.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_the_commands_but_not_run() {
        let help = usage(None);
        assert!(help.contains("collect-debug-info") && !help.contains("Run an interactive job"));
        assert!(usage(Some("ps")).contains("--quiet"));
    }
}
