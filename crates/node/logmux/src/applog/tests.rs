use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const LARGE: Rotation = Rotation { file_bytes: u64::MAX, max_age: HOUR };

struct Fixture {
    dir: tempfile::TempDir,
    stamp: Stamp,
    next: u64,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), stamp: Stamp::default(), next: 0 }
    }

    fn open(&self) -> AppLog {
        let place = Place { app: "app".into(), log_dir: self.dir.path().into(), state_dir: self.dir.path().into() };
        AppLog::open(place).unwrap()
    }

    fn job(&self) -> JobEntry {
        let cursor = JobCursor { next: self.next, ..Default::default() };
        JobEntry { id: "h-1".parse().unwrap(), cursor, run_dir: self.dir.path().into() }
    }

    fn log(&mut self, log: &mut AppLog, lines: &[&str], rotation: Rotation) -> io::Result<()> {
        let mut batch = Batch::default();
        for line in lines {
            batch.push(1, micros_now(), line.as_bytes());
        }
        self.next += 1;
        let job = self.job();
        let source = Source::new("h", "app", "", "h-1");
        log.commit(&batch, &source, &job, &mut self.stamp, rotation, &mut Writing::default())
    }

    fn texts(&self, name: &std::path::Path) -> Vec<String> {
        let mut texts = Vec::new();
        let bytes = fs::read(name).unwrap();
        let used = crate::message::frames(&bytes, |message| {
            texts.push(String::from_utf8(crate::message::Message::parse(message).unwrap().text.to_vec()).unwrap());
        });
        assert_eq!(used, bytes.len());
        texts
    }
}

#[test]
fn what_was_not_recorded_is_cut_off() {
    let mut fixture = Fixture::new();
    let mut log = fixture.open();
    fixture.log(&mut log, &["one", "two"], LARGE).unwrap();
    let (end, path) = (log.end(), log.place.log());
    log.file.write_all_at(&[b'1'; 1000], end.len).unwrap();
    drop(log);
    let journal = fixture.dir.path().join("app.journal");
    let mut bytes = fs::read(&journal).unwrap();
    bytes.extend_from_slice(br#"{"v":1,"log":{"generation""#);
    fs::write(&journal, bytes).unwrap();
    let mut log = fixture.open();
    assert_eq!(log.end(), end);
    assert_eq!(log.jobs[&"h-1".parse::<JobId>().unwrap()].cursor.next, 1);
    fixture.log(&mut log, &["three"], LARGE).unwrap();
    assert_eq!(fixture.texts(&path), ["one", "two", "three"]);
    assert_eq!(fixture.open().end().messages, 3);
}

#[test]
fn a_full_or_old_file_becomes_the_only_backup() {
    let mut fixture = Fixture::new();
    let mut log = fixture.open();
    let small = Rotation { file_bytes: 250, max_age: HOUR };
    for round in 0..5 {
        fixture.log(&mut log, &[&format!("a{round}"), &format!("b{round}")], small).unwrap();
    }
    let end = log.end();
    let backup = end.backup.clone().unwrap();
    assert_eq!((end.generation, end.messages, end.first, backup.first), (5, 10, 8, 6));
    assert_eq!(fixture.texts(&log.place.log()), ["a4", "b4"]);
    assert_eq!(fixture.texts(&backup.path), ["a3", "b3"]);
    assert_eq!(backups_of(fixture.dir.path(), "app").unwrap(), [backup.path]);
    drop(log);
    let mut log = fixture.open();
    assert_eq!(log.end(), end);
    log.started = Some(micros_now() - 7_200_000_000);
    fixture.log(&mut log, &["c"], LARGE).unwrap();
    assert_eq!((log.end().generation, fixture.texts(&log.place.log())), (6, vec!["c".to_owned()]));
}

#[test]
fn a_rotation_that_was_cut_short_is_taken_up() {
    for created in [false, true] {
        let mut fixture = Fixture::new();
        let mut log = fixture.open();
        fixture.log(&mut log, &["one", "two"], LARGE).unwrap();
        let path = log.place.log();
        fs::rename(&path, fixture.dir.path().join("app-2026-01-02T03-04-05.678.log")).unwrap();
        if created {
            fs::write(&path, b"").unwrap();
        }
        drop(log);
        let mut log = fixture.open();
        let end = log.end();
        assert_eq!((end.generation, end.len, end.messages, end.first), (2, 0, 2, 2));
        assert_eq!(end.backup.as_ref().unwrap().first, 0);
        fixture.log(&mut log, &["three"], LARGE).unwrap();
        drop(log);
        let log = fixture.open();
        assert_eq!((log.end().generation, log.end().messages), (2, 3));
        assert_eq!(log.jobs.len(), 1);
    }
}

#[test]
fn logs_without_a_journal_are_counted_and_kept() {
    let mut fixture = Fixture::new();
    let mut log = fixture.open();
    let small = Rotation { file_bytes: 250, max_age: HOUR };
    for round in ["a", "b", "c"] {
        fixture.log(&mut log, &[round, round], small).unwrap();
    }
    let path = log.place.log();
    fs::remove_file(log.place.journal()).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(b"77 <190>1 cut");
    fs::write(&path, bytes).unwrap();
    let end = fixture.open().end();
    assert_eq!((end.generation, end.messages, end.first), (1, 4, 2));
    assert_eq!(fixture.texts(&path), ["c", "c"]);
}

#[test]
fn journals_stay_short() {
    let mut fixture = Fixture::new();
    let mut log = fixture.open();
    for _ in 0..5000 {
        fixture.log(&mut log, &["x"], LARGE).unwrap();
        log.tidy(|_| false);
    }
    assert!(fs::metadata(log.place.journal()).unwrap().len() < 300 * 1024);
    drop(log);
    let log = fixture.open();
    assert_eq!((log.end().messages, log.jobs.values().next().unwrap().cursor.next), (5000, 5000));
}

#[test]
fn stamps_order_messages_and_follow_a_clock_that_was_set_back() {
    let now = 1_000_000_000_000;
    let mut stamp = Stamp::default();
    assert_eq!(stamp.next(now, now), (now, 1));
    assert_eq!(stamp.next(now - 5, now), (now, 2));
    assert_eq!(stamp.next(now - 100_000_000, now - 100_000_000), (now - 100_000_000, 3));
}

#[test]
fn only_usable_ids_name_files() {
    for (id, key) in [
        ("5f2c6f0e-8f2b-4a3e-9d0a-3f6f3c1f7b11", "5f2c6f0e-8f2b-4a3e-9d0a-3f6f3c1f7b11"),
        ("../etc", ""),
        ("flynn-host", ""),
        ("x-2026-01-02T03-04-05.678", ""),
        ("", ""),
    ] {
        assert_eq!(app_key(id), key, "{id}");
    }
}
