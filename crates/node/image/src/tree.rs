//! A file tree in memory, written as a tar stream that is the same for the same tree.

use std::collections::BTreeMap;
use std::io::{self, Write};

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Dir { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { target: String },
}

/// Nodes by absolute path. Everything belongs to root and has time 0.
///
/// **Invariant:** every parent of a node is a directory of the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    pub(crate) fn add(&mut self, path: &str, node: Node) -> Result<(), String> {
        for (end, _) in path.match_indices('/').skip(1) {
            let parent = &path[..end];
            match self.nodes.entry(parent.to_owned()).or_insert(Node::Dir { mode: 0o755 }) {
                Node::Dir { .. } => {}
                _ => return Err(format!("{path} lies in {parent}, which is no directory")),
            }
        }
        match (self.nodes.get(path), &node) {
            (None, _) | (Some(Node::Dir { .. }), Node::Dir { .. }) => {
                self.nodes.insert(path.to_owned(), node);
                Ok(())
            }
            (Some(_), _) => Err(format!("{path} is there twice")),
        }
    }

    pub(crate) fn contains(&self, path: &str) -> bool {
        self.nodes.contains_key(path)
    }

    /// Writes a POSIX ustar stream, sorted by path.
    pub(crate) fn write_tar(&self, out: &mut impl Write) -> io::Result<()> {
        for (path, node) in &self.nodes {
            let name = path.trim_start_matches('/');
            match node {
                Node::Dir { mode } => out.write_all(&header(&format!("{name}/"), b'5', *mode, 0, "")?)?,
                Node::Link { target } => out.write_all(&header(name, b'2', 0o777, 0, target)?)?,
                Node::File { mode, content } => {
                    out.write_all(&header(name, b'0', *mode, content.len() as u64, "")?)?;
                    out.write_all(content)?;
                    out.write_all(&[0; BLOCK][..content.len().next_multiple_of(BLOCK) - content.len()])?;
                }
            }
        }
        out.write_all(&[0; 2 * BLOCK])
    }
}

const BLOCK: usize = 512;

/// A ustar header (POSIX.1-1988): names up to 100 bytes, or 255 when they can be split at a `/`.
fn header(name: &str, kind: u8, mode: u32, size: u64, target: &str) -> io::Result<[u8; BLOCK]> {
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, format!("name {name:?} is too long for a tar"));
    let (prefix, short) = if name.len() <= 100 {
        ("", name)
    } else {
        let split = name.len() - 101;
        let at = name.get(split..name.len() - 1).and_then(|tail| tail.find('/')).ok_or_else(too_long)? + split;
        (&name[..at], &name[at + 1..])
    };
    if prefix.len() > 155 || target.len() > 100 {
        return Err(too_long());
    }
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, short.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, target.as_bytes());
    put(257, b"ustar\x0000");
    put(345, prefix.as_bytes());
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests;
