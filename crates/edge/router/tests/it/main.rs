//! The router as its clients and backends see it: real sockets on loopback, real peers. The names of tests begin with
//! the statement of the specification (spec router section 22) that they check.

mod acme;
mod backend;
mod balance;
mod bodies;
mod change;
mod client;
mod controller;
mod discovered;
mod events;
mod failures;
mod file;
mod grpc;
mod hanging;
mod headers;
mod hostile;
mod http2;
mod lifecycle;
mod limits;
mod logs;
mod many;
mod matching;
mod poison;
mod proxied;
mod rig;
mod secure;
mod smuggling;
mod tcp;
mod tls;
mod upgrades;
