//! Volumes as ZFS datasets, by way of the `zfs` and `zpool` commands (spec flynn-host 11.1 to 11.3).
//!
//! `<pool>/data/<id>` are the volumes, mounted at `zfs/mnt/data/<id>`. Layers and scratch space are files, so `<pool>`
//! also has `layers` and `scratch`, mounted over the manager's folders of these names: everything large lies in the pool.
//! Each dataset and snapshot carries its record in the user property `flynn:record`.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use flynn_types::host::VolumeInfo;
use rustix::mount::MountFlags;
use tracing::{info, warn};

use super::{Presence, Provider, ProviderError, ProviderKind, Received};
use crate::config::VolumeConfig;
use crate::error::VolumeError;
use crate::mount;
use crate::record::{SnapshotOf, VolumeRecord};

/// User property that holds a record as JSON.
const RECORD_PROPERTY: &str = "flynn:record";
/// Longest time for one command; transfers have none.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// A dataset that is busy is tried again (spec 11.2).
const BUSY_ATTEMPTS: u32 = 5;
const BUSY_WAIT: Duration = Duration::from_secs(1);
/// Size of a new pool's file when that of the file system is not known (spec 11.1).
const FALLBACK_POOL_BYTES: u64 = 100_000_000_000;
const COPY_BUFFER_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct ZfsProvider {
    pool: String,
    root: PathBuf,
}

/// What a message of `zfs` means. There is nothing else to tell errors apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Missing,
    Exists,
    Busy,
    Other,
}

fn classify(stderr: &str) -> Class {
    if stderr.contains("does not exist")
        || stderr.contains("no such pool")
        || stderr.contains("could not find any snapshots")
    {
        Class::Missing
    } else if stderr.contains("already exists") {
        Class::Exists
    } else if stderr.contains("is busy") || stderr.contains("pool or dataset is busy") {
        Class::Busy
    } else {
        Class::Other
    }
}

fn class_of(err: &VolumeError) -> Class {
    match err {
        VolumeError::Provider(ProviderError::Command { stderr, .. }) => classify(stderr),
        _ => Class::Other,
    }
}

