//! `flynn-cluster`: clusters by hand. See `script/cluster`.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use flynn_harness::{Cluster, ClusterOptions, Daemon, Host, HostState, Ready, host_init, hub, job};

/// How long hosts may take to see each other.
const UNITED: Duration = Duration::from_secs(60);

/// Clusters of hosts on one machine, in namespaces.
#[derive(Parser)]
#[command(name = "flynn-cluster")]
struct Cli {
    /// Folder of the cluster
    #[arg(long, default_value = ".cache/cluster", global = true)]
    dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster
    Up {
        #[arg(long, default_value_t = 3)]
        hosts: usize,
        /// Size of each host's disk in MiB [default: no limit]
        #[arg(long, value_name = "MIB")]
        disk: Option<u64>,
        /// Let `clock` move the daemons' wall clocks
        #[arg(long)]
        movable_clock: bool,
        /// Do not start the daemons
        #[arg(long)]
        bare: bool,
        /// Program to run on each host instead of flynn-host; {id}, {ip}, {peers}, {dir} and {cgroup} are replaced
        #[arg(long, value_name = "PROGRAM", num_args = 1.., allow_hyphen_values = true, value_terminator = ";")]
        daemon: Vec<String>,
        /// Further arguments of the daemon
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Show hosts and their daemons
    Status,
    /// Show the hosts' addresses, separated by commas
    Addresses,
    /// Run a command on a host
    Exec {
        host: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Start a job on a host and print its id; it starts again by itself after a power cut
    Job {
        host: String,
        /// Service that the job offers on a port, as NAME:PORT
        #[arg(long, value_name = "NAME:PORT")]
        service: Vec<job::Offer>,
        /// Artifact, as `script/cluster image` prints it
        artifact: PathBuf,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Power cut: kill everything on hosts, or on `all` at once
    Kill { hosts: Vec<String> },
    /// Power hosts up again, or `all` that are down, and start their daemons
    Start { hosts: Vec<String> },
    /// Kill the daemon of a host; its jobs go on
    KillDaemon { host: String },
    /// Start the daemon of a host again
    StartDaemon { host: String },
    /// Cut a host off the network
    Cut { host: String },
    /// Connect a host again
    Heal { host: String },
    /// Stop the daemon of a host where it is
    Freeze { host: String },
    /// Let the daemon go on
    Thaw { host: String },
    /// Give a host another address
    ChangeIp { host: String, ip: std::net::Ipv4Addr },
    /// Move the daemon's wall clock by seconds
    #[command(allow_negative_numbers = true)]
    Clock { host: String, seconds: i64 },
    /// Show the last lines of all daemons
    Logs,
    /// End and remove the cluster
    Down,
    #[command(hide = true)]
    HostInit { dir: PathBuf },
    #[command(hide = true)]
    Hub {
        dir: PathBuf,
        #[arg(long)]
        owned: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::HostInit { dir } => host_init::run(&dir).map(|()| ExitCode::SUCCESS),
        Command::Hub { dir, owned } => hub::run(&dir, owned).map(|()| ExitCode::SUCCESS),
        command => run(&cli.dir, command),
    };
    result.unwrap_or_else(|err| {
        let _ = writeln!(std::io::stderr(), "error: {err:#}");
        ExitCode::FAILURE
    })
}

fn run(dir: &std::path::Path, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up { hosts, disk, movable_clock, bare, daemon, args } => {
            let ready = if daemon.is_empty() { Daemon::default().ready } else { Ready::Started };
            let options = ClusterOptions {
                hosts,
                name: Some("dev".to_owned()),
                dir: Some(dir.to_owned()),
                detached: true,
                daemon: Daemon { command: daemon, args, ready, ..Daemon::default() },
                start_daemons: !bare,
                disk_bytes: disk.map(|mib| mib << 20),
                movable_clock,
            };
            let united = options.daemon.command.is_empty() && options.start_daemons;
            let cluster = Cluster::up(options)?;
            if united {
                cluster.wait_united(UNITED)?;
            }
            show(&cluster)?;
        }
        Command::Status => show(&Cluster::load(dir)?)?,
        Command::Addresses => {
            let cluster = Cluster::load(dir)?;
            let addresses: Vec<_> = cluster.hosts().map(|host| host.ip().to_string()).collect();
            writeln!(std::io::stdout(), "{}", addresses.join(","))?;
        }
        Command::Exec { host, command } => {
            let cluster = Cluster::load(dir)?;
            let mut exec = cluster.host_named(&host)?.command_in(&command[0])?;
            let status = exec.args(&command[1..]).status()?;
            return Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)));
        }
        Command::Job { host, service, artifact, command } => {
            let cluster = Cluster::load(dir)?;
            let id = job::start(cluster.host_named(&host)?, &artifact, &service, command)?;
            writeln!(std::io::stdout(), "{id}")?;
        }
        Command::Kill { hosts } => {
            let cluster = Cluster::load(dir)?;
            if hosts == ["all"] {
                cluster.kill_all()?;
            }
            named(&cluster, &hosts, Host::is_up)?.iter().try_for_each(Host::kill)?;
        }
        Command::Start { hosts } => {
            let cluster = Cluster::load(dir)?;
            let hosts = named(&cluster, &hosts, |host| !host.is_up())?;
            hosts.iter().try_for_each(Host::boot)?;
            hosts.iter().try_for_each(Host::launch_daemon)?;
            hosts.iter().try_for_each(Host::wait_ready)?;
            if cluster.runs_flynn() {
                cluster.wait_united(UNITED)?;
            }
        }
        Command::KillDaemon { host } => Cluster::load(dir)?.host_named(&host)?.kill_daemon()?,
        Command::StartDaemon { host } => Cluster::load(dir)?.host_named(&host)?.start_daemon()?,
        Command::Cut { host } => Cluster::load(dir)?.host_named(&host)?.cut()?,
        Command::Heal { host } => Cluster::load(dir)?.host_named(&host)?.heal()?,
        Command::Freeze { host } => Cluster::load(dir)?.host_named(&host)?.freeze()?,
        Command::Thaw { host } => Cluster::load(dir)?.host_named(&host)?.thaw()?,
        Command::ChangeIp { host, ip } => Cluster::load(dir)?.host_named(&host)?.change_ip(ip)?,
        Command::Clock { host, seconds } => Cluster::load(dir)?.host_named(&host)?.shift_clock(seconds)?,
        Command::Logs => write!(std::io::stdout(), "{}", Cluster::load(dir)?.logs())?,
        Command::Down => Cluster::remove_at(dir)?,
        Command::HostInit { .. } | Command::Hub { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// The hosts of these names; `all` means those for which the command makes sense.
fn named<'a>(
    cluster: &'a Cluster,
    names: &[String],
    wanted: impl Fn(&Host<'a>) -> bool,
) -> anyhow::Result<Vec<Host<'a>>> {
    anyhow::ensure!(!names.is_empty(), "which hosts? name them, or say `all`");
    if names == ["all"] {
        return Ok(cluster.hosts().filter(|host| wanted(host)).collect());
    }
    names.iter().map(|name| cluster.host_named(name)).collect()
}

fn show(cluster: &Cluster) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:<8} {:<12} {:<24} FOLDER", "HOST", "ADDRESS", "DAEMON")?;
    for host in cluster.hosts() {
        let daemon = match host.state() {
            HostState::Down => "(host is down)".to_owned(),
            HostState::Bare => "not started".to_owned(),
            HostState::Running(pids) => {
                format!("running, pid {}", pids.iter().map(i32::to_string).collect::<Vec<_>>().join(" "))
            }
            HostState::DaemonEnded(how) => format!("ended: {how}"),
        };
        writeln!(out, "{:<8} {:<12} {daemon:<24} {}", host.id(), host.ip(), host.dir().display())?;
    }
    Ok(())
}
