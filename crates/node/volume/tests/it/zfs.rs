//! The `zfs` provider, in the virtual machine tier: `FLYNN_TEST_ZFS=1`, with ZFS in the kernel.

use std::fs;
use std::time::Duration;

use flynn_types::host::VolumeInfo;
use flynn_volume::{ProviderChoice, ProviderKind, VolumeManager};

use crate::support::{Dir, MIB, MemoryStore, file_layer, job, no_source};

/// Whether these tests are to run; says why not.
fn wanted() -> bool {
    if std::env::var_os("FLYNN_TEST_ZFS").is_none() {
        #[expect(clippy::print_stderr, reason = "whoever runs the tests shall know")]
        {
            eprintln!("not run: FLYNN_TEST_ZFS is not set; the virtual machine tier sets it");
        }
        return false;
    }
    assert!(std::path::Path::new("/dev/zfs").exists(), "FLYNN_TEST_ZFS is set, but the kernel has no ZFS");
    true
}

/// Destroys a test's pool.
struct Pool(String);

impl Pool {
    fn new() -> Self {
        Self(format!("flynn-test-{}", uuid::Uuid::new_v4().simple()))
    }

    async fn manager(&self, dir: &Dir, store: &std::sync::Arc<MemoryStore>) -> VolumeManager {
        let mut config = dir.config();
        config.provider = ProviderChoice::Zfs;
        config.zfs_pool.clone_from(&self.0);
        config.max_zpool_bytes = Some(512 * MIB);
        VolumeManager::open(config, store.clone()).await.unwrap()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Busy for as long as the kernel takes to let go of what was mounted.
        let gone = || {
            let run = |args: &[&str]| std::process::Command::new("zpool").args(args).arg(&self.0).output();
            let _ = run(&["destroy", "-f"]);
            run(&["list", "-H"]).is_ok_and(|listed| !listed.status.success()).then_some(())
        };
        if !std::thread::panicking() {
            flynn_patience::until(
                "the pool is destroyed",
                flynn_patience::seconds(30),
                Duration::from_millis(100),
                gone,
            );
        }
    }
}

#[tokio::test]
async fn volumes_snapshots_and_streams_between_two_pools() {
    if !wanted() {
        return;
    }
    let (dirs, pools) = ([Dir::new(), Dir::new()], [Pool::new(), Pool::new()]);
    let stores = [MemoryStore::new(), MemoryStore::new()];
    let a = pools[0].manager(&dirs[0], &stores[0]).await;
    let b = pools[1].manager(&dirs[1], &stores[1]).await;
    assert!(matches!(a.providers()[0].1, ProviderKind::Zfs { .. }));
    for manager in [&a, &b] {
        manager.create(VolumeInfo { id: "v".into(), ..VolumeInfo::default() }, "default").await.unwrap();
    }
    let live = a.mount_path("v").unwrap();
    assert!(live.ends_with("zfs/mnt/data/v"));
    let mut sizes = Vec::new();
    for round in 0..2_u8 {
        fs::write(live.join(format!("f{round}")), vec![round; if round == 0 { 4 << 20 } else { 100 }]).unwrap();
        let snapshot = a.snapshot("v").await.unwrap();
        let frozen = a.mount_path(&snapshot.id).unwrap();
        assert!(fs::write(frozen.join("x"), "").is_err());
        let mut stream = Vec::new();
        let (near, far) = tokio::io::duplex(1 << 20);
        let haves = b.haves("v").unwrap();
        let (sent, read) = tokio::join!(a.send(&snapshot.id, &haves, far), async {
            let mut near = near;
            tokio::io::AsyncReadExt::read_to_end(&mut near, &mut stream).await
        });
        sent.unwrap();
        sizes.push(read.unwrap());
        fs::write(b.mount_path("v").unwrap().join("local"), "discarded").unwrap();
        b.receive("v", std::io::Cursor::new(stream)).await.unwrap();
        assert!(!b.mount_path("v").unwrap().join("local").exists());
        assert_eq!(fs::read(b.mount_path("v").unwrap().join(format!("f{round}"))).unwrap()[0], round);
    }
    assert!(sizes[1] < sizes[0] / 4, "{sizes:?}");
    let err = a.destroy("v").await.unwrap_err();
    assert_eq!(err.code().status(), 409, "{err}");
}

#[tokio::test]
async fn a_pool_is_found_again_also_in_use_and_a_lost_dataset_stops_nothing() {
    if !wanted() {
        return;
    }
    let (dir, pool, store) = (Dir::new(), Pool::new(), MemoryStore::new());
    let manager = pool.manager(&dir, &store).await;
    for id in ["kept", "lost"] {
        manager.create(VolumeInfo { id: id.into(), ..VolumeInfo::default() }, "default").await.unwrap();
    }
    fs::write(manager.mount_path("kept").unwrap().join("f"), "data").unwrap();
    drop(manager);
    let zfs = |program: &str, args: &[&str]| {
        assert!(std::process::Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
    };
    zfs("zfs", &["destroy", &format!("{}/data/lost", pool.0)]);
    zfs("zpool", &["export", &pool.0]);
    let manager = pool.manager(&dir, &store).await;
    assert_eq!(manager.list().iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["kept"]);
    assert_eq!(fs::read_to_string(manager.mount_path("kept").unwrap().join("f")).unwrap(), "data");

    let layers = [manager.layer(&file_layer(&dir, &[("a", b"1")]), no_source()).await.unwrap()];
    let rootfs = manager.rootfs(&job("j"), &layers, 16 * MIB, dir.join("root")).await.unwrap();
    assert_eq!(fs::read(rootfs.path.join("a")).unwrap(), b"1");
    // Another daemon takes over while the job runs: the pool's file systems are in use.
    drop(layers);
    manager.close().await;
    drop(manager);
    let manager = pool.manager(&dir, &store).await;
    assert_eq!(fs::read(rootfs.path.join("a")).unwrap(), b"1");
    manager.release_rootfs(&job("j")).await.unwrap();
    manager.unmount_idle().await.unwrap();
}

#[tokio::test]
async fn a_pool_file_without_a_pool_is_left_alone() {
    if !wanted() {
        return;
    }
    let (dir, pool) = (Dir::new(), Pool::new());
    let file = dir.join(&format!("volumes/zfs/vdev/{}-zpool.vdev", pool.0));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "somebody's data").unwrap();
    let mut config = dir.config();
    config.provider = ProviderChoice::Zfs;
    config.zfs_pool.clone_from(&pool.0);
    let err = VolumeManager::open(config, MemoryStore::new()).await.unwrap_err();
    assert!(err.to_string().contains("holds no pool that can be imported"), "{err}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "somebody's data");
}
