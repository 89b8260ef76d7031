//! Where contents are.

pub(crate) mod large_object;

/// The backend that is always there: large objects in the database of the names.
pub(crate) const POSTGRES: &str = "postgres";
/// Contents are read and written in pieces of so many bytes; large objects have pages of 2 KiB.
pub(crate) const PIECE: usize = 256 * 1024;
