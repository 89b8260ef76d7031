//! Noticing that the kernel killed a process of the container for lack of memory.
//!
//! Version 1 announces lack of memory through an event descriptor, before it kills; the count follows a little later.
//! Version 2 makes the file with the count poll as exceptional when it changes.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::FileType;

/// The line that operators and tools know.
pub(super) const LINE: &str =
    "lvl=crit msg=\"FATAL: a container process was killed due to lack of available memory\" component=flynn-host\n";

/// How long after an announcement the count may lag behind.
const LAG: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct OomWatch {
    file: Option<File>,
    /// Event descriptor of version 1.
    events: Option<OwnedFd>,
    kills: u64,
    /// How many of them were reported.
    reported: u64,
    look_until: Option<Instant>,
}

impl OomWatch {
    /// `path` is the file with the count, empty for none; `events` an event descriptor or something else.
    pub(super) fn new(path: &str, events: OwnedFd) -> Self {
        let kind = rustix::fs::fstat(&events).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let is_device = matches!(kind, Ok(FileType::CharacterDevice) | Err(_));
        let file = File::open(path).ok();
        let mut watch = Self { file, events: (!is_device).then_some(events), kills: 0, reported: 0, look_until: None };
        watch.look_now();
        watch
    }

    /// What to poll for news.
    pub(super) fn source(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match (&self.events, &self.file) {
            (Some(events), _) => Some((events.as_fd(), PollFlags::IN)),
            (None, Some(file)) => Some((file.as_fd(), PollFlags::PRI)),
            (None, None) => None,
        }
    }

    /// The source has news.
    pub(super) fn noticed(&mut self) {
        if let Some(events) = &self.events {
            let mut count = [0; 8];
            if rustix::io::read(events, &mut count).unwrap_or(0) == 0 {
                self.events = None;
            }
        }
        self.look_until = Some(Instant::now() + LAG);
        self.look_now();
    }

    /// Whether the count is worth another look soon.
    pub(super) fn is_looking(&self) -> bool {
        self.look_until.is_some()
    }

    pub(super) fn look(&mut self) {
        if self.is_looking() {
            self.look_now();
        }
        if self.look_until.is_some_and(|until| until <= Instant::now()) {
            self.look_until = None;
        }
    }

    /// Reads the count. A file that is gone, with its cgroup, is not asked again.
    pub(super) fn look_now(&mut self) {
        let Some(file) = &mut self.file else { return };
        let mut text = String::new();
        match file.rewind().and_then(|()| file.read_to_string(&mut text)) {
            Ok(_) => self.kills = self.kills.max(parse(&text)),
            Err(_) => {
                self.file = None;
                self.events = None;
            }
        }
    }

    pub(super) fn kills(&self) -> u64 {
        self.kills
    }

    /// How many kills were not reported yet; they are now.
    pub(super) fn take_new(&mut self) -> u64 {
        let new = self.kills - self.reported;
        self.reported = self.kills;
        new
    }
}

/// The count in `memory.oom_control` or `memory.events`.
fn parse(text: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_in_both_versions() {
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 1\noom_kill 2\n"), 2);
        assert_eq!(parse("low 0\nhigh 0\nmax 9\noom 3\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(parse(""), 0);
    }

    #[test]
    fn each_kill_is_reported_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.events");
        std::fs::write(&path, "oom_kill 0\n").unwrap();
        let mut watch = OomWatch::new(path.to_str().unwrap(), File::open("/dev/null").unwrap().into());
        assert_eq!(watch.take_new(), 0);
        std::fs::write(&path, "oom_kill 2\n").unwrap();
        watch.noticed();
        assert_eq!((watch.take_new(), watch.take_new(), watch.kills()), (2, 0, 2));
    }
}
