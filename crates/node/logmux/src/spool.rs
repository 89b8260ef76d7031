//! Reading a job's spool (see `flynn_types::init::spool`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use flynn_types::init::spool;

/// How much is read at once, in bytes: several records of any length.
const CHUNK: usize = 512 * 1024;

/// One record of the spool.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    pub(crate) offset: u64,
    pub(crate) stream: u8,
    pub(crate) micros: u64,
    pub(crate) payload: &'a [u8],
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Read,
    /// Output was dropped before it could be read; reading goes on behind it.
    Gap {
        bytes: u64,
    },
    /// Nothing is there beyond this.
    End,
}

#[derive(Debug)]
pub(crate) struct SpoolReader {
    dir: PathBuf,
    offset: u64,
    segment: Option<(u64, File)>,
    buffer: Vec<u8>,
}

impl SpoolReader {
    pub(crate) fn new(dir: PathBuf, offset: u64) -> Self {
        Self { dir, offset, segment: None, buffer: Vec::new() }
    }

    /// Offset of the next record.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Gives the buffer back until there is more to read.
    pub(crate) fn rest(&mut self) {
        self.buffer = Vec::new();
    }

    /// Reads records that end at `upto` or before, as many as one buffer holds.
    pub(crate) fn read(&mut self, upto: u64, mut each: impl FnMut(Record<'_>)) -> io::Result<Progress> {
        if self.offset >= upto {
            return Ok(Progress::End);
        }
        if let Some((start, file)) = &self.segment {
            let most = usize::try_from(upto - self.offset).unwrap_or(CHUNK).min(CHUNK);
            self.buffer.resize(most, 0);
            let len = read_at(file, &mut self.buffer, self.offset - start)?;
            let used = records(&self.buffer[..len], self.offset, &mut each);
            if used > 0 {
                self.offset += used as u64;
                return Ok(Progress::Read);
            }
        }
        // The segment is exhausted, or what follows in it is no record.
        self.next_segment(upto)
    }

    fn next_segment(&mut self, upto: u64) -> io::Result<Progress> {
        let before = self.segment.take().map(|(start, _)| start);
        let starts = segments(&self.dir)?;
        // The one that holds the offset, unless that is where we come from.
        let holding = starts.iter().rev().find(|start| **start <= self.offset).copied();
        if let Some(start) = holding.filter(|start| Some(*start) != before) {
            let file = File::open(self.dir.join(spool::segment_name(start)))?;
            if self.offset - start < file.metadata()?.len() {
                self.segment = Some((start, file));
                return Ok(Progress::Read);
            }
        }
        let next = starts.into_iter().find(|start| *start > self.offset).unwrap_or(upto).min(upto);
        let bytes = next - self.offset;
        self.offset = next;
        Ok(Progress::Gap { bytes })
    }
}

/// Offsets of the segments in ascending order; none when there is no directory.
fn segments(dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let mut starts = Vec::new();
    for entry in entries {
        starts.extend(entry?.file_name().to_str().and_then(spool::segment_offset));
    }
    starts.sort_unstable();
    Ok(starts)
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read_at(&mut buffer[len..], offset + len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(len)
}

/// Calls `each` with the whole records; gives how many bytes those are.
fn records(bytes: &[u8], offset: u64, each: &mut impl FnMut(Record<'_>)) -> usize {
    let mut at = 0;
    while let Some((header, rest)) = bytes[at..].split_first_chunk::<{ spool::HEADER_LEN }>() {
        let Some((stream, len, micros)) = spool::parse_header(header) else { break };
        let Some(payload) = rest.get(..len) else { break };
        each(Record { offset: offset + at as u64, stream, micros, payload });
        at += spool::HEADER_LEN + len;
    }
    at
}

#[cfg(test)]
mod tests;
