//! TLS to clients: certificates, their choice by name, the handshake.

mod accept;
mod certificate;

pub(crate) use accept::{Acceptor, handshake};
pub(crate) use certificate::CertificateCache;
pub use certificate::{DefaultCertificate, InvalidCertificate};
