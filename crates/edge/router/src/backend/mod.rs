//! The side of the backends: connections, and the bodies that are sent on them.

mod dial;
mod pool;
mod probe;
mod upload;

pub(crate) use dial::{dial, open};
pub(crate) use pool::{Pool, Sender};
pub(crate) use probe::{LOOK, hangs};
pub(crate) use upload::{Upload, UploadBody};
