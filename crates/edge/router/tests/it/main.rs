//! The router as its clients and backends see it: real sockets on loopback, real peers. The names of tests begin with
//! the statement of the specification (spec router section 22) that they check.

mod acme;
mod backend;
mod balance;
mod bodies;
mod change;
mod client;
mod discovered;
mod events;
mod failures;
mod file;
mod hanging;
mod headers;
mod hostile;
mod lifecycle;
mod many;
mod matching;
mod proxied;
mod rig;
mod secure;
mod tcp;
mod tls;
mod upgrades;
