//! File trees: copied, and sent as streams between nodes.
//!
//! A stream is [`MAGIC`], a header, then for each file, sorted by path, an entry and its data; at the end a SHA-256 of
//! everything before. It keeps what a file system keeps: owners, modes, times, extended attributes (ACLs, capabilities),
//! links of both kinds, devices, holes. A stream with a base holds only differences, of files' content in blocks.

mod codec;
pub(crate) mod copy;
pub(crate) mod receive;
mod scan;
pub(crate) mod send;
mod write;

pub(crate) use codec::Header;
