//! Network namespaces of containers: made on a thread that ends at once, kept alive by a bind mount.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tokio::sync::oneshot;

use crate::KernelError;
use crate::kernel::Netlink;
use crate::proc_sys;

/// The calling thread's network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace and a netlink socket in it.
pub(crate) struct Namespace {
    pub(crate) netlink: Netlink,
    pub(crate) file: File,
}

/// Makes a namespace and pins it at `path`. What was at `path` is replaced.
pub(crate) async fn create(path: &Path) -> Result<Namespace, KernelError> {
    let path = path.to_owned();
    let given_up = path.clone();
    // The job may have been given up, and cleaned up after, before the namespace is made.
    let undo = move || {
        let _ = remove_pin(&given_up); // nobody is left to tell
        let _ = given_up.parent().map(fs::remove_dir); // holds other things
    };
    on_own_thread(undo, move || {
        remove_pin(&path)?;
        let failed = |what: &'static str, path: &Path| {
            let attempt = format!("{what} {}", path.display());
            move |err: io::Error| KernelError::new(attempt, err)
        };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(failed("create directory", dir))?;
        }
        File::create(&path).map_err(failed("create", &path))?;
        unshare(CloneFlags::CLONE_NEWNET).map_err(|err| KernelError::new("create a network namespace", err))?;
        mount(Some(OWN), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|err| failed("pin the network namespace at", &path)(err.into()))?;
        proc_sys::disable_ipv6("default"); // loopback exists already and keeps `::1`
        let opened = File::open(&path).map_err(failed("open network namespace", &path));
        match opened.and_then(|file| Ok(Namespace { netlink: Netlink::open()?, file })) {
            Ok(namespace) => Ok(namespace),
            Err(err) => {
                let _ = remove_pin(&path); // the first error says more
                Err(err)
            }
        }
    })
    .await
}

/// Runs `job` on a thread of its own, whose namespaces it may change, with the current runtime at hand; and `undo` after
/// it when nobody waits for it any more.
async fn on_own_thread<T: Send + 'static>(
    undo: impl FnOnce() + Send + 'static,
    job: impl FnOnce() -> Result<T, KernelError> + Send + 'static,
) -> Result<T, KernelError> {
    let runtime = tokio::runtime::Handle::current();
    let (done, result) = oneshot::channel();
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            let _runtime = runtime.enter();
            if done.send(job()).is_err() {
                undo();
            }
        })
        .map_err(|err| KernelError::new("start a thread for a network namespace", err))?;
    result
        .await
        .unwrap_or_else(|_| Err(KernelError::new("make a network namespace", io::Error::other("its thread panicked"))))
}

/// Removes a pin; absence is success. The namespace itself lives as long as a process in it.
pub(crate) fn remove_pin(path: &Path) -> Result<(), KernelError> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {} // there may be another below
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => break,
            Err(err) => return Err(KernelError::new(format!("unmount {}", path.display()), err)),
        }
    }
    match fs::remove_file(path) {
        Err(err) if !matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(KernelError::new(format!("remove {}", path.display()), err))
        }
        _ => Ok(()),
    }
}

/// All namespaces pinned below a directory.
pub(crate) fn pins_below(dir: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo")
        .map_err(|err| KernelError::new("read the table of mounts", err))?;
    Ok(table.lines().filter_map(pinned_at).filter(|path| path.starts_with(dir)).collect())
}

/// The mount point of a line of mountinfo if a network namespace is mounted there (proc_pid_mountinfo(5)).
fn pinned_at(line: &str) -> Option<PathBuf> {
    let (mount, rest) = line.split_once(" - ")?;
    let mut fields = mount.split(' ');
    let (root, point) = (fields.nth(3)?, fields.next()?);
    (rest.starts_with("nsfs ") && root.starts_with("net:")).then(|| unescaped(point))
}

/// Undoes the octal escapes of spaces, tabs, line feeds and backslashes.
fn unescaped(text: &str) -> PathBuf {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounted_network_namespaces_are_pins() {
        let pin = "521 29 0:4 net:[4026532581] /run/flynn/a\\040b/netns rw shared:1 - nsfs nsfs rw";
        assert_eq!(pinned_at(pin), Some("/run/flynn/a b/netns".into()));
        for line in [
            "29 1 254:1 / /run/flynn rw shared:1 - ext4 /dev/vda rw",
            "521 29 0:4 mnt:[4026532581] /run/flynn/mnt rw - nsfs nsfs rw",
            "",
        ] {
            assert_eq!(pinned_at(line), None, "{line}");
        }
    }
}
