use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flynn_types::host::{Mountspec, VolumeEventKind, VolumeType};
use flynn_volume::{GcPolicy, LayerError, LayerSource};

use crate::support::{
    Behaviour, Dir, MIB, MemoryStore, TestSource, file_layer, names, no_source, spec, squashfs, wait_until,
};

const URL: &str = "http://blobstore.discoverd/layer";

/// Bytes that do not compress and differ everywhere.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[tokio::test]
async fn a_layer_is_stored_and_mounted_and_needs_no_source_again() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let mut events = manager.events();
    let mut layer = file_layer(&dir, &[("etc/motd", b"hello")]);
    layer.meta.insert("k".into(), "v".into());
    assert_ne!(layer.size % 512, 0, "the test is about a size that no block device has");
    let guard = manager.layer(&layer, no_source()).await.unwrap();
    assert_eq!(fs::read(guard.path().join("etc/motd")).unwrap(), b"hello");
    assert!(fs::write(guard.path().join("x"), "").is_err(), "layers are read-only");
    let event = events.recv().await.unwrap();
    assert_eq!((event.kind, event.volume.kind), (VolumeEventKind::Create, VolumeType::Squashfs));
    assert_eq!(manager.get(&layer.id).unwrap().meta["k"], "v");
    fs::remove_file(layer.url.strip_prefix("file://").unwrap()).unwrap();
    drop((guard, manager));

    let manager = dir.manager(&store).await;
    assert_eq!(dir.loops().len(), 1, "it is still mounted");
    layer.url.clear();
    let guard = manager.layer(&layer, no_source()).await.unwrap();
    assert_eq!(fs::read(guard.path().join("etc/motd")).unwrap(), b"hello");
    assert_eq!(dir.mounts().len(), 1);
    drop(guard);
    manager.unmount_idle().await.unwrap();
    dir.expect_nothing_mounted();
    manager.layer(&layer, no_source()).await.unwrap();
    assert_eq!(dir.mounts().len(), 1, "it is mounted again when wanted");
}

#[tokio::test]
async fn wrong_content_is_refused_in_known_words_and_leaves_nothing() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let bytes = squashfs(&dir, &[("a", &noise(10_000))]);
    let right = spec(&bytes, URL);
    let got = &right.hashes["sha256"];
    let text = b"<html>404</html>".to_vec();
    let with = |change: &dyn Fn(&mut Mountspec)| {
        let mut spec = right.clone();
        change(&mut spec);
        spec
    };
    let from = format!("error getting squashfs layer from {URL}: ");
    for (name, served, spec, expected) in [
        (
            "hash",
            &bytes,
            with(&|s| s.hashes = [("sha256".into(), "00".into())].into()),
            format!("{from}verify: expected sha256 hash \"00\" but got \"{got}\""),
        ),
        ("short", &bytes[..5000].to_vec(), right.clone(), format!("{from}verify: data too short")),
        ("size", &bytes, with(&|s| s.size = 0), format!("{from}verify: invalid data size: 0")),
        (
            "unknown hash",
            &bytes,
            with(&|s| s.hashes = [("md5".into(), "00".into())].into()),
            format!("{from}verify: no hashes provided"),
        ),
        ("no squashfs", &text, spec(&text, URL), format!("{from}verify: the data is no squashfs file system")),
        ("type", &bytes, with(&|s| s.kind = "ext2".into()), "unknown mountspec type: \"ext2\"".into()),
        (
            "no address",
            &bytes,
            with(&|s| s.url.clear()),
            format!("error getting squashfs layer {}: missing URL", right.id),
        ),
        ("scheme", &bytes, with(&|s| s.url = "ftp://x/y".into()), "unknown layer URI scheme: ftp".into()),
        (
            "id",
            &bytes,
            with(&|s| s.id = "../../etc/x".into()),
            "error getting squashfs layer: invalid layer id \"../../etc/x\"".into(),
        ),
        (
            "no file",
            &bytes,
            with(&|s| s.url = "file:///no/such".into()),
            "error getting squashfs layer from file:///no/such: No such file or directory (os error 2)".into(),
        ),
    ] {
        for no_len in [false, true] {
            let behaviour = Behaviour { no_len, ..Behaviour::default() };
            let source = Arc::new(TestSource { bytes: served.clone(), behaviour, ..TestSource::default() });
            let err = manager.layer(&spec, source).await.unwrap_err();
            assert_eq!(err.to_string(), expected, "{name}");
        }
    }
    let layers = dir.join("volumes/layers");
    assert_eq!(names(&layers), ["mnt", "partial"]);
    fs::read_dir(layers.join("partial")).unwrap().for_each(|e| {
        assert_eq!(fs::metadata(e.unwrap().path()).unwrap().len(), 0, "only what a break left may stay");
    });
    assert!(manager.list().is_empty());
    // A block of zeros where the tables should be: right hash, right beginning, and yet nothing to mount.
    let fake = [&b"hsqs"[..], &[0; 8188]].concat();
    let err = manager.layer(&spec(&fake, URL), Arc::new(TestSource::new(fake.clone()))).await.unwrap_err();
    assert!(matches!(err, LayerError::Mount { .. }), "{err}");
    dir.expect_nothing_mounted();
}

