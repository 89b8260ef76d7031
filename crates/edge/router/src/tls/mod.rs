//! TLS to clients: certificates, their choice by name, the handshake.

mod accept;
mod certificate;
mod challenges;
mod tickets;

pub(crate) use accept::{Acceptor, handshake};
pub(crate) use certificate::CertificateCache;
pub use certificate::{DefaultCertificate, InvalidCertificate};
pub(crate) use challenges::Challenges;
pub(crate) use tickets::Tickets;
