//! Automatic certificates: orders them by ACME (RFC 8555), renews them, and shares them between routers.
//!
//! ```text
//!  wanted domains ─► engine ── next(…) ──► order ──► ACME server
//!                      │  ▲                  │
//!        view: certificates, challenges      ▼
//!                      └──────────────── store (shared by all routers; one of them holds the lease and orders)
//! ```
//!
//! [`Engine`] is what a router starts; it tells by [`View`] what there is to present and to answer. [`next()`] decides,
//! [`store::Store`] is where everything is kept, [`store::folder::FolderStore`] the one for routers on one file system.
//!
//! **Invariant:** [`next`] and its module read no clock, no store and no socket.
//! **Invariant:** what must outlive a crash is in the store before the next step is taken: an order is taken up again or made
//! anew in whatever state it was left.
//! **Invariant:** only the holder of the lease writes certificates, accounts and challenges: its methods are on the lease.
//! **Invariant:** a certificate is replaced by a newer one and by nothing else; failures leave it in place.

#![forbid(unsafe_code)]

mod authority;
mod chain;
pub mod challenge;
mod domain;
mod engine;
mod managed;
mod metrics;
pub mod next;
mod settings;
pub mod store;
mod view;

pub use chain::{InvalidChain, Validity};
pub use challenge::{Challenge, ChallengeKind};
pub use domain::{Domain, InvalidDomain};
pub use engine::{Engine, Names};
pub use managed::{Failure, Issued, KeyPem, Managed, OpenOrder};
pub use next::{Action, next};
pub use settings::{Pace, Settings};
pub use view::View;
