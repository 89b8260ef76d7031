//! Wire objects, ids and validation of Flynn's APIs.
//!
//! Entry points: [`id`] for names, [`host`] for the node daemon's API, [`discoverd`] for service discovery,
//! [`controller`] for apps, releases and what runs of them, [`router`] for routes, [`acme`] for automatic certificates,
//! [`image`] for artifacts and manifests, [`init`] for what passes between daemon, monitor and `flynn-init`, [`sirenia`]
//! for the high availability of databases, [`status`] for the health of components.
//!
//! **Invariant:** no I/O, no clock, no environment: this crate compiles for every platform the client runs on.
//! **Invariant:** the JSON of these types is what existing clients send and expect, quirks included; the tests beside
//! each module fix it byte by byte.

#![forbid(unsafe_code)]

pub mod acme;
pub mod controller;
pub mod discoverd;
pub mod error;
pub mod host;
pub mod id;
pub mod image;
pub mod init;
pub mod resource;
pub mod router;
pub mod sirenia;
pub mod status;
pub mod time;
