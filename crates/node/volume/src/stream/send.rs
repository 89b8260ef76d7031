//! Makes a stream of a snapshot, or of its difference to an older one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::OFlags;

use super::codec::{BLOCK_BYTES, Encoder, Entry, Header, Item, Kind};
use super::scan::{Tree, data_ranges};
use crate::error::StreamError;

/// Streams the tree at `snapshot`, as a difference to that at `base` if given. Neither may change meanwhile.
pub(crate) fn send(
    header: &Header,
    snapshot: &Path,
    base: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), StreamError> {
    let snapshot = Tree::open(snapshot)?;
    let entries = snapshot.scan()?;
    let encoder = Encoder::new(BufWriter::with_capacity(2 * BLOCK_BYTES, out), header).map_err(lost)?;
    let mut sender = Sender { snapshot: &snapshot, encoder };
    match base {
        None => {
            for entry in entries {
                sender.whole(entry)?;
            }
        }
        Some(base) => sender.difference(entries, &Tree::open(base)?)?,
    }
    sender.encoder.finish().map_err(lost)
}

fn lost(err: std::io::Error) -> StreamError {
    StreamError::io("write to", "the receiver")(err)
}

struct Sender<'a, W: Write> {
    snapshot: &'a Tree,
    encoder: Encoder<W>,
}

