//! Objects of the host API on port 1113.

pub mod attach;
mod config;
mod event;
mod job;
mod sink;
mod stats;
mod status;
mod volume;
mod webhook;

pub use config::*;
pub use event::*;
pub use job::*;
pub use sink::*;
pub use stats::*;
pub use status::*;
pub use volume::*;
pub use webhook::*;

/// Leaves a field out when it holds nothing.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Go sends `null` for a nil map or slice; it reads as empty.
pub(crate) fn null_as_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + serde::Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    Ok(<Option<T> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
