//! The disk of the logs is full: jobs go on, and the log goes on when there is room (RELIABILITY G17).

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::support::{APP, Host, in_time, until};

/// A small file system, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path, options: &str) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        mount("tmpfs", path, "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn the_log_goes_on_when_there_is_room_again() {
    for full in ["log", "state"] {
        let host = Host::new();
        let disk = SmallDisk::mount(&host.dir.path().join(full), "size=256k");
        let mux = host.mux().await;
        let mut spool = host.spool("host1-a");
        let log = mux.follow_job(host.job("host1-a", APP), spool.progress());
        spool.write(1, b"before\n");
        until("the first line", || (host.logged(APP).len() == 1).then_some(())).await;
        let ballast = disk.0.join("ballast");
        let _ = std::fs::write(&ballast, vec![0; 1 << 20]); // as much as fits
        let mut expected = vec!["before".to_owned()];
        for i in 0..500 {
            let line = format!("{i} {}", "x".repeat(200));
            spool.write(1, format!("{line}\n").as_bytes());
            expected.push(line);
            // One batch after the other, so that the journal grows, too.
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        spool.close();
        // It is tried, and what is in the log stays whole.
        assert!(tokio::time::timeout(std::time::Duration::from_millis(700), log.finished()).await.is_err(), "{full}");
        assert!(host.logged(APP).len() < 501, "{full}");
        std::fs::remove_file(&ballast).unwrap();
        in_time("all output", log.finished()).await;
        let texts: Vec<String> = host.logged(APP).into_iter().map(|(_, _, text)| text).collect();
        assert!(texts == expected, "{full}: {} lines", texts.len());
        mux.shutdown().await;
    }
}