#[tokio::test]
async fn a_layer_wanted_by_many_at_once_comes_once() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let bytes = squashfs(&dir, &[("a", b"1")]);
    let layer = spec(&bytes, URL);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let source = Arc::new(TestSource { bytes, gate: Some(gate.clone()), ..TestSource::default() });
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let (manager, layer, source) = (manager.clone(), layer.clone(), source.clone());
            tokio::spawn(async move { manager.layer(&layer, source).await.map(|g| g.path().to_owned()) })
        })
        .collect();
    while source.opened.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // The one who began it goes away: it goes on.
    waiting[0].abort();
    gate.add_permits(20);
    for waiting in waiting.into_iter().skip(1) {
        waiting.await.unwrap().unwrap();
    }
    assert_eq!(source.opened.load(Ordering::SeqCst), 1);
    assert_eq!(dir.mounts().len(), 1);
}

#[tokio::test]
async fn a_transfer_that_breaks_is_resumed() {
    let bytes_of = |dir: &Dir| squashfs(dir, &[("a", &noise(100_000))]);
    for (name, behaviour, opened) in [
        ("resuming", Behaviour { break_after: Some(30_000), ..Behaviour::default() }, 4),
        ("breaking just at the end", Behaviour { break_after: Some(51_000), ..Behaviour::default() }, 2),
    ] {
        let (dir, store) = (Dir::new(), MemoryStore::new());
        let manager = dir.manager(&store).await;
        let bytes = bytes_of(&dir);
        let source = Arc::new(TestSource { bytes: bytes.clone(), behaviour, ..TestSource::default() });
        let guard = manager.layer(&spec(&bytes, URL), source.clone()).await.unwrap();
        assert_eq!(fs::read(guard.path().join("a")).unwrap(), noise(100_000), "{name}");
        assert_eq!(source.opened.load(Ordering::SeqCst), opened, "{name}");
        let offsets = source.offsets.lock().unwrap().clone();
        assert!(offsets.windows(2).all(|w| w[0] < w[1]), "{name}: {offsets:?}");
    }
}

