//! Our figures beside those of named peers, measured on the same machine in one run. See `script/bench`.
//!
//! Every comparison alternates between us and the peer, round by round, so that whatever else the machine does meets
//! both. Figures are medians with the least and the most.

#![forbid(unsafe_code)]

mod discovery;
mod dns;
mod fixture;
mod jobs;
mod memory;
mod platform;
mod router;
mod table;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use table::Table;

/// Measures the node, the platform and the router.
#[derive(Parser)]
#[command(name = "flynn-bench")]
struct Cli {
    /// Rounds of each comparison
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Runs inside of a host: keeps instances alive at this address
    #[arg(long, hide = true)]
    beat: Option<String>,
    #[arg(long, hide = true, default_value_t = 0)]
    first: usize,
    #[arg(long, hide = true, default_value_t = 1)]
    step: usize,
    /// Only these: start, many, memory, discovery, dns, platform, router
    only: Vec<String>,
}

type Measurement = fn(usize, &mut Table) -> anyhow::Result<()>;

const ALL: [(&str, Measurement); 7] = [
    ("start", jobs::one_at_a_time),
    ("many", jobs::many_at_once),
    ("memory", memory::idle),
    ("discovery", discovery::measure),
    ("dns", dns::compare),
    ("platform", platform::measure),
    ("router", router::measure),
];

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(url) = &cli.beat {
        let Err(err) = fixture::runtime().block_on(discovery::beat(url, cli.first, cli.step)) else {
            return ExitCode::SUCCESS;
        };
        let _ = writeln!(std::io::stderr(), "error: beat: {err:#}");
        return ExitCode::FAILURE;
    }
    let mut table = Table::default();
    let mut failed = false;
    for (name, measure) in ALL.iter().filter(|(name, _)| cli.only.is_empty() || cli.only.iter().any(|o| o == name)) {
        let _ = writeln!(std::io::stderr(), "── {name}");
        if let Err(err) = measure(cli.rounds, &mut table) {
            let _ = writeln!(std::io::stderr(), "error: {name}: {err:#}");
            failed = true;
        }
    }
    let _ = write!(std::io::stdout(), "{}", table.render());
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
