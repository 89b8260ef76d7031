use std::fs;
use std::sync::atomic::Ordering;

use flynn_types::host::{VolumeEventKind, VolumeInfo};
use flynn_volume::{ProviderKind, VolumeError, VolumeManager};

use crate::support::{Dir, MemoryStore};

fn named(id: &str) -> VolumeInfo {
    VolumeInfo { id: id.into(), ..VolumeInfo::default() }
}

#[tokio::test]
async fn a_volume_is_made_kept_and_destroyed() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let mut events = manager.events();
    let meta = [("k".to_owned(), "v".to_owned())].into();
    let info = manager.create(VolumeInfo { meta, ..VolumeInfo::default() }, "default").await.unwrap();
    assert!(uuid::Uuid::parse_str(&info.id).is_ok() && info.created_at.is_set());
    assert_eq!((manager.get(&info.id), manager.list()), (Some(info.clone()), vec![info.clone()]));
    let event = events.recv().await.unwrap();
    assert_eq!((event.kind, event.volume), (VolumeEventKind::Create, info.clone()));
    let path = manager.mount_path(&info.id).unwrap();
    fs::write(path.join("f"), "kept").unwrap();
    drop(manager);

    let manager = dir.manager(&store).await;
    assert_eq!(manager.list(), std::slice::from_ref(&info));
    assert_eq!(fs::read_to_string(manager.mount_path(&info.id).unwrap().join("f")).unwrap(), "kept");
    let mut events = manager.events();
    manager.destroy(&info.id).await.unwrap();
    assert_eq!(events.recv().await.unwrap().kind, VolumeEventKind::Destroy);
    assert!(!path.exists() && manager.list().is_empty() && store.ids().is_empty());
    let err = manager.destroy(&info.id).await.unwrap_err();
    assert_eq!(err.to_string(), format!("no volume with id {:?}", info.id));
    assert_eq!(err.code().status(), 404);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    manager.create(named("v"), "default").await.unwrap();
    for (id, provider, status, text) in [
        ("v", "default", 409, "volume exists: v"),
        ("w", "other", 404, "no volume provider with id \"other\""),
        ("../w", "default", 400, "invalid volume id \"../w\""),
    ] {
        let err = manager.create(named(id), provider).await.unwrap_err();
        assert!(err.to_string().starts_with(text), "{err}");
        assert_eq!(err.code().status(), status, "{err}");
    }
    for err in [
        manager.destroy("x").await.unwrap_err(),
        manager.snapshot("../v").await.unwrap_err(),
        manager.mount_path("x").unwrap_err(),
        manager.haves("x").unwrap_err(),
        manager.receive("x", tokio::io::empty()).await.unwrap_err(),
        manager.send("x", &[], tokio::io::sink()).await.unwrap_err(),
    ] {
        assert!(matches!(err, VolumeError::NotFound { .. }), "{err}");
    }
    let err = manager.send("v", &[], tokio::io::sink()).await.unwrap_err();
    assert_eq!((err.to_string().as_str(), err.code().status()), ("can only send a snapshot", 400));
}

#[tokio::test]
async fn a_snapshot_keeps_the_content_of_its_time_and_cannot_be_changed() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let meta = [("k".to_owned(), "v".to_owned())].into();
    manager.create(VolumeInfo { meta, ..named("v") }, "default").await.unwrap();
    let live = manager.mount_path("v").unwrap();
    fs::write(live.join("f"), "then").unwrap();
    let snapshot = manager.snapshot("v").await.unwrap();
    fs::write(live.join("f"), "now").unwrap();
    assert!(snapshot.created_at.is_set() && snapshot.meta["k"] == "v");
    let check = |manager: &VolumeManager| {
        let path = manager.mount_path(&snapshot.id).unwrap();
        assert_eq!(fs::read_to_string(path.join("f")).unwrap(), "then");
        let err = fs::write(path.join("f"), "x").unwrap_err();
        assert_eq!(err.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    };
    check(&manager);
    // As after a reboot.
    rustix::mount::unmount(manager.mount_path(&snapshot.id).unwrap(), rustix::mount::UnmountFlags::empty()).unwrap();
    drop(manager);
    let manager = dir.manager(&store).await;
    check(&manager);
    assert_eq!(dir.mounts().len(), 1, "mounted once");

    let err = manager.destroy("v").await.unwrap_err();
    assert_eq!(err.to_string(), "volume v has 1 snapshots: destroy them first");
    assert_eq!(err.code().status(), 409);
    assert_eq!(fs::read_to_string(live.join("f")).unwrap(), "now");
    assert_eq!(manager.haves("v").unwrap()[0].snap_id, snapshot.id);
    manager.destroy(&snapshot.id).await.unwrap();
    manager.destroy("v").await.unwrap();
    dir.expect_nothing_mounted();
}

#[tokio::test]
async fn a_volume_that_cannot_be_recorded_does_not_exist() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    manager.create(named("old"), "default").await.unwrap();
    store.broken.store(true, Ordering::SeqCst);
    let err = manager.create(named("new"), "default").await.unwrap_err();
    assert!(err.to_string().starts_with("volume store: "), "{err}");
    manager.snapshot("old").await.unwrap_err();
    manager.destroy("old").await.unwrap_err();
    assert_eq!(manager.list().len(), 1);
    assert!(manager.mount_path("old").unwrap().exists(), "nothing goes before that is recorded");
    store.broken.store(false, Ordering::SeqCst);
    manager.create(named("new"), "default").await.unwrap();
    manager.destroy("old").await.unwrap();
    assert_eq!(store.ids(), ["new"]);
}