#[tokio::test]
async fn what_a_broken_transfer_left_is_used_by_the_next_and_checked() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let bytes = squashfs(&dir, &[("a", &noise(100_000))]);
    let layer = spec(&bytes, URL);
    let manager = dir.manager(&store).await;
    // Never comes beyond its first bytes, as it does not resume.
    let behaviour = Behaviour { break_after: Some(30_000), no_resume: true, ..Behaviour::default() };
    let stuck = Arc::new(TestSource { bytes: bytes.clone(), behaviour, ..TestSource::default() });
    let err = manager.layer(&layer, stuck.clone()).await.unwrap_err();
    assert!(matches!(err, LayerError::Source { .. }), "{err}");
    assert_eq!(stuck.opened.load(Ordering::SeqCst), 6, "one with progress, then five without");
    drop(manager);

    let manager = dir.manager(&store).await;
    let good = Arc::new(TestSource::new(bytes.clone()));
    drop(manager.layer(&layer, good.clone()).await.unwrap());
    assert_eq!(*good.offsets.lock().unwrap(), [30_000]);
    manager.destroy(&layer.id).await.unwrap();

    // The same, but the disk changed a byte meanwhile: all is fetched anew.
    let again = Arc::new(TestSource { bytes: bytes.clone(), behaviour, ..TestSource::default() });
    manager.layer(&layer, again).await.unwrap_err();
    let partial = dir.join("volumes/layers/partial");
    let file = partial.join(&names(&partial)[0]);
    let mut content = fs::read(&file).unwrap();
    content[20_000] ^= 1;
    fs::write(&file, content).unwrap();
    let good = Arc::new(TestSource::new(bytes.clone()));
    let guard = manager.layer(&layer, good.clone()).await.unwrap();
    assert_eq!(*good.offsets.lock().unwrap(), [30_000, 0]);
    assert_eq!(fs::read(guard.path().join("a")).unwrap(), noise(100_000));
    assert!(names(&partial).is_empty());
}

#[tokio::test]
async fn a_full_disk_is_said_and_overcome_when_there_is_space_again() {
    let source_dir = Dir::new();
    let bytes = squashfs(&source_dir, &[("a", &noise(6 * MIB as usize))]);
    let layer = spec(&bytes, URL);
    let (dir, store) = (Dir::on_tmpfs(8 * MIB), MemoryStore::new());
    let manager = dir.manager(&store).await;
    fs::write(dir.join("filler"), vec![1; 4 * MIB as usize]).unwrap();
    let source = Arc::new(TestSource::new(bytes.clone()));
    let err = manager.layer(&layer, source.clone()).await.unwrap_err();
    assert!(matches!(err, LayerError::NoSpace { .. }), "{err}");
    assert_eq!(source.opened.load(Ordering::SeqCst), 0, "it is known before anything is fetched");
    assert!(err.to_string().contains("not enough space in "), "{err}");

    // Space vanishes while the layer comes.
    fs::remove_file(dir.join("filler")).unwrap();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let slow = Arc::new(TestSource { bytes: bytes.clone(), gate: Some(gate.clone()), ..TestSource::default() });
    let pull = tokio::spawn({
        let (manager, layer, slow) = (manager.clone(), layer.clone(), slow.clone());
        async move { manager.layer(&layer, slow).await.map(drop) }
    });
    while slow.opened.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    fs::write(dir.join("filler"), vec![1; 4 * MIB as usize]).unwrap();
    gate.add_permits(1);
    let err = pull.await.unwrap().unwrap_err();
    assert!(matches!(err, LayerError::NoSpace { .. }), "{err}");
    assert!(names(&dir.join("volumes/layers/partial")).is_empty(), "what did not fit takes no space");

    fs::remove_file(dir.join("filler")).unwrap();
    let guard = manager.layer(&layer, source).await.unwrap();
    assert_eq!(fs::read(guard.path().join("a")).unwrap().len(), 6 * MIB as usize);
}

#[tokio::test]
async fn a_stored_layer_that_the_disk_has_lost_is_fetched_again() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let bytes = squashfs(&dir, &[("a", b"1")]);
    let layer = spec(&bytes, URL);
    let manager = dir.manager(&store).await;
    let source: Arc<dyn LayerSource> = Arc::new(TestSource::new(bytes));
    drop(manager.layer(&layer, source.clone()).await.unwrap());
    manager.unmount_idle().await.unwrap();
    dir.expect_nothing_mounted();
    let file = dir.join(&format!("volumes/layers/{}.squashfs", layer.id));
    fs::write(&file, vec![0; fs::metadata(&file).unwrap().len() as usize]).unwrap();
    let guard = manager.layer(&layer, source).await.unwrap();
    assert_eq!(fs::read(guard.path().join("a")).unwrap(), b"1");
}