impl ZfsProvider {
    /// Whether kernel and commands are there.
    pub(crate) fn is_possible() -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Path::new("/dev/zfs").exists() && std::env::split_paths(&path).any(|dir| dir.join("zfs").is_file())
    }

    pub(crate) fn open(root: &Path, config: &VolumeConfig) -> Result<Self, VolumeError> {
        let this = Self { pool: config.zfs_pool.clone(), root: root.join("zfs") };
        for sub in ["mnt/data", "vdev"] {
            let path = this.root.join(sub);
            fs::create_dir_all(&path).map_err(ProviderError::path("make folder", &path))?;
        }
        this.open_pool(config)?;
        this.dataset("data", &["-o", "mountpoint=none"])?;
        for (name, options) in
            [("layers", &["-o", "atime=off"][..]), ("scratch", &["-o", "sync=disabled", "-o", "atime=off"])]
        {
            let mountpoint = format!("mountpoint={}", root.join(name).display());
            this.dataset(name, &[&["-o", &mountpoint], options].concat())?;
            this.mount(&format!("{}/{name}", this.pool))?;
        }
        Ok(this)
    }

    /// A pool that exists is used as it is. Else its file is imported, or made.
    fn open_pool(&self, config: &VolumeConfig) -> Result<(), VolumeError> {
        match run("zfs", ["list", "-H", "-o", "name", &self.pool]) {
            Ok(_) => return Ok(()),
            Err(err) if class_of(&err) == Class::Missing => {}
            Err(err) => return Err(err),
        }
        let dir = self.root.join("vdev");
        let file = dir.join(format!("{}-zpool.vdev", self.pool));
        if file.exists() {
            info!(pool = %self.pool, file = %file.display(), "importing the pool from its file");
            let imported = run(
                "zpool",
                [OsStr::new("import"), "-f".as_ref(), "-N".as_ref(), "-d".as_ref(), file.as_ref(), self.pool.as_ref()],
            );
            // Never made anew: whatever is in there may be somebody's data.
            return imported
                .map(|_| ())
                .map_err(|err| ProviderError::Pool { path: file, reason: err.to_string() }.into());
        }
        let default = mount::space(&dir).map_or(FALLBACK_POOL_BYTES, |(_, total)| total / 10 * 7);
        let size = config.max_zpool_bytes.map_or(default, |max| default.min(max));
        info!(pool = %self.pool, file = %file.display(), size_bytes = size, "making a pool on a file");
        let make = || fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?.set_len(size);
        make().map_err(ProviderError::path("make", &file))?;
        let created =
            run("zpool", [OsStr::new("create"), "-m".as_ref(), "none".as_ref(), self.pool.as_ref(), file.as_ref()]);
        created.map(|_| ()).inspect_err(|_| {
            let _ = fs::remove_file(&file); // made by us a moment ago, nothing is in it
        })
    }

    fn dataset(&self, name: &str, options: &[&str]) -> Result<(), VolumeError> {
        let name = format!("{}/{name}", self.pool);
        match run("zfs", [&["create"][..], options, &[&name]].concat()) {
            Err(err) if class_of(&err) != Class::Exists => Err(err),
            // A mount point of another installation's folder is corrected. What is right is left alone: setting a mount
            // point unmounts, also when it is the same one, and running jobs have their layers in there.
            Err(_) => {
                for (option, (property, wanted)) in options.iter().filter_map(|it| Some((it, it.split_once('=')?))) {
                    let is = run("zfs", ["get", "-H", "-p", "-o", "value", property, &name])?;
                    if is.trim_end() != wanted {
                        run("zfs", ["set", option, &name])?;
                    }
                }
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    fn mount(&self, dataset: &str) -> Result<(), VolumeError> {
        let mounted = run("zfs", ["get", "-H", "-p", "-o", "value", "mounted", dataset])?;
        if mounted.trim() == "yes" {
            return Ok(());
        }
        run("zfs", ["mount", dataset]).map(|_| ())
    }

    fn volume(&self, id: &str) -> String {
        format!("{}/data/{id}", self.pool)
    }

    fn name(&self, record: &VolumeRecord) -> String {
        match &record.snapshot {
            Some(of) => format!("{}@{}", self.volume(&of.volume), of.name),
            None => self.volume(&record.info.id),
        }
    }

    fn mount_path(&self, id: &str) -> PathBuf {
        self.root.join("mnt/data").join(id)
    }

    fn mount_snapshot(&self, record: &VolumeRecord) -> Result<(), VolumeError> {
        let path = self.path(record);
        fs::create_dir_all(&path).map_err(ProviderError::path("make folder", &path))?;
        let mounts = mount::below(&path).map_err(ProviderError::path("look for mounts of", &path))?;
        if mounts.contains_key(&path) {
            return Ok(());
        }
        rustix::mount::mount(self.name(record), &path, "zfs", MountFlags::RDONLY, None)
            .map_err(|err| ProviderError::path("mount snapshot at", &path)(err.into()))
    }

    fn set_record(&self, record: &VolumeRecord) -> Result<(), VolumeError> {
        let property = record_property(record)?;
        run("zfs", ["set", &property, &self.name(record)]).map(|_| ())
    }
}

/// Feeds a stream to `zfs recv`.
fn take_in(name: &str, input: &mut dyn Read) -> Result<(), VolumeError> {
    let mut transfer = Transfer::start("zfs", &["recv", "-F", name], Stdio::piped(), Stdio::null())?;
    let mut stdin = transfer.child.stdin.take();
    let copied = stdin.as_mut().map_or(Ok(0), |stdin| copy(input, stdin));
    if copied.as_ref().is_err_and(|err| err.kind() != io::ErrorKind::BrokenPipe) {
        // The stream broke: zfs must not take its end for a whole one.
        let _ = transfer.child.kill();
    }
    drop(stdin);
    let ended = transfer.end();
    match (copied, ended) {
        (Err(err), _) if err.kind() != io::ErrorKind::BrokenPipe => Err(VolumeError::io("receive", name)(err)),
        (_, ended) => ended,
    }
}

fn record_property(record: &VolumeRecord) -> Result<String, VolumeError> {
    let json =
        serde_json::to_string(record).map_err(|err| VolumeError::io("describe volume", &record.info.id)(err.into()))?;
    Ok(format!("{RECORD_PROPERTY}={json}"))
}

impl Provider for ZfsProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Zfs { pool: self.pool.clone() }
    }

    fn create(&self, info: &VolumeInfo) -> Result<(), VolumeError> {
        let record = VolumeRecord::new(info.clone(), "", None);
        let mountpoint = format!("mountpoint={}", self.mount_path(&info.id).display());
        let property = record_property(&record)?;
        let name = self.volume(&info.id);
        match run("zfs", ["create", "-o", &mountpoint, "-o", &property, &name]) {
            Ok(_) => Ok(()),
            Err(err) if class_of(&err) == Class::Exists => Err(VolumeError::Exists { id: info.id.clone() }),
            Err(err) => {
                // It may exist, but not mounted.
                if let Err(err) = run("zfs", ["destroy", &name]) {
                    warn!(dataset = %name, error = %err, "a half-made dataset could not be removed");
                }
                Err(err)
            }
        }
    }

    fn destroy(&self, record: &VolumeRecord) -> Result<(), VolumeError> {
        let path = self.path(record);
        if record.snapshot.is_some() {
            mount::release(&path).map_err(ProviderError::path("unmount", &path))?;
        }
        let name = self.name(record);
        let mut attempt = 1;
        loop {
            match run("zfs", ["destroy", "-f", &name]) {
                Ok(_) => break,
                Err(err) => match class_of(&err) {
                    Class::Missing => break,
                    Class::Busy if attempt < BUSY_ATTEMPTS => {
                        attempt += 1;
                        std::thread::sleep(BUSY_WAIT);
                    }
                    Class::Busy => {
                        let (id, operation) = (record.info.id.clone(), "somebody uses its files".to_owned());
                        return Err(VolumeError::Busy { id, operation });
                    }
                    _ => return Err(err),
                },
            }
        }
        let _ = fs::remove_dir(&path); // an empty mount point does no harm
        Ok(())
    }

    fn snapshot(&self, info: &VolumeInfo, of: &SnapshotOf) -> Result<(), VolumeError> {
        let record = VolumeRecord::new(info.clone(), "", Some(of.clone()));
        let property = record_property(&record)?;
        run("zfs", ["snapshot", "-o", &property, &self.name(&record)])?;
        self.mount_snapshot(&record)
    }

    fn send(
        &self,
        snapshot: &VolumeRecord,
        base: Option<&VolumeRecord>,
        out: &mut dyn Write,
    ) -> Result<(), VolumeError> {
        let name = self.name(snapshot);
        let base = base.map(|base| self.name(base));
        let mut args = vec!["send"];
        if let Some(base) = &base {
            args.extend(["-i", base.as_str()]);
        }
        args.push(&name);
        let mut transfer = Transfer::start("zfs", &args, Stdio::null(), Stdio::piped())?;
        let mut stdout = transfer.child.stdout.take();
        let copied = stdout.as_mut().map_or(Ok(0), |stdout| copy(stdout, out));
        drop(stdout); // a receiver that went away ends zfs by a broken pipe
        let ended = transfer.end();
        copied.map_err(VolumeError::io("send", name))?;
        ended
    }

    fn receive(
        &self,
        volume: &VolumeRecord,
        info: &VolumeInfo,
        snapshots: &[VolumeRecord],
        input: &mut dyn Read,
    ) -> Result<Received, VolumeError> {
        let name = self.volume(&volume.info.id);
        // Received into while it is mounted, a file system may answer EIO for files whose inodes it knew before. One that
        // is in use stays mounted.
        let _ = run("zfs", ["unmount", &name]);
        let taken = take_in(&name, input);
        let mounted = self.mount(&name);
        taken?;
        mounted?;
        // The stream does not say its name beforehand: it is the snapshot that was not there.
        let listing =
            run("zfs", ["list", "-H", "-p", "-t", "snapshot", "-d", "1", "-o", "name", "-s", "createtxg", &name])?;
        let known = |name: &str| snapshots.iter().any(|r| r.snapshot.as_ref().is_some_and(|s| s.name == name));
        let new =
            listing.lines().filter_map(|line| line.split_once('@')).map(|(_, snap)| snap).rfind(|snap| !known(snap));
        let Some(new) = new else {
            let reason = "the stream brought no new snapshot".to_owned();
            return Err(VolumeError::Failed { id: volume.info.id.clone(), reason });
        };
        let of = SnapshotOf { volume: volume.info.id.clone(), name: new.to_owned() };
        let record = VolumeRecord::new(info.clone(), "", Some(of));
        self.set_record(&record)?;
        self.mount_snapshot(&record)?;
        Ok(Received { name: new.to_owned() })
    }

    fn path(&self, record: &VolumeRecord) -> PathBuf {
        self.mount_path(&record.info.id)
    }

    fn restore(&self, record: &VolumeRecord) -> Presence {
        let name = self.name(record);
        let restored = run("zfs", ["list", "-H", "-o", "name", &name]).and_then(|_| match record.snapshot {
            Some(_) => self.mount_snapshot(record),
            None => self.mount(&name),
        });
        match restored {
            Ok(()) => Presence::Ready,
            Err(err) if class_of(&err) == Class::Missing => Presence::Gone,
            Err(err) => Presence::Failed(err.to_string()),
        }
    }

    fn found(&self) -> Result<Vec<VolumeRecord>, VolumeError> {
        let data = format!("{}/data", self.pool);
        let columns = format!("name,{RECORD_PROPERTY}");
        let listing = run("zfs", ["list", "-H", "-p", "-r", "-t", "filesystem,snapshot", "-o", &columns, &data])?;
        Ok(records(&listing, &data))
    }

    fn space(&self) -> Result<(u64, u64), VolumeError> {
        let listing = run("zfs", ["list", "-H", "-p", "-o", "available,used", &self.pool])?;
        let mut numbers = listing.split_whitespace().map(|n| n.parse::<u64>().unwrap_or(0));
        let (free, used) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        Ok((free, free + used))
    }

    fn unmount(&self, record: &VolumeRecord) -> Result<(), VolumeError> {
        let path = self.path(record);
        mount::release_if_idle(&path).or_else(|err| match err.kind() {
            io::ErrorKind::ResourceBusy => Ok(()),
            _ => Err(ProviderError::path("unmount", &path)(err)),
        })
    }
}

