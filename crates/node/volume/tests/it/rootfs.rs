use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use flynn_types::host::VolumeType;
use flynn_volume::{LayerError, LayerGuard, RootfsError, VolumeManager};

use crate::support::{Dir, MIB, MemoryStore, file_layer, job, names, no_source, wait_until};

async fn layer(dir: &Dir, manager: &VolumeManager, files: &[(&str, &[u8])]) -> LayerGuard {
    manager.layer(&file_layer(dir, files), no_source()).await.unwrap()
}

#[tokio::test]
async fn later_layers_hide_earlier_ones_and_the_job_writes_on_top() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let layers = [
        layer(&dir, &manager, &[("etc/a", b"bottom"), ("etc/b", b"bottom")]).await,
        layer(&dir, &manager, &[("etc/b", b"top")]).await,
    ];
    let id = job("host1-1");
    let rootfs = manager.rootfs(&id, &layers, 16 * MIB, dir.join("root")).await.unwrap();
    let read = |name: &str| fs::read_to_string(rootfs.path.join(name)).unwrap();
    assert_eq!((read("etc/a"), read("etc/b")), ("bottom".into(), "top".into()));
    fs::write(rootfs.path.join("etc/c"), "job").unwrap();
    fs::remove_file(rootfs.path.join("etc/a")).unwrap();
    assert_eq!(names(&rootfs.upper), ["etc"]);
    assert_eq!(names(&rootfs.upper.join("etc")), ["a", "c"], "what was written, and what was removed");
    assert_eq!(fs::read(layers[0].path().join("etc/a")).unwrap(), b"bottom");
    let root = fs::metadata(&rootfs.path).unwrap();
    let top = fs::metadata(layers[1].path()).unwrap();
    assert_eq!((root.mode() & 0o7777, root.uid()), (top.mode() & 0o7777, 0));
    let info = manager.get(id.as_str()).unwrap();
    assert_eq!(info.kind, VolumeType::Ext2);
    assert!(info.created_at.is_set());

    assert_eq!(manager.rootfs(&id, &layers, 16 * MIB, dir.join("root")).await.unwrap(), rootfs, "asked again");
    assert_eq!(read("etc/c"), "job");

    manager.release_rootfs(&id).await.unwrap();
    manager.release_rootfs(&id).await.unwrap();
    assert!(manager.get(id.as_str()).is_none() && manager.existing_rootfs(&id).is_none());
    assert_eq!(names(&dir.join("volumes/scratch")), ["mnt"]);
    assert!(names(&dir.join("volumes/scratch/mnt")).is_empty());
    drop(layers);
    manager.unmount_idle().await.unwrap();
    dir.expect_nothing_mounted();
}

/// Writes until it cannot; gives how much went.
fn fill(path: &Path) -> (u64, std::io::ErrorKind) {
    let mut file = File::create(path).unwrap();
    let block = vec![7; 64 << 10];
    let mut written = 0;
    loop {
        match file.write(&block) {
            Ok(n) => written += n as u64,
            Err(err) => return (written, err.kind()),
        }
    }
}

#[tokio::test]
async fn a_job_gets_the_space_it_was_promised_and_no_more() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let layers = [layer(&dir, &manager, &[("a", b"1")]).await];
    let other = manager.rootfs(&job("other"), &layers, 16 * MIB, dir.join("other")).await.unwrap();
    for size in [2 * MIB, 16 * MIB, 100 * MIB] {
        let id = job(&format!("j{size}"));
        let rootfs = manager.rootfs(&id, &layers, size, dir.join("root")).await.unwrap();
        let (written, err) = fill(&rootfs.path.join("full"));
        assert_eq!(err, std::io::ErrorKind::StorageFull);
        assert!(written < size, "{written} of {size}");
        assert!(written > size / 100 * 80, "{written} of {size}");
        let image = fs::metadata(dir.join(&format!("volumes/scratch/{id}.img"))).unwrap();
        assert!(image.blocks() * 512 <= size, "{} of {size}", image.blocks() * 512);
        fs::write(other.path.join("small"), "fits").unwrap();
        fs::remove_file(rootfs.path.join("full")).unwrap();
        fs::write(rootfs.path.join("again"), "there is space again").unwrap();
        // Small files use up what describes them: an error of the same kind.
        manager.release_rootfs(&id).await.unwrap();
        assert!(!dir.join(&format!("volumes/scratch/{id}.img")).exists());
    }
}

