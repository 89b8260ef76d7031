//! The unprivileged user that the server runs as: PostgreSQL refuses to run as root.

use std::io;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;

/// Debian's package makes it.
const NAME: &str = "postgres";

/// A user and its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    /// The server's account: `postgres` for root, and nothing to change for anybody else.
    ///
    /// # Errors
    /// When there is no such user.
    pub fn of_server() -> io::Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = std::fs::read_to_string("/etc/passwd")?;
        let account = users.lines().find_map(|line| Self::of_line(line, NAME));
        account.map(Some).ok_or_else(|| io::Error::other(format!("/etc/passwd has no user {NAME}")))
    }

    fn of_line(line: &str, name: &str) -> Option<Self> {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        let mut number = fields.skip(1).map(str::parse);
        Some(Self { uid: number.next()?.ok()?, gid: number.next()?.ok()? })
    }

    /// Gives everything below `path` to the account: an image's next build may number its users otherwise.
    pub(crate) fn own_all(self, path: &Path) -> io::Result<()> {
        let metadata = std::fs::symlink_metadata(path)?;
        if (metadata.uid(), metadata.gid()) != (self.uid, self.gid) {
            std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))?;
        }
        if metadata.is_dir() {
            for entry in std::fs::read_dir(path)? {
                self.own_all(&entry?.path())?;
            }
        }
        Ok(())
    }

    pub(crate) fn own(self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
    }
}

#[cfg(test)]
mod tests {
    use super::Account;

    #[test]
    fn an_account_is_found_by_its_name() {
        let line = "postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash";
        assert_eq!(Account::of_line(line, "postgres"), Some(Account { uid: 101, gid: 104 }));
        for wrong in ["", "postgresql:x:1:1::/:/bin/sh", "postgres:x:a:104", "postgres:x", "root:x:0:0:postgres:/:"] {
            assert_eq!(Account::of_line(wrong, "postgres"), None, "{wrong}");
        }
    }
}
