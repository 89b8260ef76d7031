use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flynn_types::host::{SnapshotHave, VolumeInfo};
use flynn_volume::{VolumeError, VolumeManager};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};

use crate::support::{Dir, MIB, MemoryStore};

/// Everything that a file system keeps of a tree, by path.
fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut described = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        if kind.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let content = if kind.is_file() {
            use sha2::{Digest, Sha256};
            hex::encode(Sha256::digest(fs::read(&path).unwrap()))
        } else if kind.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else {
            format!("dir {} fifo {} socket {} device {}", kind.is_dir(), kind.is_fifo(), kind.is_socket(), meta.rdev())
        };
        let mut xattrs = vec![0; 4096];
        let len = rustix::fs::llistxattr(&path, &mut xattrs[..]).unwrap();
        let mut keys: Vec<_> = xattrs[..len].split(|b| *b == 0).filter(|k| !k.is_empty()).collect();
        keys.sort();
        let values: Vec<_> = keys
            .iter()
            .map(|key| {
                let mut value = vec![0; 4096];
                let len = rustix::fs::lgetxattr(&path, std::ffi::OsStr::from_bytes(key), &mut value[..]).unwrap();
                format!("{}={}", String::from_utf8_lossy(key), hex::encode(&value[..len]))
            })
            .collect();
        let relative = path.strip_prefix(root).unwrap().to_owned();
        if !kind.is_dir() && meta.nlink() > 1 {
            inodes.entry(meta.ino()).or_insert_with(Vec::new).push(relative.clone());
        }
        let time = (meta.mtime(), meta.mtime_nsec());
        let text =
            format!("{:o} {}:{} {time:?} {} {content} {values:?}", meta.mode(), meta.uid(), meta.gid(), meta.len());
        described.insert(relative, text);
    }
    for mut group in inodes.into_values() {
        group.sort();
        for path in &group {
            described.get_mut(path).unwrap().push_str(&format!(" same as {group:?}"));
        }
    }
    described
}

fn age(path: &Path, secs: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000 + secs, 123_456_789);
    File::open(path).unwrap().set_modified(time).unwrap();
}

/// One of everything.
fn populate(root: &Path) {
    fs::create_dir_all(root.join("dir/sub")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o2750)).unwrap();
    fs::write(root.join("dir/file"), "content").unwrap();
    std::os::unix::fs::chown(root.join("dir/file"), Some(1000), Some(2000)).unwrap();
    fs::set_permissions(root.join("dir/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::write(root.join("dir/sub/one"), "linked").unwrap();
    fs::hard_link(root.join("dir/sub/one"), root.join("another-name")).unwrap();
    fs::hard_link(root.join("dir/sub/one"), root.join("zz")).unwrap();
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    symlink("dir/file", root.join("relative")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    let mode = Mode::from_raw_mode(0o640);
    mknodat(CWD, root.join("fifo"), FileType::Fifo, mode, 0).unwrap();
    mknodat(CWD, root.join("null"), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(64 * MIB).unwrap();
    sparse.write_all_at(b"middle", 10 * MIB + 5).unwrap();
    sparse.write_all_at(b"end", 64 * MIB - 3).unwrap();
    fs::write(root.join("large"), (0..3 * MIB).map(|i| (i / 1000) as u8).collect::<Vec<_>>()).unwrap();
    File::create(root.join("nothing")).unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"no\xfftext \n")), "odd name").unwrap();
    let set = |path: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(path), key, value, XattrFlags::empty()).unwrap();
    };
    set("dir/file", "user.note", b"a value");
    set("dir", "user.empty", b"");
    set("dir/sub", "trusted.overlay.opaque", b"y");
    set("relative", "trusted.of-link", b"x");
    set(
        "large",
        "security.capability",
        b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    );
    age(&root.join("dir/file"), 1);
    age(&root.join("large"), 2);
    age(&root.join("dir/sub"), 3);
    age(&root.join("empty"), 4);
    age(root, 5);
}

struct Pair {
    dirs: [Dir; 2],
    a: VolumeManager,
    b: VolumeManager,
}

impl Pair {
    /// Two hosts, with a volume `v` each.
    async fn new() -> Self {
        let dirs = [Dir::new(), Dir::new()];
        let (a, b) = (dirs[0].manager(&MemoryStore::new()).await, dirs[1].manager(&MemoryStore::new()).await);
        for manager in [&a, &b] {
            manager.create(VolumeInfo { id: "v".into(), ..VolumeInfo::default() }, "default").await.unwrap();
        }
        Self { dirs, a, b }
    }

    fn live(&self) -> (PathBuf, PathBuf) {
        (self.a.mount_path("v").unwrap(), self.b.mount_path("v").unwrap())
    }

