//! The router: proxies HTTP, HTTPS and TCP from the edge of the cluster to the backends of services.
//!
//! ```text
//!  sources (file, controller, discoverd) ──► control ──► snapshot: routes, certificates     services: backends
//!                                                            │ read by every request, never waited for │
//!  listeners ─► PROXY header, TLS ─► guard ─► hyper ─► exchange ─► relay ─► pool ─► backend
//!        one thread and runtime per worker, from the listener's socket to the backend's
//! ```
//!
//! [`Router`] takes in what [`source`]s tell, and [`Serving`] listens. Decisions are pure: [`table`] finds routes,
//! [`balance`] backends; [`cookie`] and [`proxy_protocol`] are codecs.
//!
//! **Invariant:** a request never waits for a source: it sees the last snapshot, however old.
//! **Invariant:** bodies are streamed, never kept; a request is sent again only when nothing of its body was read.
//! **Invariant:** nothing of a request crosses threads, and no lock is held while waiting.
//! **Invariant:** a route, certificate or instance that is wrong fails itself and nothing else.

#![forbid(unsafe_code)]

mod api;
mod backend;
pub mod balance;
mod control;
pub mod cookie;
mod events;
mod former;
#[cfg(fuzzing)]
pub mod fuzz;
mod guard;
mod headers;
mod http;
mod listen;
mod metrics;
mod names;
mod proxied;
pub mod proxy_protocol;
mod route;
mod router;
mod service;
mod settings;
mod shared;
mod sockets;
pub mod source;
pub mod table;
mod tcp;
mod tls;
mod unavailable;
mod watchdog;
mod worker;

pub use cookie::{CookieKey, InvalidCookieKey};
pub use former::Former;
pub use route::InvalidRoute;
pub use router::{ListenError, Router, Serving};
pub use settings::{HttpPort, Limits, Settings};
pub use sockets::Sockets;
pub use tls::{DefaultCertificate, InvalidCertificate};
pub use unavailable::{Page, PageError};
