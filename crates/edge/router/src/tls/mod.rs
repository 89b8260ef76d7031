//! TLS to clients: certificates, their choice by name, the handshake.

mod accept;
mod certificate;

pub(crate) use accept::{Acceptor, handshake};
pub use certificate::{DefaultCertificate, InvalidCertificate};
pub(crate) use certificate::CertificateCache;
