//! The stream's bytes. Integers are little endian, byte strings have a 32-bit length before them.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use crate::error::StreamError;

/// Begins every stream; the digit is the version.
pub(crate) const MAGIC: &[u8] = b"flynn-volume-stream 1\n";
/// Most bytes of one piece of data; files are compared in blocks of this size.
pub(crate) const BLOCK_BYTES: usize = 128 << 10;
/// `PATH_MAX`
const MAX_PATH_LEN: usize = 4096;
/// `XATTR_SIZE_MAX`, and as many attributes as `XATTR_LIST_MAX` allows names for.
const MAX_XATTR_LEN: usize = 64 << 10;
const MAX_XATTRS: u32 = 16 << 10;

/// What the stream is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Name of the snapshot.
    pub(crate) name: String,
    /// Name of the snapshot that the stream is a difference to.
    pub(crate) base: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dir,
    /// A file, of this many bytes. `patch`: its data is a difference to the base's file at the same path.
    File {
        size_bytes: u64,
        patch: bool,
    },
    Symlink {
        target: Vec<u8>,
    },
    /// A character (`true`) or block device.
    Device {
        character: bool,
        major: u32,
        minor: u32,
    },
    Fifo,
    Socket,
    /// Another name of an earlier entry.
    HardLink {
        to: Vec<u8>,
    },
}

/// Everything about a file but its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Relative to the tree; empty for the tree's own folder.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits, with set-uid, set-gid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Time of modification.
    pub(crate) secs: i64,
    pub(crate) nanos: u32,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Entry(Entry),
    /// Data of the last entry.
    Data {
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Zeros in the last entry, where the base's file has something else.
    Hole {
        offset: u64,
        len: u64,
    },
    /// The base's file or folder is not in the snapshot.
    Remove {
        path: Vec<u8>,
    },
}

/// Writes a stream.
pub(crate) struct Encoder<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Encoder<W> {
    pub(crate) fn new(out: W, header: &Header) -> io::Result<Self> {
        let mut this = Self { out, hash: Sha256::new() };
        this.raw(MAGIC)?;
        let mut buffer = Vec::new();
        put_bytes(&mut buffer, header.name.as_bytes());
        put_bytes(&mut buffer, header.base.as_deref().unwrap_or_default().as_bytes());
        this.raw(&buffer)?;
        Ok(this)
    }

    pub(crate) fn item(&mut self, item: &Item) -> io::Result<()> {
        match item {
            Item::Data { offset, bytes } => self.data(*offset, bytes),
            Item::Entry(entry) => {
                let mut buffer = vec![b'E'];
                put_entry(&mut buffer, entry);
                self.raw(&buffer)
            }
            Item::Hole { offset, len } => {
                let mut buffer = vec![b'H'];
                buffer.extend_from_slice(&offset.to_le_bytes());
                buffer.extend_from_slice(&len.to_le_bytes());
                self.raw(&buffer)
            }
            Item::Remove { path } => {
                let mut buffer = vec![b'R'];
                put_bytes(&mut buffer, path);
                self.raw(&buffer)
            }
        }
    }

    /// As an [`Item::Data`], without a copy.
    pub(crate) fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut head = [0; 13];
        head[0] = b'D';
        head[1..9].copy_from_slice(&offset.to_le_bytes());
        head[9..].copy_from_slice(&u32::try_from(bytes.len()).map_err(io::Error::other)?.to_le_bytes());
        self.raw(&head)?;
        self.raw(bytes)
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.raw(b"Z")?;
        let digest = self.hash.finalize();
        self.out.write_all(&digest)?;
        self.out.flush()
    }

    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }
}

fn put_bytes(buffer: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    buffer.extend_from_slice(&len.to_le_bytes());
    buffer.extend_from_slice(bytes);
}

fn put_entry(buffer: &mut Vec<u8>, entry: &Entry) {
    put_bytes(buffer, &entry.path);
    match &entry.kind {
        Kind::Dir => buffer.push(b'd'),
        Kind::File { size_bytes, patch } => {
            buffer.push(if *patch { b'p' } else { b'f' });
            buffer.extend_from_slice(&size_bytes.to_le_bytes());
        }
        Kind::Symlink { target } => {
            buffer.push(b'l');
            put_bytes(buffer, target);
        }
        Kind::Device { character, major, minor } => {
            buffer.push(if *character { b'c' } else { b'b' });
            buffer.extend_from_slice(&major.to_le_bytes());
            buffer.extend_from_slice(&minor.to_le_bytes());
        }
        Kind::Fifo => buffer.push(b'o'),
        Kind::Socket => buffer.push(b's'),
        Kind::HardLink { to } => {
            buffer.push(b'h');
            put_bytes(buffer, to);
        }
    }
    for number in [entry.mode, entry.uid, entry.gid, entry.nanos] {
        buffer.extend_from_slice(&number.to_le_bytes());
    }
    buffer.extend_from_slice(&entry.secs.to_le_bytes());
    buffer.extend_from_slice(&u32::try_from(entry.xattrs.len()).unwrap_or(u32::MAX).to_le_bytes());
    for (name, value) in &entry.xattrs {
        put_bytes(buffer, name);
        put_bytes(buffer, value);
    }
}

