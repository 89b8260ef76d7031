//! Makes a cluster of running daemons (spec operations section 4).
//!
//! A [`Manifest`] is a list of steps. [`bootstrap`] takes them in order over what it keeps in a [`State`] file: every
//! secret, id and volume is on disk before it is used, and a step finds what an earlier run of it did. So an interrupted
//! bootstrap is finished by running it again, and a finished one changes nothing.
//!
//! **Invariant:** nothing is made under a name that was not written down first.
//! **Invariant:** secrets go to the state file, to releases and nowhere else, unless the caller asks to see them.

#![forbid(unsafe_code)]

mod action;
mod add_command;
mod cluster;
mod error;
mod manifest;
mod report;
mod run;
mod state;
mod template;

use std::path::PathBuf;
use std::time::Duration;

pub use add_command::add_command;
pub use error::Error;
pub use manifest::{Manifest, Step};
pub use report::{Format, Report};
pub use run::bootstrap;
pub use state::State;

/// The manifest of a whole cluster (spec section 4.4).
pub const STANDARD_MANIFEST: &str = include_str!("../manifest.json");

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of the hosts' APIs, such as `http://10.0.0.1:1113`.
    pub hosts: Vec<String>,
    /// Key of the hosts' APIs, where they ask for one.
    pub host_key: Option<String>,
    /// Hosts that must be there before anything is done.
    pub min_hosts: usize,
    /// How long to wait for them.
    pub timeout: Duration,
    /// How long to wait for each job that is started directly.
    pub job_timeout: Duration,
    /// One of each thing, and a database without replicas.
    pub singleton: bool,
    /// Ids of the steps to take; all without.
    pub steps: Option<Vec<String>>,
    /// Where what was done is kept.
    pub state: PathBuf,
    /// Print the secrets that are made.
    pub show_secrets: bool,
}

impl Options {
    /// Whether a cluster of so many hosts can be made (spec section 4.1).
    ///
    /// # Errors
    /// With two hosts nobody has a majority when one is away.
    pub fn check_min_hosts(min_hosts: usize) -> Result<(), Error> {
        match min_hosts {
            0 => Err(Error::Wrong("invalid --min-hosts value".into())),
            2 => Err(Error::Wrong(
                "the minimum number of hosts for a multi-node cluster is 3, min-hosts=2 is invalid".into(),
            )),
            _ => Ok(()),
        }
    }
}