/// Records in a listing of names and properties. A property that does not fit its dataset was inherited or copied.
fn records(listing: &str, data: &str) -> Vec<VolumeRecord> {
    let parse = |line: &str| {
        let (name, property) = line.split_once('\t')?;
        let name = name.strip_prefix(data)?.strip_prefix('/')?;
        let record: VolumeRecord = serde_json::from_str(property).ok()?;
        let fits = match (name.split_once('@'), &record.snapshot) {
            (Some((volume, snap)), Some(of)) => of.volume == volume && of.name == snap,
            (None, None) => record.info.id == name,
            _ => false,
        };
        fits.then_some(record)
    };
    listing.lines().filter_map(parse).collect()
}

fn copy(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<u64> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    let mut copied = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return to.flush().map(|()| copied),
            Ok(read) => {
                to.write_all(&buffer[..read])?;
                copied += read as u64;
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

/// Runs a command to its end and gives its output.
fn run<A: AsRef<OsStr>>(program: &'static str, args: impl IntoIterator<Item = A>) -> Result<String, VolumeError> {
    let args: Vec<_> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
    let mut transfer = Transfer::start(program, &args, Stdio::null(), Stdio::piped())?;
    let stdout = transfer.child.stdout.take().map(reader);
    let ended = transfer.end_within(COMMAND_LIMIT);
    let output = stdout.and_then(|thread| thread.join().ok()).unwrap_or_default();
    ended.map(|()| output)
}

fn reader(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A running command whose messages are collected. Killed when dropped.
struct Transfer {
    child: Child,
    command: String,
    stderr: Option<std::thread::JoinHandle<String>>,
}

impl Transfer {
    fn start<A: AsRef<OsStr>>(
        program: &'static str,
        args: &[A],
        stdin: Stdio,
        stdout: Stdio,
    ) -> Result<Self, VolumeError> {
        let words = args.iter().map(|a| a.as_ref().to_string_lossy().into_owned());
        let command = std::iter::once(program.to_owned()).chain(words).collect::<Vec<_>>().join(" ");
        let spawned = Command::new(program)
            .args(args)
            .env("LC_ALL", "C")
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.map_err(|err| match err.kind() {
            io::ErrorKind::NotFound => ProviderError::Missing { program },
            _ => ProviderError::Command { command: command.clone(), stderr: err.to_string() },
        })?;
        let stderr = child.stderr.take().map(reader);
        Ok(Self { child, command, stderr })
    }

    fn end(mut self) -> Result<(), VolumeError> {
        let status = self.child.wait().map_err(VolumeError::io("wait for", &self.command))?;
        self.result(status)
    }

    fn end_within(mut self, limit: Duration) -> Result<(), VolumeError> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.child.try_wait().map_err(VolumeError::io("wait for", &self.command))? {
                return self.result(status);
            }
            if start.elapsed() > limit {
                let command = self.command.clone();
                return Err(ProviderError::Timeout { command, seconds: limit.as_secs() }.into());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn result(&mut self, status: ExitStatus) -> Result<(), VolumeError> {
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        if status.success() {
            return Ok(());
        }
        let stderr = if stderr.trim().is_empty() { status.to_string() } else { stderr.trim().to_owned() };
        Err(ProviderError::Command { command: self.command.clone(), stderr }.into())
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_zfs_are_told_apart() {
        for (text, class) in [
            ("cannot open 'p/data/x': dataset does not exist", Class::Missing),
            ("cannot import 'p': no such pool available", Class::Missing),
            ("could not find any snapshots to destroy; check snapshot names.", Class::Missing),
            ("cannot create 'p/data/x': dataset already exists", Class::Exists),
            ("cannot destroy 'p/data/x': dataset is busy", Class::Busy),
            ("cannot destroy 'p/data/x': filesystem has children", Class::Other),
        ] {
            assert_eq!(classify(text), class, "{text}");
        }
    }

    #[test]
    fn only_properties_of_the_dataset_itself_are_records() {
        let record = |id: &str, snapshot: Option<SnapshotOf>| {
            VolumeRecord::new(VolumeInfo { id: id.into(), ..VolumeInfo::default() }, "", snapshot)
        };
        let json = |r: &VolumeRecord| serde_json::to_string(r).unwrap();
        let volume = record("v", None);
        let snap = record("s", Some(SnapshotOf { volume: "v".into(), name: "n".into() }));
        let listing = format!(
            "p/data\t-\np/data/v\t{v}\np/data/v@n\t{s}\np/data/v@other\t{v}\np/data/w\t{v}\np/data/x\t-\n",
            v = json(&volume),
            s = json(&snap)
        );
        assert_eq!(records(&listing, "p/data"), [volume, snap]);
    }

    #[test]
    fn a_missing_program_and_a_failing_one_say_so() {
        let err = run("no-such-zfs-program", ["x"]).unwrap_err().to_string();
        assert!(err.starts_with("no-such-zfs-program command is not available"), "{err}");
        let err = run("ls", ["/no/such/path"]).unwrap_err().to_string();
        assert!(err.starts_with("`ls /no/such/path` failed: ls: cannot access"), "{err}");
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let transfer = Transfer::start("sleep", &["100"], Stdio::null(), Stdio::null()).unwrap();
        let pid = transfer.child.id();
        let err = transfer.end_within(Duration::from_millis(20)).unwrap_err();
        assert!(err.to_string().starts_with("`sleep 100` did not end within"), "{err}");
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