/// Reads a stream. Every length is checked before anything is allocated for it.
pub(crate) struct Decoder<R> {
    input: R,
    hash: Sha256,
}

impl<R: Read> Decoder<R> {
    pub(crate) fn new(input: R) -> Result<(Self, Header), StreamError> {
        let mut this = Self { input, hash: Sha256::new() };
        let mut magic = [0; MAGIC.len()];
        match this.raw(&mut magic) {
            Ok(()) if magic == *MAGIC => {}
            Ok(()) | Err(StreamError::Truncated) => return Err(StreamError::Magic),
            Err(err) => return Err(err),
        }
        let mut name = || {
            let bytes = this.bytes(MAX_PATH_LEN, "a snapshot's name is too long")?;
            String::from_utf8(bytes).map_err(|_| StreamError::Invalid("a snapshot's name is no text"))
        };
        let header = Header { name: name()?, base: Some(name()?).filter(|base| !base.is_empty()) };
        if header.name.is_empty() {
            return Err(StreamError::Invalid("the snapshot has no name"));
        }
        Ok((this, header))
    }

    /// The next item; `None` at the end, when the checksum is right.
    pub(crate) fn item(&mut self) -> Result<Option<Item>, StreamError> {
        let mut tag = [0];
        self.raw(&mut tag)?;
        Ok(Some(match tag[0] {
            b'E' => Item::Entry(self.entry()?),
            b'D' => {
                let offset = self.u64()?;
                Item::Data { offset, bytes: self.bytes(BLOCK_BYTES, "a piece of data is too long")? }
            }
            b'H' => Item::Hole { offset: self.u64()?, len: self.u64()? },
            b'R' => Item::Remove { path: self.path()? },
            b'Z' => {
                let expected = self.hash.clone().finalize();
                let mut got = [0; 32];
                read_exact(&mut self.input, &mut got)?;
                return if got[..] == expected[..] { Ok(None) } else { Err(StreamError::Checksum) };
            }
            _ => return Err(StreamError::Invalid("unknown item")),
        }))
    }

    fn entry(&mut self) -> Result<Entry, StreamError> {
        let path = self.path()?;
        let mut tag = [0];
        self.raw(&mut tag)?;
        let kind = match tag[0] {
            b'd' => Kind::Dir,
            b'f' => Kind::File { size_bytes: self.size()?, patch: false },
            b'p' => Kind::File { size_bytes: self.size()?, patch: true },
            b'l' => Kind::Symlink { target: self.bytes(MAX_PATH_LEN, "a link's target is too long")? },
            b'c' | b'b' => Kind::Device { character: tag[0] == b'c', major: self.u32()?, minor: self.u32()? },
            b'o' => Kind::Fifo,
            b's' => Kind::Socket,
            b'h' => Kind::HardLink { to: self.path()? },
            _ => return Err(StreamError::Invalid("unknown kind of file")),
        };
        let (mode, uid, gid, nanos) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?);
        let secs = self.u64()?.cast_signed();
        if mode > 0o7777 || nanos >= 1_000_000_000 {
            return Err(StreamError::Invalid("a file's mode or time is impossible"));
        }
        let count = self.u32()?;
        if count > MAX_XATTRS {
            return Err(StreamError::Invalid("a file has too many attributes"));
        }
        let mut xattrs = Vec::new();
        for _ in 0..count {
            let name = self.bytes(256, "an attribute's name is too long")?;
            xattrs.push((name, self.bytes(MAX_XATTR_LEN, "an attribute is too long")?));
        }
        Ok(Entry { path, kind, mode, uid, gid, secs, nanos, xattrs })
    }

    /// A path that stays inside the tree.
    fn path(&mut self) -> Result<Vec<u8>, StreamError> {
        let path = self.bytes(MAX_PATH_LEN, "a path is too long")?;
        let clean = |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0);
        if !path.is_empty() && !path.split(|b| *b == b'/').all(clean) {
            return Err(StreamError::Invalid("a path leaves the volume"));
        }
        Ok(path)
    }

    /// A file's size, which the kernel takes as a signed number.
    fn size(&mut self) -> Result<u64, StreamError> {
        let size = self.u64()?;
        if i64::try_from(size).is_ok() { Ok(size) } else { Err(StreamError::Invalid("a file is too large")) }
    }

    fn bytes(&mut self, max: usize, problem: &'static str) -> Result<Vec<u8>, StreamError> {
        let len = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        if len > max {
            return Err(StreamError::Invalid(problem));
        }
        let mut bytes = vec![0; len];
        self.raw(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, StreamError> {
        let mut bytes = [0; 4];
        self.raw(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, StreamError> {
        let mut bytes = [0; 8];
        self.raw(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn raw(&mut self, bytes: &mut [u8]) -> Result<(), StreamError> {
        read_exact(&mut self.input, bytes)?;
        self.hash.update(bytes);
        Ok(())
    }
}

fn read_exact(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), StreamError> {
    input.read_exact(bytes).map_err(|err| match err.kind() {
        io::ErrorKind::UnexpectedEof => StreamError::Truncated,
        _ => StreamError::io("read from", "the sender")(err),
    })
}

#[cfg(test)]
mod tests;
