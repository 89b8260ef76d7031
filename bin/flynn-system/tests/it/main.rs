//! `flynn-system router` as a program, among real clients and backends.

mod backend;
mod browser;
mod certificate;
mod clients;
mod faults;
mod handover;
mod load;
mod program;
mod rig;
mod stalls;
