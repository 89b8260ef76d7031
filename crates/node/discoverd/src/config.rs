//! What a node is told when it starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of one node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names the machine; outlives its addresses and its store.
    pub host_id: String,
    /// Where other nodes reach this one, `ip:1111`.
    pub advertise: SocketAddr,
    /// File of the replicated log; its directory is made.
    pub store: PathBuf,
    /// The other nodes (`--peer-ips`); may hold the own address, may be empty.
    pub peers: Vec<SocketAddr>,
    /// Shown by `GET /.well-known/status`.
    pub version: String,
    /// Whether the node registers itself in the service `discoverd` (spec section 2.4, step 11).
    pub register: bool,
    pub timing: Timing,
}

impl Config {
    pub fn new(
        host_id: impl Into<String>,
        advertise: SocketAddr,
        store: impl Into<PathBuf>,
        peers: Vec<SocketAddr>,
    ) -> Self {
        Self {
            host_id: host_id.into(),
            advertise,
            store: store.into(),
            peers,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            register: true,
            timing: Timing::default(),
        }
    }
}

/// Intervals and limits in time.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Between two heartbeats of the Raft leader. An append that takes longer counts as failed and is sent again.
    pub heartbeat: Duration,
    /// Shortest and longest silence of the leader before a follower stands for election, counted from the end of its
    /// lease, which lasts as long as the longest. Together: a dead leader is replaced within 1.35 s.
    pub election: (Duration, Duration),
    /// An instance is dropped after so long without a heartbeat (spec section 6.3). Twice as long after a change of
    /// the Raft leader nothing is dropped.
    pub ttl: Duration,
    /// How often the leader looks for instances to drop.
    pub expiry_interval: Duration,
    /// A voter that was silent for so long is replaced by a learner, if there is one.
    pub replace_after: Duration,
    /// A learner that was silent for so long is forgotten; it joins again when it returns.
    pub forget_after: Duration,
    /// How often the leader reviews who votes.
    pub review_interval: Duration,
    /// How often nodes without a leader call all the addresses that they know.
    pub announce_interval: Duration,
    /// Silence after which an event stream gets a keep-alive (spec section 5).
    pub keep_alive: Duration,
    /// How long a slow reader's connection may take to swallow the error frame before it is cut.
    pub cut_after: Duration,
    /// How long a write waits for a leader before it is refused.
    pub leader_patience: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election: (Duration::from_millis(300), Duration::from_millis(600)),
            ttl: Duration::from_secs(10),
            expiry_interval: Duration::from_millis(500),
            replace_after: Duration::from_secs(60),
            forget_after: Duration::from_secs(24 * 3600),
            review_interval: Duration::from_millis(250),
            announce_interval: Duration::from_millis(250),
            keep_alive: Duration::from_secs(30),
            cut_after: Duration::from_secs(2),
            leader_patience: Duration::from_millis(2500),
        }
    }
}
