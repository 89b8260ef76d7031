//! How a container ended, and where that is written down.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use flynn_types::init::{ExitRecord, InitState, files};
use rustix::fs::FallocateFlags;

use super::process::Ending;

const SIGKILL: i32 = 9;
/// Room that is kept for a record, in bytes. Those of jobs that failed may be longer.
const RESERVED: u64 = 4096;

/// What became of the job: what init said, else what its end tells.
pub(super) fn judge(said: &InitState, ending: Ending, oom_kills: u64, kill_requested: bool) -> InitState {
    match (said, ending) {
        (InitState::Exited { .. } | InitState::Failed { .. }, _) => said.clone(),
        (_, Ending::Signaled(SIGKILL)) if kill_requested => InitState::Exited { status: 0 },
        (_, Ending::Signaled(SIGKILL)) if oom_kills > 0 => InitState::Exited { status: 128 + SIGKILL },
        (_, Ending::Signaled(signal)) => {
            InitState::Failed { error: format!("unknown failure: the container was killed by signal {signal}") }
        }
        (_, Ending::Exited(status)) => {
            let error = format!("unknown failure: the container's init process ended with status {status}");
            InitState::Failed { error }
        }
    }
}

fn temporary(run_dir: &Path) -> PathBuf {
    run_dir.join(format!("{}.tmp", files::EXIT))
}

fn open(run_dir: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(temporary(run_dir))
}

/// Keeps room for the record, so that it can be saved also when the disk is full. Does its best.
pub(super) fn reserve(run_dir: &Path) {
    if let Ok(file) = open(run_dir) {
        let _ = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVED);
    }
}

/// Saves the record for good: whoever finds it finds all of it.
pub(super) fn save(run_dir: &Path, record: &ExitRecord) -> io::Result<()> {
    let json = serde_json::to_vec(record)?;
    let mut file = open(run_dir)?;
    file.write_all(&json)?;
    file.set_len(json.len() as u64)?;
    file.sync_all()?;
    std::fs::rename(temporary(run_dir), run_dir.join(files::EXIT))?;
    File::open(run_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flynn_types::init::SpoolProgress;

    #[test]
    fn what_init_said_counts_most() {
        let exited = |status| InitState::Exited { status };
        let failed = |error: &str| InitState::Failed { error: error.into() };
        for (name, said, ending, oom, kill, expected) in [
            ("an ordinary end", exited(3), Ending::Exited(3), 0, false, exited(3)),
            ("killed after its word", exited(3), Ending::Signaled(9), 1, true, exited(3)),
            ("not started", failed("exec"), Ending::Exited(70), 0, false, failed("exec")),
            ("killed as asked, init was stuck", InitState::Running, Ending::Signaled(9), 0, true, exited(0)),
            ("init itself ran out of memory", InitState::Running, Ending::Signaled(9), 1, false, exited(137)),
            (
                "killed by a stranger",
                InitState::Running,
                Ending::Signaled(9),
                0,
                false,
                failed("unknown failure: the container was killed by signal 9"),
            ),
            (
                "init gave up",
                InitState::Initial,
                Ending::Exited(70),
                0,
                false,
                failed("unknown failure: the container's init process ended with status 70"),
            ),
        ] {
            assert_eq!(judge(&said, ending, oom, kill), expected, "{name}");
        }
    }

    #[test]
    fn a_record_replaces_the_room_that_was_kept_for_it() {
        let dir = tempfile::tempdir().unwrap();
        reserve(dir.path());
        assert_eq!(std::fs::metadata(temporary(dir.path())).unwrap().len(), RESERVED);
        let record = ExitRecord {
            state: InitState::Exited { status: 3 },
            at_micros: 1,
            oom_kills: 0,
            spool: SpoolProgress { written: 9, closed: true },
        };
        save(dir.path(), &record).unwrap();
        let saved = std::fs::read(dir.path().join(files::EXIT)).unwrap();
        assert_eq!(serde_json::from_slice::<ExitRecord>(&saved).unwrap(), record);
        assert!(!temporary(dir.path()).exists());
    }
}
