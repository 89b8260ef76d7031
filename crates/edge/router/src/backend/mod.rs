//! The side of the backends: connections, and the bodies that are sent on them.

mod dial;
mod h2c;
mod lease;
mod pace;
mod pool;
mod probe;
mod upload;

pub(crate) use dial::dial;
pub(crate) use lease::Lease;
pub(crate) use pool::Pool;
pub(crate) use probe::{LOOK, hangs};
pub(crate) use upload::{Upload, UploadBody, UploadFailure};