#[tokio::test]
async fn root_file_systems_outlive_the_manager() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let layers = [layer(&dir, &manager, &[("a", b"1")]).await];
    let (live, dead) = (job("host1-live"), job("host1-dead"));
    let before = manager.rootfs(&live, &layers, 16 * MIB, dir.join("live")).await.unwrap();
    manager.rootfs(&dead, &layers, 16 * MIB, dir.join("dead")).await.unwrap();
    let open = File::create(before.path.join("open")).unwrap();
    drop((manager, layers));

    let manager = dir.manager(&store).await;
    assert_eq!(manager.existing_rootfs(&live), Some(before.clone()));
    (&open).write_all(b"written after the restart").unwrap();
    assert_eq!(fs::read(before.upper.join("open")).unwrap(), b"written after the restart");
    assert_eq!(manager.status().rootfs, 2);
    // Their layers are held, although nobody has asked for them since.
    assert!(manager.collect_garbage(&flynn_volume::GcPolicy::everything_unused()).await.removed.is_empty());

    manager.clean_leftovers(std::slice::from_ref(&live)).await.unwrap();
    assert!(manager.existing_rootfs(&dead).is_none() && !dir.join("dead").exists());
    assert_eq!(fs::read(before.path.join("a")).unwrap(), b"1");
    drop(open);
    manager.clean_leftovers(&[]).await.unwrap();
    manager.unmount_idle().await.unwrap();
    dir.expect_nothing_mounted();
}

#[tokio::test]
async fn whatever_step_a_crash_came_after_the_leftovers_go() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let scratch = dir.join("volumes/scratch");
    for step in ["plan", "torn plan", "image without plan", "scratch mounted", "no plan, scratch mounted", "template"] {
        let manager = dir.manager(&store).await;
        let layers = [layer(&dir, &manager, &[("a", b"1")]).await];
        let id = job("host1-1");
        let rootfs = manager.rootfs(&id, &layers, 16 * MIB, dir.join("root")).await.unwrap();
        let unmount = |path: &Path| rustix::mount::unmount(path, rustix::mount::UnmountFlags::empty()).unwrap();
        let plan = scratch.join("host1-1.json");
        let (image, mount) = (scratch.join("host1-1.img"), scratch.join("mnt/host1-1"));
        unmount(&rootfs.path);
        if !step.contains("mounted") {
            unmount(&mount);
        }
        match step {
            "plan" => fs::remove_file(image).unwrap(),
            "torn plan" => fs::write(&plan, "{\"form").unwrap(),
            "image without plan" | "no plan, scratch mounted" => fs::remove_file(plan).unwrap(),
            "template" => fs::write(scratch.join("template-x.new"), "x").unwrap(),
            _ => {}
        }
        drop((manager, layers));

        let manager = dir.manager(&store).await;
        assert!(manager.existing_rootfs(&id).is_none(), "{step}");
        manager.clean_leftovers(&[]).await.unwrap();
        // The new manager makes a template of its own meanwhile, and removes its file.
        wait_until(|| if names(&scratch) == ["mnt"] { Ok(()) } else { Err(format!("{step}: {:?}", names(&scratch))) });
        assert!(names(&scratch.join("mnt")).is_empty(), "{step}");
        // The same job can start after all.
        let layers = [layer(&dir, &manager, &[("a", b"1")]).await];
        manager.rootfs(&id, &layers, 16 * MIB, dir.join("root")).await.unwrap();
        manager.release_rootfs(&id).await.unwrap();
        drop(layers);
        manager.unmount_idle().await.unwrap();
        dir.expect_nothing_mounted();
    }
}

#[tokio::test]
async fn what_cannot_be_made_is_said_and_leaves_nothing() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let spec = file_layer(&dir, &[("a", b"1")]);
    let one = [manager.layer(&spec, no_source()).await.unwrap()];
    fs::write(dir.join("file"), "in the way").unwrap();
    let id = job("j");
    for (name, layers, size, target, expected) in [
        ("no layers", &[][..], MIB, "root", "a root file system needs at least one layer"),
        ("small", &one, 100, "root", "scratch space of 100 bytes is too small: it must be at least 1048576 bytes"),
        ("in the way", &one, 2 * MIB, "file", "make folder "),
        ("huge", &one, u64::MAX / 2, "root", "write "),
    ] {
        let err = manager.rootfs(&id, layers, size, dir.join(target)).await.unwrap_err().to_string();
        assert!(err.starts_with(expected), "{name}: {err}");
        assert_eq!(names(&dir.join("volumes/scratch")), ["mnt"], "{name}");
    }
    assert_eq!(dir.mounts().len(), 1, "only the layer is mounted");
    let many: Vec<_> = std::iter::repeat_n(&one[0], 501).cloned().collect();
    let err = manager.rootfs(&id, &many, MIB, dir.join("root")).await.unwrap_err();
    assert!(matches!(err, RootfsError::TooManyLayers { count: 501 }), "{err}");

    let mut config = dir.config();
    drop((manager, one, many));
    config.min_free_bytes = u64::MAX;
    let manager = VolumeManager::open(config, store).await.unwrap();
    let one = [manager.layer(&spec, no_source()).await.unwrap()];
    let err = manager.rootfs(&id, &one, MIB, dir.join("root")).await.unwrap_err();
    assert!(matches!(err, RootfsError::NoSpace { .. }), "{err}");
    let another = file_layer(&dir, &[("b", b"2")]);
    let err = manager.layer(&another, no_source()).await.unwrap_err();
    assert!(matches!(err, LayerError::NoSpace { .. }), "{err}");
}

