//! Reading an app's log from a place on, over rotations.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::applog::{inode_of, log_file_name};
use crate::message::frames;
use crate::published::AppEnd;

/// A place in an app's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Position {
    pub(crate) generation: u64,
    pub(crate) offset: u64,
    /// Messages of the app before this place.
    pub(crate) messages: u64,
}

impl Position {
    pub(crate) fn oldest(end: &AppEnd) -> Self {
        let (generation, messages) = end.oldest();
        Self { generation, offset: 0, messages }
    }

    pub(crate) fn newest(end: &AppEnd) -> Self {
        Self { generation: end.generation, offset: end.len, messages: end.messages }
    }

    pub(crate) fn is_at(&self, end: &AppEnd) -> bool {
        self.generation >= end.generation && self.offset >= end.len
    }
}

/// What a read came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// The buffer holds whole frames.
    Frames,
    /// So many messages are gone: their file was deleted.
    Gap(u64),
    /// Everything announced was read.
    End,
    /// The announced end is outdated: look again.
    Again,
}

/// A reader of one app's log. All methods may block on the disk.
#[derive(Debug)]
pub(crate) struct Tail {
    app: String,
    log_dir: PathBuf,
    /// Place behind what is in the buffer.
    pub(crate) position: Position,
    file: Option<File>,
    pub(crate) buffer: Vec<u8>,
}

impl Tail {
    pub(crate) fn new(log_dir: &Path, app: &str, position: Position) -> Self {
        Self { app: app.to_owned(), log_dir: log_dir.to_owned(), position, file: None, buffer: Vec::new() }
    }

    /// Fills the buffer with at most `most` bytes of whole frames (at least one, if there is one).
    pub(crate) fn read(&mut self, end: &AppEnd, most: usize) -> io::Result<Read> {
        self.buffer.clear();
        loop {
            if self.position.is_at(end) {
                return Ok(Read::End);
            }
            if self.file.is_none() {
                let (oldest, first) = end.oldest();
                if self.position.generation < oldest {
                    let gone = first.saturating_sub(self.position.messages);
                    self.position = Position { generation: oldest, offset: 0, messages: first };
                    if gone > 0 {
                        return Ok(Read::Gap(gone));
                    }
                }
                match self.open(end)? {
                    Some(file) => self.file = Some(file),
                    None => return Ok(Read::Again),
                }
            }
            let Some(file) = &self.file else { return Ok(Read::Again) };
            let current = self.position.generation == end.generation;
            let limit = if current { end.len } else { file.metadata()?.len() };
            let most = usize::try_from(limit.saturating_sub(self.position.offset)).unwrap_or(most).min(most);
            self.buffer.resize(most, 0);
            file.read_exact_at(&mut self.buffer, self.position.offset)?;
            let mut messages = 0;
            let used = frames(&self.buffer, |_| messages += 1);
            self.buffer.truncate(used);
            if used > 0 {
                self.position.offset += used as u64;
                self.position.messages += messages;
                return Ok(Read::Frames);
            }
            if current {
                // Bytes that are no frames, up to the end.
                self.position = Position::newest(end);
                return Ok(Read::End);
            }
            self.file = None;
            self.position.generation += 1;
            self.position.offset = 0;
        }
    }

    /// Gives file and buffer back until there is more.
    pub(crate) fn rest(&mut self) {
        (self.file, self.buffer) = (None, Vec::new());
    }

    /// `None` when the file was rotated meanwhile.
    fn open(&self, end: &AppEnd) -> io::Result<Option<File>> {
        let path = match &end.backup {
            Some(backup) if self.position.generation < end.generation => backup.path.clone(),
            _ => self.path(),
        };
        match File::open(&path) {
            Ok(file) if self.position.generation < end.generation || inode_of(&file)? == end.inode => Ok(Some(file)),
            Ok(_) => Ok(None),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.log_dir.join(log_file_name(&self.app))
    }
}