#[tokio::test]
async fn an_id_with_other_content_is_an_error() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let layer = file_layer(&dir, &[("a", b"1")]);
    drop(manager.layer(&layer, no_source()).await.unwrap());
    let mut other = file_layer(&dir, &[("a", b"2")]);
    other.id.clone_from(&layer.id);
    let err = manager.layer(&other, no_source()).await.unwrap_err();
    assert!(matches!(err, LayerError::Different { .. }), "{err}");
}

#[tokio::test]
async fn files_that_were_never_finished_are_removed_at_the_start() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let layer = file_layer(&dir, &[("a", b"1")]);
    drop(manager.layer(&layer, no_source()).await.unwrap());
    manager.unmount_idle().await.unwrap();
    drop(manager);
    let layers = dir.join("volumes/layers");
    fs::write(layers.join("nojson.squashfs"), "x").unwrap();
    fs::write(layers.join(".x.json.123"), "x").unwrap();
    fs::write(layers.join("short.squashfs"), "x").unwrap();
    fs::copy(layers.join(format!("{}.json", layer.id)), layers.join("short.json")).unwrap();
    let manager = dir.manager(&store).await;
    assert!(manager.list().iter().map(|info| &info.id).eq([&layer.id]));
    assert!(!layers.join("nojson.squashfs").exists() && !layers.join("short.squashfs").exists());
    assert!(!layers.join(".x.json.123").exists());
}

#[tokio::test]
async fn only_layers_that_nobody_needs_are_collected() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let used = file_layer(&dir, &[("a", b"used")]);
    let unused = file_layer(&dir, &[("a", b"unused")]);
    let mut system = file_layer(&dir, &[("a", b"system")]);
    system.meta.insert("flynn.system-image".into(), "true".into());
    let guard = manager.layer(&used, no_source()).await.unwrap();
    for layer in [&unused, &system] {
        drop(manager.layer(layer, no_source()).await.unwrap());
    }
    let volume = manager.create(Default::default(), "default").await.unwrap();

    let everything = GcPolicy::everything_unused();
    let dry = manager.collect_garbage(&GcPolicy { dry_run: true, ..everything.clone() }).await;
    assert_eq!(dry.removed.iter().map(|i| &i.id).collect::<Vec<_>>(), [&unused.id]);
    assert!(manager.has_layer(&unused.id));
    assert!(manager.collect_garbage(&GcPolicy::default()).await.removed.is_empty(), "nothing is a week old");

    let report = manager.collect_garbage(&everything).await;
    assert_eq!(report.removed.iter().map(|i| &i.id).collect::<Vec<_>>(), [&unused.id]);
    assert!(report.freed_bytes > 0 && report.failed.is_empty());
    assert!(!manager.has_layer(&unused.id) && manager.has_layer(&used.id) && manager.has_layer(&system.id));
    assert!(manager.get(&volume.id).is_some(), "data is never collected");
    wait_until(|| if dir.loops().len() == 2 { Ok(()) } else { Err(format!("{:?}", dir.loops())) });

    drop(guard);
    let age = Duration::from_secs(8 * 86400);
    let file = fs::File::open(dir.join(&format!("volumes/layers/{}.squashfs", used.id))).unwrap();
    file.set_modified(std::time::SystemTime::now() - age).unwrap();
    let report = manager.collect_garbage(&GcPolicy::default()).await;
    assert_eq!(report.removed.iter().map(|i| &i.id).collect::<Vec<_>>(), [&used.id]);
}