    /// Sends a new snapshot of `a` to `b`; gives the stream's length.
    async fn sync(&self) -> usize {
        let snapshot = self.a.snapshot("v").await.unwrap();
        let stream = stream(&self.a, &snapshot.id, &self.b.haves("v").unwrap()).await.unwrap();
        let len = stream.len();
        let received = self.b.receive("v", Cursor::new(stream)).await.unwrap();
        let original = describe(&self.a.mount_path(&snapshot.id).unwrap());
        assert_eq!(describe(&self.b.mount_path(&received.id).unwrap()), original);
        assert_eq!(describe(&self.live().1), original);
        len
    }
}

async fn stream(from: &VolumeManager, id: &str, haves: &[SnapshotHave]) -> Result<Vec<u8>, VolumeError> {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let mut bytes = Vec::new();
    let (sent, read) =
        tokio::join!(from.send(id, haves, far), tokio::io::AsyncReadExt::read_to_end(&mut near, &mut bytes));
    read.unwrap();
    sent.map(|()| bytes)
}

#[tokio::test]
async fn a_snapshot_is_a_faithful_copy_with_its_holes() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    manager.create(VolumeInfo { id: "v".into(), ..VolumeInfo::default() }, "default").await.unwrap();
    let live = manager.mount_path("v").unwrap();
    populate(&live);
    let snapshot = manager.snapshot("v").await.unwrap();
    let copy = manager.mount_path(&snapshot.id).unwrap();
    assert_eq!(describe(&copy), describe(&live));
    let sparse = fs::metadata(copy.join("sparse")).unwrap();
    assert!(sparse.blocks() * 512 < MIB, "{} blocks", sparse.blocks());
}

#[tokio::test]
async fn a_volume_comes_over_whole_then_by_its_changes() {
    let pair = Pair::new().await;
    let (a, b) = pair.live();
    populate(&a);
    let whole = pair.sync().await;
    assert!(whole as u64 > 3 * MIB && (whole as u64) < 5 * MIB, "holes are not sent: {whole}");
    assert!(fs::metadata(b.join("sparse")).unwrap().blocks() * 512 < MIB);

    fs::write(b.join("local"), "discarded by the next").unwrap();
    let nothing = pair.sync().await;
    assert!(nothing < 3000, "only folders are told again: {nothing}");

    // A page in the middle, with the time set back.
    let large = File::options().write(true).open(a.join("large")).unwrap();
    let time = large.metadata().unwrap().modified().unwrap();
    large.write_all_at(&[9; 4096], 1_000_000).unwrap();
    large.set_modified(time).unwrap();
    fs::remove_dir_all(a.join("dir/sub")).unwrap(); // with one name of three
    fs::remove_file(a.join("fifo")).unwrap();
    fs::create_dir(a.join("fifo")).unwrap();
    fs::write(a.join("fifo/in"), "a folder now").unwrap();
    fs::remove_dir(a.join("empty")).unwrap();
    fs::write(a.join("empty"), "a file now").unwrap();
    fs::remove_file(a.join("relative")).unwrap();
    symlink("dir", a.join("relative")).unwrap();
    rustix::fs::removexattr(a.join("dir/file"), "user.note").unwrap();
    rustix::fs::setxattr(a.join("dir/file"), "user.other", b"2", XattrFlags::empty()).unwrap();
    // Data where a hole was, a hole where data was, shorter.
    let sparse = File::options().write(true).open(a.join("sparse")).unwrap();
    sparse.write_all_at(b"new", 20 * MIB).unwrap();
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&sparse, punch, 10 * MIB, MIB).unwrap();
    sparse.set_len(30 * MIB + 1).unwrap();
    let changes = pair.sync().await;
    assert!(changes < 300_000, "{changes}");
    assert!(fs::metadata(b.join("sparse")).unwrap().blocks() * 512 < MIB);

    let grown = File::options().append(true).open(a.join("large")).unwrap();
    (&grown).write_all(b"more").unwrap();
    fs::remove_file(a.join("zz")).unwrap();
    fs::hard_link(a.join("large"), a.join("zz")).unwrap();
    pair.sync().await;
    File::options().write(true).open(a.join("zz")).unwrap().write_all_at(b"through the other name", 5).unwrap();
    let changes = pair.sync().await;
    assert!(changes < 300_000, "the names are the same: {changes}");
    assert_eq!(pair.b.haves("v").unwrap().len(), 5);
}

