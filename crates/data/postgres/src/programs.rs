//! PostgreSQL's programs.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::account::Account;

/// Where Debian's packages put them, a folder for each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Most of a program's last words that is quoted, in bytes.
const QUOTED_LEN: usize = 2000;

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("no PostgreSQL server is installed below {VERSIONS}")]
    Missing,
    #[error("run {program}")]
    Start {
        program: &'static str,
        #[source]
        err: io::Error,
    },
    #[error("{program} failed: {words}")]
    Failed { program: &'static str, words: String },
}

/// The folder of one version's programs, and who runs them.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    folder: PathBuf,
    account: Option<Account>,
}

impl Programs {
    /// Those of the newest version there is.
    pub(crate) fn newest(account: Option<Account>) -> Result<Self, ProgramError> {
        Self::newest_in(Path::new(VERSIONS), account)
    }

    fn newest_in(versions: &Path, account: Option<Account>) -> Result<Self, ProgramError> {
        let folders = std::fs::read_dir(versions).into_iter().flatten().flatten().map(|entry| entry.path());
        let installed = folders.filter(|path| path.join("bin/postgres").exists());
        let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
        let newest = installed.max_by_key(number).ok_or(ProgramError::Missing)?;
        Ok(Self { folder: newest.join("bin"), account })
    }

    /// A program with a locale of its own, no input, and its end with ours.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.folder.join(program));
        command.env_clear().env("LC_ALL", "C.UTF-8").env("TZ", "UTC").env("PATH", "/usr/bin:/bin");
        command.stdin(Stdio::null()).kill_on_drop(true);
        if let Some(account) = self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command.current_dir("/");
        command
    }

    /// Runs a program to its end.
    pub(crate) async fn run(&self, program: &'static str, set: impl FnOnce(&mut Command)) -> Result<(), ProgramError> {
        let mut command = self.command(program);
        set(&mut command);
        let output = command.output().await.map_err(|err| ProgramError::Start { program, err })?;
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let begin = words.ceil_char_boundary(words.len().saturating_sub(QUOTED_LEN));
        Err(ProgramError::Failed { program, words: words[begin..].trim().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Programs::newest_in(folder.path(), None), Err(ProgramError::Missing)));
        for version in ["9", "15", "16"] {
            std::fs::create_dir_all(folder.path().join(version).join("bin")).unwrap();
        }
        for version in ["9", "15"] {
            std::fs::write(folder.path().join(version).join("bin/postgres"), "").unwrap();
        }
        let newest = Programs::newest_in(folder.path(), None).unwrap();
        assert_eq!(newest.folder, folder.path().join("15/bin"), "the newest that has a server");
    }
}
