//! Copies a tree on this machine.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::codec::Kind;
use super::scan::Tree;
use super::write::Writer;
use crate::error::StreamError;

/// Copies the tree `from` to the new folder `to`.
pub(crate) fn tree(from: &Path, to: &Path) -> Result<(), StreamError> {
    fs::create_dir(to).map_err(StreamError::io("make folder", to))?;
    let source = Tree::open(from)?;
    let mut writer = Writer::open(to)?;
    let mut skipped = Vec::new();
    for entry in source.scan()? {
        let path = entry.path.clone();
        let file = match &entry.kind {
            Kind::File { .. } => match source.open_at(&path, OFlags::RDONLY | OFlags::NOFOLLOW) {
                Ok(fd) => Some(File::from(fd)),
                Err(Errno::NOENT) => {
                    skipped.push(path); // it went away meanwhile
                    continue;
                }
                Err(err) => return Err(StreamError::io("open", source.full(&path))(err.into())),
            },
            Kind::HardLink { to } if skipped.contains(to) => continue,
            _ => None,
        };
        writer.put(entry)?;
        if let Some(file) = file {
            writer.data_from(&file)?;
        }
    }
    writer.finish()
}
