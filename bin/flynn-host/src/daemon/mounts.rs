//! Mounts of this machine.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::mount::UnmountFlags;

/// Unmounts all below the given folders, innermost first.
pub(super) fn unmount_below(folders: &[&Path]) -> anyhow::Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    for target in mounts_below(&table, folders).into_iter().rev() {
        rustix::mount::unmount(&target, UnmountFlags::DETACH)
            .with_context(|| format!("unmount {}", target.display()))?;
    }
    Ok(())
}

/// Mount points below the folders, in the order in which they were mounted.
fn mounts_below(table: &str, folders: &[&Path]) -> Vec<PathBuf> {
    let targets = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    targets.filter(|target| folders.iter().any(|folder| target.starts_with(folder) && target != folder)).collect()
}

/// The kernel writes blanks and backslashes as `\ooo`.
fn unescape(text: &str) -> PathBuf {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &after[3..];
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_the_folders_are_ours() {
        let table = "1 0 8:1 / / rw - ext4 a rw\n2 1 0:3 / /v rw - ext4 b rw\n3 1 0:4 / /v/a\\040b rw - ext4 c rw\n4 1 0:4 / /vx rw - ext4 c rw\n";
        assert_eq!(mounts_below(table, &[Path::new("/v")]), [PathBuf::from("/v/a b")]);
    }
}