impl<W: Write> Sender<'_, W> {
    fn whole(&mut self, entry: Entry) -> Result<(), StreamError> {
        let file = match entry.kind {
            Kind::File { size_bytes, .. } => Some((entry.path.clone(), size_bytes)),
            _ => None,
        };
        self.encoder.item(&Item::Entry(entry)).map_err(lost)?;
        let Some((path, size_bytes)) = file else { return Ok(()) };
        let file = open(self.snapshot, &path)?;
        let fail = || StreamError::io("read", self.snapshot.full(&path));
        for (start, end) in data_ranges(file.as_fd(), size_bytes).map_err(fail())? {
            for (offset, len) in blocks(start, end) {
                let mut buffer = vec![0; len];
                file.read_exact_at(&mut buffer, offset).map_err(fail())?;
                self.encoder.data(offset, &buffer).map_err(lost)?;
            }
        }
        Ok(())
    }

    fn difference(&mut self, entries: Vec<Entry>, base: &Tree) -> Result<(), StreamError> {
        let old: BTreeMap<Vec<u8>, Entry> = base.scan()?.into_iter().map(|e| (e.path.clone(), e)).collect();
        let (links, old_links) = (links(entries.iter()), links(old.values()));
        let new: BTreeSet<&[u8]> = entries.iter().map(|e| e.path.as_slice()).collect();
        let mut removed: Option<&[u8]> = None;
        for path in old.keys().filter(|path| !new.contains(path.as_slice())) {
            // What is in a removed folder goes with it.
            if removed.is_some_and(|dir| path.starts_with(dir) && path.get(dir.len()) == Some(&b'/')) {
                continue;
            }
            removed = Some(path);
            self.encoder.item(&Item::Remove { path: path.clone() }).map_err(lost)?;
        }
        let files = |entry: &&Entry| matches!(entry.kind, Kind::File { .. });
        let new_files: BTreeSet<Vec<u8>> = entries.iter().filter(files).map(|e| e.path.clone()).collect();
        let old_files: BTreeSet<&[u8]> = old.values().filter(files).map(|e| e.path.as_slice()).collect();
        for entry in entries {
            // What has several names is only compared when it was and is a file of the same names.
            let group = match &entry.kind {
                Kind::HardLink { to } => to.clone(),
                _ => entry.path.clone(),
            };
            let comparable = links.get(&group) == old_links.get(&group)
                && (!links.contains_key(&group)
                    || (new_files.contains(&group) && old_files.contains(group.as_slice())));
            let before = old.get(&entry.path).filter(|_| comparable);
            match (&entry.kind, before.map(|b| &b.kind)) {
                (Kind::HardLink { .. }, Some(Kind::HardLink { .. })) => {}
                (Kind::File { .. }, Some(Kind::File { size_bytes: old_bytes, .. })) => {
                    let (old_bytes, unchanged) = (*old_bytes, before == Some(&entry));
                    self.patch(entry, base, old_bytes, unchanged)?;
                }
                // A folder's time changes with what is done in it: it is always said.
                (Kind::Dir, _) => self.encoder.item(&Item::Entry(entry)).map_err(lost)?,
                (kind, Some(old)) if kind == old && before == Some(&entry) => {}
                _ => self.whole(entry)?,
            }
        }
        Ok(())
    }

    /// Sends the blocks of a file that differ. `unchanged`: all but its data is as it was, so that nothing is sent when
    /// no block differs. Times are not trusted: a file can change and have its time set back.
    fn patch(&mut self, mut entry: Entry, base: &Tree, old_bytes: u64, unchanged: bool) -> Result<(), StreamError> {
        let path = entry.path.clone();
        let Kind::File { size_bytes, patch } = &mut entry.kind else { return Ok(()) };
        let size_bytes = *size_bytes;
        *patch = true;
        let (file, old) = (open(self.snapshot, &path)?, open(base, &path)?);
        let fail = || StreamError::io("read", self.snapshot.full(&path));
        let ranges = data_ranges(file.as_fd(), size_bytes).map_err(fail())?;
        let old_ranges = data_ranges(old.as_fd(), old_bytes.min(size_bytes)).map_err(fail())?;
        let mut begun = !unchanged;
        if begun {
            self.encoder.item(&Item::Entry(entry.clone())).map_err(lost)?;
        }
        for (start, end) in holes_over_data(&ranges, &old_ranges) {
            self.begin(&mut begun, &entry)?;
            self.encoder.item(&Item::Hole { offset: start, len: end - start }).map_err(lost)?;
        }
        let (mut new_block, mut old_block) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
        for (start, end) in ranges {
            for (offset, len) in blocks(start, end) {
                let block = &mut new_block[..len];
                file.read_exact_at(block, offset).map_err(fail())?;
                // Behind the old end there are zeros after the file is made longer.
                let known = usize::try_from(old_bytes.saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
                old.read_exact_at(&mut old_block[..known], offset).map_err(fail())?;
                old_block[known..len].fill(0);
                if *block != old_block[..len] {
                    self.begin(&mut begun, &entry)?;
                    self.encoder.data(offset, &new_block[..len]).map_err(lost)?;
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, begun: &mut bool, entry: &Entry) -> Result<(), StreamError> {
        if *begun {
            return Ok(());
        }
        *begun = true;
        self.encoder.item(&Item::Entry(entry.clone())).map_err(lost)
    }
}

fn open(tree: &Tree, path: &[u8]) -> Result<File, StreamError> {
    let fd = tree.open_at(path, OFlags::RDONLY | OFlags::NOFOLLOW);
    fd.map(File::from).map_err(|err| StreamError::io("open", tree.full(path))(err.into()))
}

/// Names of each file that has several, by the first of them.
fn links<'e>(entries: impl Iterator<Item = &'e Entry>) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut links: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for entry in entries {
        if let Kind::HardLink { to } = &entry.kind {
            links.entry(to.clone()).or_default().push(entry.path.clone());
        }
    }
    links
}

/// Offsets and lengths of the blocks of a range, cut at multiples of the block size.
fn blocks(start: u64, end: u64) -> impl Iterator<Item = (u64, usize)> {
    let size = BLOCK_BYTES as u64;
    let mut at = start;
    std::iter::from_fn(move || {
        let next = (at / size + 1).saturating_mul(size).min(end);
        let block = (at < end).then(|| (at, usize::try_from(next - at).unwrap_or(BLOCK_BYTES)));
        at = next;
        block
    })
}

/// Parts of `old` that are not covered by `new`. Both are in order.
fn holes_over_data(new: &[(u64, u64)], old: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut holes = Vec::new();
    for (start, end) in old {
        let mut at = *start;
        for (covered, until) in new.iter().filter(|(s, e)| s < end && e > start) {
            if at < *covered {
                holes.push((at, *covered));
            }
            at = at.max(*until);
        }
        if at < *end {
            holes.push((at, *end));
        }
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_cut_at_multiples() {
        let size = BLOCK_BYTES as u64;
        assert_eq!(blocks(0, 0).count(), 0);
        assert_eq!(blocks(5, size + 7).collect::<Vec<_>>(), [(5, BLOCK_BYTES - 5), (size, 7)]);
    }

    #[test]
    fn holes_are_found_where_there_was_data() {
        for (new, old, holes) in [
            (vec![], vec![(0, 10)], vec![(0, 10)]),
            (vec![(0, 10)], vec![(2, 5)], vec![]),
            (vec![(3, 5), (7, 8)], vec![(0, 10)], vec![(0, 3), (5, 7), (8, 10)]),
            (vec![(0, 4)], vec![(2, 6), (8, 9)], vec![(4, 6), (8, 9)]),
        ] {
            assert_eq!(holes_over_data(&new, &old), holes);
        }
    }
}
