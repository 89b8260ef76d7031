//! Changes to a job's root file system before its container is built.
//!
//! The tree comes from an image and is not trusted: every path is resolved inside it, so that a symbolic link to
//! `/etc` in an image means the image's `/etc`.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};

fn open_root(root: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a directory of the tree, made when it is missing.
fn open_dir(root: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let open =
        || rustix::fs::openat2(root, name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT);
    match open() {
        Err(rustix::io::Errno::NOENT) => {
            match rustix::fs::mkdirat(root, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(err) => return Err(err.into()),
            }
            Ok(open()?)
        }
        other => Ok(other?),
    }
}

/// Images often ship `/etc/resolv.conf` as a symbolic link; mounting over it would resolve elsewhere. Makes it a plain
/// file.
pub(crate) fn make_resolv_conf_mountable(root: &Path) -> io::Result<()> {
    let etc = open_dir(&open_root(root)?, "etc")?;
    match rustix::fs::statat(&etc, "resolv.conf", AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => return Ok(()),
        Ok(_) => rustix::fs::unlinkat(&etc, "resolv.conf", AtFlags::empty())?,
        Err(rustix::io::Errno::NOENT) => {}
        Err(err) => return Err(err.into()),
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(&etc, "resolv.conf", flags, Mode::from_raw_mode(0o644))?;
    Ok(())
}

/// Copies every regular file in `overrides` over the one of the same name in the tree's `/bin`, with its mode.
pub(crate) fn override_binaries(root: &Path, overrides: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(overrides) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut bin = None;
    for entry in entries {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if !metadata.is_file() {
            continue;
        }
        let bin = match &bin {
            Some(bin) => bin,
            None => bin.insert(open_dir(&open_root(root)?, "bin")?),
        };
        let name = entry.file_name();
        match rustix::fs::unlinkat(bin, &name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(err) => return Err(err.into()),
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(metadata.permissions().mode() & 0o7777);
        let mut target = std::fs::File::from(rustix::fs::openat(bin, &name, flags, mode)?);
        io::copy(&mut std::fs::File::open(entry.path())?, &mut target)?;
        target.set_permissions(metadata.permissions())?; // whatever the umask took away
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_in_an_image_never_leads_out_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let (root, outside) = (directory.path().join("root"), directory.path().join("outside"));
        std::fs::create_dir_all(root.join("usr/bin")).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        symlink("/usr/bin", root.join("bin")).unwrap();
        symlink(outside.join("etc"), root.join("etc")).unwrap();
        assert!(make_resolv_conf_mountable(&root).is_err());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);

        let overrides = directory.path().join("overrides");
        std::fs::create_dir(&overrides).unwrap();
        std::fs::write(overrides.join("tool"), "new").unwrap();
        std::fs::set_permissions(overrides.join("tool"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(root.join("usr/bin/tool"), "old").unwrap();
        override_binaries(&root, &overrides).unwrap();
        assert_eq!(std::fs::read_to_string(root.join("usr/bin/tool")).unwrap(), "new");
        assert_eq!(std::fs::metadata(root.join("usr/bin/tool")).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn a_dangling_resolv_conf_becomes_a_plain_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        symlink("../run/systemd/resolve/stub-resolv.conf", directory.path().join("etc/resolv.conf")).unwrap();
        make_resolv_conf_mountable(directory.path()).unwrap();
        assert!(std::fs::symlink_metadata(directory.path().join("etc/resolv.conf")).unwrap().is_file());
    }
}