#[tokio::test]
async fn a_destruction_is_finished_after_a_crash_at_any_step() {
    for gone in [false, true] {
        let (dir, store) = (Dir::new(), MemoryStore::new());
        let manager = dir.manager(&store).await;
        manager.create(named("v"), "default").await.unwrap();
        let path = manager.mount_path("v").unwrap();
        drop(manager);
        store.edit("v", |record| record.destroying = true);
        if gone {
            fs::remove_dir_all(path.parent().unwrap()).unwrap();
        }
        fs::create_dir(dir.join("volumes/dir/tmp/half-removed")).unwrap();
        let manager = dir.manager(&store).await;
        assert!(manager.list().is_empty() && store.ids().is_empty() && !path.exists());
        assert!(!dir.join("volumes/dir/tmp/half-removed").exists());
    }
}

#[tokio::test]
async fn a_volume_removed_behind_our_back_is_forgotten() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    manager.create(named("gone"), "default").await.unwrap();
    manager.create(named("here"), "default").await.unwrap();
    let path = manager.mount_path("gone").unwrap();
    drop(manager);
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    let manager = dir.manager(&store).await;
    assert_eq!(manager.list().iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["here"]);
    assert_eq!(store.ids(), ["here"]);
}

#[tokio::test]
async fn volumes_whose_disk_is_missing_are_failed_but_not_forgotten() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    manager.create(named("v"), "default").await.unwrap();
    fs::write(manager.mount_path("v").unwrap().join("f"), "data").unwrap();
    drop(manager);
    // The disk with the volumes is not mounted.
    fs::rename(dir.join("volumes/dir"), dir.join("disk")).unwrap();
    let manager = dir.manager(&store).await;
    assert_eq!(store.ids(), ["v"]);
    assert!(manager.get("v").is_some());
    let err = manager.mount_path("v").unwrap_err();
    assert!(err.to_string().contains("is the right disk mounted?"), "{err}");
    assert_eq!(manager.status().failed.len(), 1);
    let err = manager.create(named("w"), "default").await.unwrap_err();
    assert!(err.to_string().contains("is the right disk mounted?"), "{err}");
    drop(manager);

    fs::remove_dir_all(dir.join("volumes/dir")).unwrap();
    fs::rename(dir.join("disk"), dir.join("volumes/dir")).unwrap();
    let manager = dir.manager(&store).await;
    assert_eq!(fs::read_to_string(manager.mount_path("v").unwrap().join("f")).unwrap(), "data");
}

#[tokio::test]
async fn volumes_come_back_when_all_records_are_lost() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let meta = [("k".to_owned(), "v".to_owned())].into();
    manager.create(VolumeInfo { meta, ..named("v") }, "default").await.unwrap();
    manager.snapshot("v").await.unwrap();
    let before = manager.list();
    drop(manager);
    store.forget_all();
    fs::create_dir(dir.join("volumes/dir/data/stranger")).unwrap();
    let manager = dir.manager(&store).await;
    assert_eq!(manager.list(), before);
    assert_eq!(store.ids().len(), 2);
    assert_eq!(manager.haves("v").unwrap().len(), 1);
    assert!(dir.join("volumes/dir/data/stranger").exists(), "what we do not know is not ours to remove");
}

#[tokio::test]
async fn fields_of_a_newer_version_survive() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    manager.create(named("v"), "default").await.unwrap();
    drop(manager);
    store.edit("v", |record| {
        record.extra.insert("quota".into(), 5.into());
    });
    let manager = dir.manager(&store).await;
    assert_eq!(manager.record("v").unwrap().extra["quota"], 5);
}

#[tokio::test]
async fn one_folder_has_one_manager() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let err = VolumeManager::open(dir.config(), store.clone()).await.unwrap_err();
    assert!(matches!(err, VolumeError::Locked { .. }), "{err}");
    assert!(matches!(&manager.providers()[..], [(id, ProviderKind::Dir { .. })] if id == "default"));
    // One that is about to end is waited for.
    let waiting = tokio::spawn(VolumeManager::open(dir.config(), store));
    tokio::task::yield_now().await;
    drop(manager);
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_on_one_volume_exclude_each_other() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    manager.create(named("v"), "default").await.unwrap();
    fs::write(manager.mount_path("v").unwrap().join("f"), vec![1; 1 << 20]).unwrap();
    let snapshot = manager.snapshot("v").await.unwrap();
    // A receiver that takes nothing keeps the snapshot busy.
    let (mut near, far) = tokio::io::duplex(64);
    let sending = tokio::spawn({
        let (manager, id) = (manager.clone(), snapshot.id.clone());
        async move { manager.send(&id, &[], far).await }
    });
    tokio::io::AsyncReadExt::read_exact(&mut near, &mut [0; 8]).await.unwrap();
    let err = manager.destroy(&snapshot.id).await.unwrap_err();
    assert_eq!(err.to_string(), format!("volume {} is busy: it is being sent", snapshot.id));
    assert_eq!(err.code().status(), 409);
    // Two can be sent the same.
    manager.send(&snapshot.id, &[], tokio::io::sink()).await.unwrap();
    drop(near);
    sending.await.unwrap().unwrap_err();
    manager.destroy(&snapshot.id).await.unwrap();
}
