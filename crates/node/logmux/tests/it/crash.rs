//! The daemon is killed at any moment: no line is lost, none is there twice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flynn_logmux::LogMux;
use flynn_types::init::SpoolProgress;
use rand::Rng as _;
use tokio::sync::watch;

use crate::support::{APP, Spool, config, in_time, job, read_log};

const DIR: &str = "LOGMUX_CRASH_DIR";
const FILE_BYTES: &str = "LOGMUX_CRASH_FILE_BYTES";
const JOBS: [&str; 3] = ["host1-a", "host1-b", "host1-c"];

/// The daemon that is killed: follows the jobs of the directory in the environment, whose progress it finds in files.
/// Without it, nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn daemon() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let dir = PathBuf::from(dir);
    let mut config = config(&dir);
    config.limits.file_bytes = std::env::var(FILE_BYTES).unwrap().parse().unwrap();
    let mux = LogMux::open(config).await.unwrap();
    let mut senders = Vec::new();
    let mut logs = Vec::new();
    for id in JOBS {
        let (sender, progress) = watch::channel(SpoolProgress::default());
        logs.push(mux.follow_job(job(&dir, id, APP), progress));
        senders.push((id, sender));
    }
    let mut ended = 0;
    while ended < JOBS.len() {
        ended = 0;
        for (id, sender) in &senders {
            if let Ok(bytes) = std::fs::read(dir.join("run").join(id).join("progress.json"))
                && let Ok(progress) = serde_json::from_slice::<SpoolProgress>(&bytes)
            {
                ended += usize::from(progress.closed);
                sender.send_replace(progress);
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for log in logs {
        log.finished().await;
    }
    mux.shutdown().await;
    std::fs::write(dir.join("finished"), b"").unwrap();
}

struct Daemon(Child);

impl Daemon {
    fn start(dir: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "crash::daemon", "--test-threads=1"]).env(DIR, dir).env(FILE_BYTES, "250000");
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_is_lost_or_doubled_when_the_daemon_is_killed() {
    let rounds: usize = std::env::var("FLYNN_TEST_REPEATS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let dir = tempfile::tempdir().unwrap();
    let mut spools: BTreeMap<&str, Spool> =
        JOBS.iter().map(|id| (*id, Spool::new(&dir.path().join("run").join(id)).segment_len(50_000))).collect();
    let mut expected: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut number = 0;
    let mut read_backups = std::collections::BTreeSet::new();
    for round in 0..=rounds {
        let daemon = Daemon::start(dir.path());
        let kill_at = Instant::now() + Duration::from_millis(rand::rng().random_range(20..250));
        while Instant::now() < kill_at {
            for (id, spool) in &mut spools {
                for _ in 0..5 {
                    // Lines over several records and several lines in one record.
                    let line = format!("{id} {number} {}", "x".repeat(rand::rng().random_range(0..300)));
                    let cut = rand::rng().random_range(0..line.len());
                    spool.write(1, &line.as_bytes()[..cut]);
                    spool.write(2, format!("{id} e{number}\n").as_bytes());
                    spool.write(1, format!("{}\n", &line[cut..]).as_bytes());
                    expected.entry(id).or_default().extend([line, format!("{id} e{number}")]);
                    number += 1;
                }
                tell(dir.path(), id, spool.progress());
            }
            // What is about to be rotated away for good is counted now.
            collect_backups(dir.path(), &mut read_backups, &mut found);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if round < rounds {
            drop(daemon); // kill -9
            continue;
        }
        for (id, spool) in &spools {
            spool.close();
            tell(dir.path(), id, spool.progress());
        }
        let finished = dir.path().join("finished");
        in_time("the last daemon's end", async {
            while !finished.exists() {
                collect_backups(dir.path(), &mut read_backups, &mut found);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    collect_backups(dir.path(), &mut read_backups, &mut found);
    collect(&dir.path().join("log").join(format!("{APP}.log")), &mut found);
    for (id, mut lines) in expected {
        let mut logged = found.remove(&format!("web.{id}")).unwrap_or_default();
        // Both streams by themselves are in order.
        for marker in [" e", " "] {
            let of_stream = |lines: &[String]| -> Vec<String> {
                lines.iter().filter(|line| line.contains(" e") == (marker == " e")).cloned().collect()
            };
            let (wanted, got) = (of_stream(&lines), of_stream(&logged));
            let first = wanted.iter().zip(&got).position(|(wanted, got)| wanted != got);
            assert!(
                wanted == got,
                "{id}{marker}: {} wanted, {} found, first difference at {first:?}",
                wanted.len(),
                got.len()
            );
        }
        lines.sort();
        logged.sort();
        assert!(lines == logged);
    }
    assert!(read_backups.len() > 1, "the log was rotated meanwhile: {read_backups:?}");
}

/// Like the test above, but with the kill inside of every system call that changes a file, one after the other. Needs
/// `strace`, which delivers the signal.
#[tokio::test(flavor = "multi_thread")]
async fn no_line_is_lost_or_doubled_wherever_the_writer_is_killed() {
    let mut kills = 0;
    for call in ["pwrite64", "ftruncate", "rename"] {
        // Counted per thread; a thread that makes no more of these calls is not killed any more.
        for count in 1..=20 {
            let dir = tempfile::tempdir().unwrap();
            let mut expected = BTreeMap::new();
            for id in JOBS {
                let mut spool = Spool::new(&dir.path().join("run").join(id)).segment_len(100_000);
                let lines: Vec<String> = (0..1500).map(|i| format!("{id} {i} {}", "x".repeat(700))).collect();
                for line in &lines {
                    spool.write(1, line.as_bytes());
                    spool.write(1, b"\n");
                }
                spool.close();
                tell(dir.path(), id, spool.progress());
                expected.insert(format!("web.{id}"), lines);
            }
            // Two files hold it all.
            let run = |command: &mut Command| {
                let command = command.args(["--exact", "crash::daemon", "--test-threads=1"]);
                let command = command.env(DIR, dir.path()).env(FILE_BYTES, "3000000");
                command.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap().success()
            };
            let exe = std::env::current_exe().unwrap();
            let inject = format!("inject={call}:signal=SIGKILL:when={count}");
            let traced = run(Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "-e", &inject]).arg(&exe));
            if traced {
                break;
            }
            kills += 1;
            assert!(run(&mut Command::new(&exe)), "the next daemon ends well ({call} {count})");
            let mut found = BTreeMap::new();
            collect_backups(dir.path(), &mut std::collections::BTreeSet::new(), &mut found);
            collect(&dir.path().join("log").join(format!("{APP}.log")), &mut found);
            for (process, lines) in &expected {
                let got = found.get(process).map(Vec::as_slice).unwrap_or_default();
                let first = lines.iter().zip(got).position(|(wanted, got)| wanted != got);
                assert!(lines == got, "{call} {count} {process}: {} found, first difference at {first:?}", got.len());
            }
        }
    }
    assert!(kills > 5, "{kills} kills");
}

fn tell(dir: &Path, id: &str, progress: watch::Receiver<SpoolProgress>) {
    let path = dir.join("run").join(id).join("progress.json");
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, serde_json::to_vec(&*progress.borrow()).unwrap()).unwrap();
    std::fs::rename(&temporary, &path).unwrap();
}

/// Reads older files once, when they are complete: a backup never changes.
fn collect_backups(
    dir: &Path,
    read: &mut std::collections::BTreeSet<PathBuf>,
    found: &mut BTreeMap<String, Vec<String>>,
) {
    let Ok(entries) = std::fs::read_dir(dir.join("log")) else { return };
    let mut names: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names {
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with(&format!("{APP}-")) && name.ends_with(".log") && !read.contains(&path) {
            collect(&path, found);
            read.insert(path);
        }
    }
}

fn collect(path: &Path, found: &mut BTreeMap<String, Vec<String>>) {
    for (_, process, text) in read_log(path) {
        found.entry(process).or_default().push(text);
    }
}