#[tokio::test]
async fn more_layers_than_fit_in_a_page_of_options_work() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let mut layers = Vec::new();
    for number in 0..60_u8 {
        layers.push(layer(&dir, &manager, &[(&format!("f{number}"), &[number]), ("all", &[number])]).await);
    }
    let length: usize = layers.iter().map(|l| l.path().as_os_str().len() + 1).sum();
    assert!(length > 4096);
    let rootfs = manager.rootfs(&job("j"), &layers, 16 * MIB, dir.join("root")).await.unwrap();
    assert_eq!(names(&rootfs.path).len(), 61);
    assert_eq!(fs::read(rootfs.path.join("all")).unwrap(), [59]);
    assert_eq!(fs::read(rootfs.path.join("f0")).unwrap(), [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_jobs_of_one_layer_start_and_end_at_once() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let spec = Arc::new(file_layer(&dir, &[("bin/app", b"app")]));
    let root = dir.join("roots");
    let jobs: Vec<_> = (0..20)
        .map(|number| {
            let (manager, spec, target) = (manager.clone(), spec.clone(), root.join(number.to_string()));
            tokio::spawn(async move {
                let layers = [manager.layer(&spec, no_source()).await?];
                let rootfs = manager.rootfs(&job(&format!("j{number}")), &layers, 16 * MIB, target).await.unwrap();
                fs::write(rootfs.path.join("mine"), number.to_string()).unwrap();
                Ok::<_, LayerError>(rootfs)
            })
        })
        .collect();
    let mut made = Vec::new();
    for job in jobs {
        made.push(job.await.unwrap().unwrap());
    }
    for (number, rootfs) in made.iter().enumerate() {
        assert_eq!(fs::read_to_string(rootfs.path.join("mine")).unwrap(), number.to_string());
        assert_eq!(fs::read(rootfs.path.join("bin/app")).unwrap(), b"app");
    }
    assert_eq!(dir.loops().len(), 21, "one for the layer, one for each scratch space");
    let ends: Vec<_> = (0..20)
        .map(|number| {
            let manager = manager.clone();
            tokio::spawn(async move { manager.release_rootfs(&job(&format!("j{number}"))).await })
        })
        .collect();
    for end in ends {
        end.await.unwrap().unwrap();
    }
    manager.unmount_idle().await.unwrap();
    dir.expect_nothing_mounted();
}

#[tokio::test]
async fn a_root_file_system_that_is_still_busy_goes_with_its_last_user() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let layers = [layer(&dir, &manager, &[("a", b"1")]).await];
    let rootfs = manager.rootfs(&job("j"), &layers, 16 * MIB, dir.join("root")).await.unwrap();
    let open = File::open(rootfs.path.join("a")).unwrap();
    manager.release_rootfs(&job("j")).await.unwrap();
    assert!(!rootfs.path.exists() && names(&dir.join("volumes/scratch")) == ["mnt"]);
    // It can have a new one at once.
    manager.rootfs(&job("j"), &layers, 16 * MIB, dir.join("root")).await.unwrap();
    manager.release_rootfs(&job("j")).await.unwrap();
    drop((open, layers));
    manager.unmount_idle().await.unwrap();
    dir.expect_nothing_mounted();
}

#[tokio::test]
async fn special_bits_and_devices_are_no_way_out() {
    let (dir, store) = (Dir::new(), MemoryStore::new());
    let manager = dir.manager(&store).await;
    let layers = [layer(&dir, &manager, &[("a", b"1")]).await];
    let rootfs = manager.rootfs(&job("j"), &layers, 16 * MIB, dir.join("root")).await.unwrap();
    // A set-user-id program works inside, as in any system.
    fs::set_permissions(rootfs.path.join("a"), fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(fs::metadata(rootfs.path.join("a")).unwrap().mode() & 0o7777, 0o4755);
    assert_eq!(fs::metadata(dir.join("volumes/scratch")).unwrap().mode() & 0o777, 0o700, "nobody else comes by");
}
