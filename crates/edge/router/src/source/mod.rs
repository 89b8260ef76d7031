//! Where routes and backends come from.
//!
//! A source is a task that sends [`Change`]s. It learns by [`Interest`] which services the routes name, so that one for
//! backends follows exactly those. [`file`] is a source of both; [`controller`] is one of routes and [`discoverd`] one of
//! instances. [`acme`] brings the certificates that routes want to be automatic.

pub mod acme;
pub mod controller;
pub mod discoverd;
pub mod file;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use flynn_acme::View;
use flynn_types::router::Route;
use tokio::sync::{mpsc, watch};

/// Changes that wait to be applied; a source that is faster waits.
pub const CHANGES: usize = 1024;

/// Takes changes from sources.
pub type Changes = mpsc::Sender<Change>;

/// The services that routes name.
pub type Interest = watch::Receiver<Arc<BTreeSet<Arc<str>>>>;

/// The domains whose certificates routes want to be automatic.
pub type Domains = watch::Receiver<Arc<BTreeSet<Arc<str>>>>;

/// What a source tells.
#[derive(Clone, Debug)]
pub enum Change {
    /// All routes there are, and with them all services. Applied at once: no request sees half of it.
    Everything { routes: Vec<Route>, services: Vec<Membership> },
    /// All routes there are.
    Routes(Vec<Route>),
    /// A route is new or changed.
    Set(Box<Route>),
    /// A route is gone; unknown ones are ignored.
    Remove { id: Box<str> },
    /// All instances of a service.
    Members(Membership),
    /// All automatic certificates and pending challenges.
    Automatic(Arc<View>),
}

/// The instances of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    pub service: Box<str>,
    pub instances: Vec<Instance>,
    pub leader: Option<SocketAddr>,
}

/// One instance of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instance {
    pub address: SocketAddr,
    /// `FLYNN_APP_NAME` of its metadata.
    pub app: Box<str>,
    /// `FLYNN_JOB_ID` of its metadata.
    pub job_id: Box<str>,
}

impl Instance {
    /// An instance of which only the address is known.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, app: "".into(), job_id: "".into() }
    }
}
