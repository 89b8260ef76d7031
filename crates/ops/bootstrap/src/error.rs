//! Why a cluster is not made.

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A sentence for the operator.
    #[error("{0}")]
    Wrong(String),
    #[error("{what}")]
    Failed {
        /// What was being done.
        what: String,
        #[source]
        err: Box<dyn std::error::Error + Send + Sync>,
    },
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was being done when something failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|err| Error::Failed { what: what(), err: err.into() })
    }
}

/// A sentence as an error.
pub(crate) fn wrong(text: impl Into<String>) -> Error {
    Error::Wrong(text.into())
}

/// An error with its causes, in one line.
pub(crate) fn words(err: &Error) -> String {
    flynn_types::error::with_causes(err)
}