#[tokio::test]
async fn a_stream_that_is_broken_or_does_not_fit_changes_nothing() {
    let pair = Pair::new().await;
    let (a, b) = pair.live();
    populate(&a);
    fs::write(b.join("local"), "stays").unwrap();
    let before = describe(&b);
    let first = pair.a.snapshot("v").await.unwrap();
    let whole = stream(&pair.a, &first.id, &[]).await.unwrap();
    fs::write(a.join("new"), "x").unwrap();
    let second = pair.a.snapshot("v").await.unwrap();
    let have = SnapshotHave { snap_id: first.id.clone() };
    let difference = stream(&pair.a, &second.id, &[have]).await.unwrap();

    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (name, bytes, expected) in [
        ("cut", whole[..whole.len() - 1].to_vec(), "it ended early"),
        ("flipped", flipped, "its checksum is wrong"),
        ("of something else", b"PK\x03\x04 no stream at all, but long enough".to_vec(), "this is no snapshot stream"),
        ("empty", Vec::new(), "this is no snapshot stream"),
        ("difference to what is not here", difference.clone(), "which is not here"),
    ] {
        let err = pair.b.receive("v", Cursor::new(bytes)).await.unwrap_err();
        assert!(err.to_string().contains(expected), "{name}: {err}");
        assert_eq!(err.code().status(), 400, "{name}");
        assert_eq!(describe(&b), before, "{name}");
        assert_eq!(pair.b.list().len(), 1, "{name}");
        assert_eq!(fs::read_dir(pair.dirs[1].join("volumes/dir/tmp")).unwrap().count(), 0, "{name}");
    }
    pair.b.receive("v", Cursor::new(whole.clone())).await.unwrap();
    let err = pair.b.receive("v", Cursor::new(whole)).await.unwrap_err();
    assert_eq!(err.to_string(), format!("snapshot {} is here already", first.id));
    let other = stream(&pair.a, &second.id, &[]).await.unwrap();
    let err = pair.b.receive("v", Cursor::new(other)).await.unwrap_err();
    assert_eq!(err.to_string(), "the stream is a whole one, but the volume has snapshots already");
    pair.b.receive("v", Cursor::new(difference)).await.unwrap();
    assert_eq!(describe(&b), describe(&a));
}

#[tokio::test]
async fn a_receiver_without_space_keeps_what_it_had() {
    let source = Dir::new();
    let a = source.manager(&MemoryStore::new()).await;
    a.create(VolumeInfo { id: "v".into(), ..VolumeInfo::default() }, "default").await.unwrap();
    fs::write(a.mount_path("v").unwrap().join("big"), vec![1; 6 * MIB as usize]).unwrap();
    let snapshot = a.snapshot("v").await.unwrap();
    let bytes = stream(&a, &snapshot.id, &[]).await.unwrap();
    let target = Dir::on_tmpfs(8 * MIB);
    let b = target.manager(&MemoryStore::new()).await;
    b.create(VolumeInfo { id: "v".into(), ..VolumeInfo::default() }, "default").await.unwrap();
    fs::write(b.mount_path("v").unwrap().join("old"), "kept").unwrap();
    let err = b.receive("v", Cursor::new(bytes)).await.unwrap_err();
    assert_eq!(err.code().status(), 500);
    assert_eq!(fs::read_to_string(b.mount_path("v").unwrap().join("old")).unwrap(), "kept");
    assert_eq!(b.list().len(), 1);
    fs::write(target.join("fits"), vec![1; 7 * MIB as usize]).unwrap();
}

#[tokio::test]
async fn links_that_a_job_made_lead_nowhere_else() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    manager.create(VolumeInfo { id: "v".into(), ..VolumeInfo::default() }, "default").await.unwrap();
    let live = manager.mount_path("v").unwrap();
    fs::write(dir.join("secret"), "secret").unwrap();
    symlink(dir.join("secret"), live.join("file")).unwrap();
    symlink(dir.join(""), live.join("dir")).unwrap();
    let snapshot = manager.snapshot("v").await.unwrap();
    let copy = manager.mount_path(&snapshot.id).unwrap();
    assert_eq!(fs::read_link(copy.join("file")).unwrap(), dir.join("secret"));
    let bytes = stream(&manager, &snapshot.id, &[]).await.unwrap();
    assert!(!bytes.windows(7).any(|w| w == b"secret\0"));
    assert!(fs::symlink_metadata(copy.join("dir")).unwrap().is_symlink());
}

/// Random changes, each followed by a transfer: what arrives is always what was there.
#[tokio::test]
async fn any_sequence_of_changes_comes_over() {
    let pair = Pair::new().await;
    let (a, _) = pair.live();
    let mut state = 42_u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    let mut history = Vec::new();
    for _round in 0..25 {
        for _ in 0..6 {
            // Few names, so that one thing often takes another's place.
            let mut name = || match next(3) {
                0 => format!("n{}", next(5)),
                _ => format!("n{}/m{}", next(3), next(4)),
            };
            let (one, two) = (name(), name());
            let (path, other) = (a.join(&one), a.join(&two));
            let change = next(8);
            history.push(format!("{change} {one} {two}"));
            // Changes that are not possible are left out.
            let _ = match change {
                0 => fs::create_dir(&path),
                1 | 2 => fs::write(&path, vec![next(256) as u8; next(400_000) as usize]),
                3 => fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)),
                4 => symlink(&two, &path),
                5 => fs::hard_link(&path, &other),
                6 => fs::rename(&path, &other),
                _ => File::options().write(true).open(&path).and_then(|f| f.write_all_at(b"patch", next(500_000))),
            };
        }
        history.push("sync".into());
        pair.sync().await;
    }
    assert!(history.len() > 100, "{history:?}");
}
