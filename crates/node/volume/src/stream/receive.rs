//! Makes a tree of a stream.

use std::io::{BufReader, Read};
use std::path::Path;

use super::codec::{BLOCK_BYTES, Decoder, Header, Item};
use super::write::Writer;
use crate::error::StreamError;

/// A stream whose header was read.
pub(crate) struct Receiver<'a> {
    decoder: Decoder<BufReader<&'a mut dyn Read>>,
    header: Header,
}

impl<'a> Receiver<'a> {
    pub(crate) fn open(input: &'a mut dyn Read) -> Result<Self, StreamError> {
        let (decoder, header) = Decoder::new(BufReader::with_capacity(2 * BLOCK_BYTES, input))?;
        Ok(Self { decoder, header })
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Changes the tree at `root`, which holds the base or nothing, into the snapshot. After an error it is of no use.
    pub(crate) fn apply(&mut self, root: &Path) -> Result<(), StreamError> {
        let mut writer = Writer::open(root)?;
        while let Some(item) = self.decoder.item()? {
            match item {
                Item::Entry(entry) => writer.put(entry)?,
                Item::Data { offset, bytes } => writer.data(offset, &bytes)?,
                Item::Hole { offset, len } => writer.hole(offset, len)?,
                Item::Remove { path } => writer.remove(&path)?,
            }
        }
        writer.finish()
    }
}
