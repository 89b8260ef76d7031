//! Names and contents of log files.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveDateTime, Utc};
use flynn_types::id::is_path_safe;

use super::Place;
use crate::message::{Frame, Message, first_frame, frames};

/// Time in the name of a backup.
const BACKUP_TIME: &str = "%Y-%m-%dT%H-%M-%S%.3f";
const BACKUP_TIME_LEN: usize = 23;
/// The daemon's own log lies in the same directory.
const RESERVED: &str = "flynn-host";

/// The app's name in file names: its id, or nothing when that cannot be part of a file name of ours.
pub(crate) fn app_key(app_id: &str) -> &str {
    let usable = is_path_safe(app_id) && app_id != RESERVED && backup_of(&format!("{app_id}.log")).is_none();
    if usable { app_id } else { "" }
}

pub(crate) fn log_file_name(app: &str) -> String {
    format!("{app}.log")
}

pub(super) fn backup_path(place: &Place, micros: i64) -> PathBuf {
    let mut micros = micros;
    loop {
        let time = DateTime::<Utc>::from_timestamp_micros(micros).unwrap_or_default().format(BACKUP_TIME);
        let path = place.log_dir.join(format!("{}-{time}.log", place.app));
        if !path.exists() {
            return path;
        }
        micros += 1000; // two rotations in one millisecond
    }
}

/// The app whose backup has this name.
fn backup_of(name: &str) -> Option<&str> {
    let stem = name.strip_suffix(".log")?;
    let (app, time) = stem.split_at_checked(stem.len().checked_sub(BACKUP_TIME_LEN)?)?;
    NaiveDateTime::parse_from_str(time, BACKUP_TIME).ok()?;
    app.strip_suffix('-')
}

/// An app's older files, oldest first.
pub(crate) fn backups_of(log_dir: &Path, app: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(log_dir)? {
        let name = entry?.file_name();
        if name.to_str().and_then(backup_of) == Some(app) {
            found.push(log_dir.join(name));
        }
    }
    found.sort();
    Ok(found)
}

/// All apps that have a log here.
pub(crate) fn apps_in(log_dir: &Path) -> io::Result<BTreeSet<String>> {
    let mut apps = BTreeSet::new();
    for entry in fs::read_dir(log_dir)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let app = backup_of(name).or_else(|| name.strip_suffix(".log"));
        if let Some(app) = app.filter(|app| app.is_empty() || app_key(app) == *app) {
            apps.insert(app.to_owned());
        }
    }
    Ok(apps)
}

/// The file, its inode and its length.
pub(super) fn open_log(path: &Path) -> io::Result<(File, u64, u64)> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata.ino(), metadata.len()))
}

/// Number of messages in whole frames, and the length of these.
pub(super) fn count_messages(file: &File, len: u64) -> io::Result<(u64, u64)> {
    let (mut count, mut at) = (0, 0);
    let mut buffer = vec![0; 256 * 1024];
    while at < len {
        let most = usize::try_from(len - at).unwrap_or(usize::MAX).min(buffer.len());
        let n = file.read_at(&mut buffer[..most], at)?;
        let used = frames(&buffer[..n], |_| count += 1);
        if used == 0 {
            break;
        }
        at += used as u64;
    }
    Ok((count, at))
}

/// Time of the first message in unix microseconds.
pub(super) fn first_time(file: &File) -> io::Result<Option<i64>> {
    let mut buffer = vec![0; crate::message::FRAME_LEN];
    let n = file.read_at(&mut buffer, 0)?;
    Ok(match first_frame(&buffer[..n]) {
        Frame::Whole(range, _) => Message::parse(&buffer[range]).map(|message| message.micros),
        Frame::Cut | Frame::Broken => None,
    })
}
