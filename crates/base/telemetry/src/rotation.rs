//! A log file that is rotated by size, can be reopened, and survives a full disk.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::LogFile;

/// Pause after a failed open or rotation.
const RETRY: Duration = Duration::from_secs(1);

/// Takes whole lines. Nothing here fails: what cannot be written is counted.
#[derive(Debug)]
pub struct RotatingFile {
    config: LogFile,
    file: Option<Open>,
    /// When the next failed open or rotation may be tried again.
    retry_at: Option<Instant>,
    /// Lines that were lost since the last one that was written, and why.
    lost: u64,
    reason: String,
    lost_ever: u64,
    /// The last write ended within a line.
    torn: bool,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

impl RotatingFile {
    /// Opens the file, and makes its folder. A file that cannot be opened is tried again with later lines.
    pub fn new(config: LogFile) -> Self {
        let (reason, file) = (String::new(), None);
        let mut new = Self { config, file, retry_at: None, lost: 0, reason, lost_ever: 0, torn: false };
        new.reopen();
        new
    }

    /// Opens the path again, for example after somebody renamed the file. The old one stays in use when that fails.
    pub fn reopen(&mut self) {
        match open(&self.config.path) {
            Ok(file) => {
                self.torn = false;
                self.file = Some(file);
            }
            Err(err) => self.reason = err.to_string(),
        }
    }

    /// Lines that were ever lost.
    pub fn lost_lines(&self) -> u64 {
        self.lost_ever
    }

    /// Appends a line, which ends in a line feed. Gives whether it was written.
    ///
    /// `notice` makes the line that tells of a gap.
    pub fn write_line(&mut self, line: &[u8], notice: impl FnOnce(u64, &str) -> String) -> bool {
        self.make_room(line.len());
        let mut text = Vec::new();
        if self.torn {
            text.push(b'\n');
        }
        if self.lost > 0 {
            text.extend_from_slice(notice(self.lost, &self.reason).as_bytes());
        }
        let written = if text.is_empty() {
            self.append(line)
        } else {
            text.extend_from_slice(line);
            self.append(&text)
        };
        match written {
            Ok(()) => self.lost = 0,
            Err(err) => {
                self.lost = self.lost.saturating_add(1);
                self.lost_ever = self.lost_ever.saturating_add(1);
                if err.kind() != io::ErrorKind::NotConnected {
                    self.reason = err.to_string();
                }
            }
        }
        self.lost == 0
    }

    fn make_room(&mut self, needed: usize) {
        let needed = needed as u64;
        let fits =
            self.file.as_ref().is_some_and(|open| open.bytes == 0 || open.bytes + needed <= self.config.max_bytes);
        if fits || self.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let done =
            if self.file.is_some() { rotate(&self.config) } else { Ok(()) }.and_then(|()| open(&self.config.path));
        match done {
            Ok(file) => {
                (self.file, self.retry_at, self.torn) = (Some(file), None, false);
            }
            // The current file goes on growing meanwhile: better than no log.
            Err(err) => {
                self.reason = err.to_string();
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let Some(open) = &mut self.file else { return Err(io::ErrorKind::NotConnected.into()) };
        while !bytes.is_empty() {
            match open.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    open.bytes += n as u64;
                    self.torn = bytes[n - 1] != b'\n';
                    bytes = &bytes[n..];
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<Open> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Open { file, bytes })
}

/// Moves every file one number up; what comes after the last number goes.
fn rotate(config: &LogFile) -> io::Result<()> {
    let numbered = |number: u32| {
        if number == 0 {
            return config.path.clone();
        }
        let mut name = OsString::from(&config.path);
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    // Moved already by a rotation whose new file could not be made: moving again would only cost the oldest.
    if !config.path.try_exists()? {
        return Ok(());
    }
    if config.keep == 0 {
        return gone_is_fine(std::fs::remove_file(&config.path));
    }
    for number in (0..config.keep).rev() {
        gone_is_fine(std::fs::rename(numbered(number), numbered(number + 1)))?;
    }
    Ok(())
}

fn gone_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn notice(lost: u64, _: &str) -> String {
        format!("lost {lost}\n")
    }

    #[test]
    fn files_are_rotated_by_size_and_only_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/a.log");
        let config = LogFile { path: path.clone(), max_bytes: 10, keep: 2 };
        let mut log = RotatingFile::new(config.clone());
        for n in 0..9 {
            assert!(log.write_line(format!("line{n}\n").as_bytes(), notice));
        }
        assert_eq!(names(path.parent().unwrap()), ["a.log", "a.log.1", "a.log.2"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line8\n");
        assert_eq!(std::fs::read_to_string(path.with_extension("log.2")).unwrap(), "line6\n");
        // After a restart the size is known, and a line longer than any file is kept whole.
        let mut log = RotatingFile::new(config);
        assert!(log.write_line(b"a line that is longer than a file\n", notice));
        assert_eq!(std::fs::read_to_string(path.with_extension("log.1")).unwrap(), "line8\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_renamed_file_is_left_at_the_next_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut log = RotatingFile::new(LogFile::new(&path));
        log.write_line(b"one\n", notice);
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        log.write_line(b"two\n", notice);
        log.reopen();
        log.write_line(b"three\n", notice);
        assert_eq!(std::fs::read_to_string(folder.path().join("moved")).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn lines_are_counted_while_the_disk_is_full_and_the_gap_is_told_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let (link, path) = (folder.path().join("link.log"), folder.path().join("real.log"));
        // The kernel's always full disk.
        std::os::unix::fs::symlink("/dev/full", &link).unwrap();
        let mut log = RotatingFile::new(LogFile::new(&link));
        assert!(!log.write_line(b"one\n", notice));
        assert!(!log.write_line(b"two\n", notice));
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        log.reopen();
        assert!(log.write_line(b"three\n", notice));
        assert!(log.write_line(b"four\n", notice));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "lost 2\nthree\nfour\n");
        assert_eq!(log.lost_lines(), 2);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("logs");
        std::fs::write(&blocked, "a file where the folder should be").unwrap();
        let mut log = RotatingFile::new(LogFile::new(blocked.join("a.log")));
        assert!(!log.write_line(b"one\n", notice));
        std::fs::remove_file(&blocked).unwrap();
        let limit = Instant::now() + Duration::from_secs(10);
        while !log.write_line(b"again\n", |_, reason| format!("why: {reason}\n")) {
            assert!(Instant::now() < limit, "never opened");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(std::fs::read_to_string(blocked.join("a.log")).unwrap().starts_with("why: "));
    }
}
