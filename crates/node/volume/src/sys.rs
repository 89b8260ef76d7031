//! The kernel calls for which no safe wrapper exists: loop devices, and giving an ext4 up.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, makedev};

// <linux/loop.h>
const LOOP_CTL_GET_FREE: u16 = 0x4C82;
const LOOP_CONFIGURE: u16 = 0x4C0A;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;
const LOOP_MAJOR: u32 = 7;

/// Other processes take free devices too: how long we go on asking for one.
const LOOP_PATIENCE: Duration = Duration::from_secs(10);

/// `struct loop_info64`
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);

nix::ioctl_none_bad!(loop_ctl_get_free, LOOP_CTL_GET_FREE);
nix::ioctl_write_ptr_bad!(loop_configure, LOOP_CONFIGURE, LoopConfig);
// EXT4_IOC_SHUTDOWN, <linux/ext4.h> since 6.? and fs/ext4/ext4.h before: _IOR('X', 125, __u32)
nix::ioctl_read!(ext4_ioc_shutdown, b'X', 125, u32);
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`
const EXT4_GOING_FLAGS_NOLOGFLUSH: u32 = 2;

/// A loop device that is freed when the last of this handle and of its mounts is gone.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    pub(crate) path: PathBuf,
    _device: File,
}

impl LoopDevice {
    /// Gives `file` a block device. Direct I/O is used where the file's own file system can (no second page cache).
    pub(crate) fn attach(file: &File, read_only: bool) -> io::Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
        let flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO | if read_only { LO_FLAGS_READ_ONLY } else { 0 };
        let config = LoopConfig {
            fd: u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?,
            block_size: 0,
            info: LoopInfo {
                device: 0,
                inode: 0,
                rdevice: 0,
                offset: 0,
                size_limit: 0,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags,
                file_name: [0; 64],
                crypt_name: [0; 64],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        };
        let start = Instant::now();
        loop {
            // SAFETY: the request takes no argument; the descriptor is open.
            let number = unsafe { loop_ctl_get_free(control.as_raw_fd()) }?;
            let number = u32::try_from(number).map_err(io::Error::other)?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let tried = open_device(&path, number, read_only).and_then(|device| {
                // SAFETY: `config` is a valid `struct loop_config` for the whole call, which only reads it, and both
                // descriptors are open.
                unsafe { loop_configure(device.as_raw_fd(), &config) }?;
                Ok(device)
            });
            match tried {
                Ok(device) => return Ok(Self { path, _device: device }),
                Err(err) if taken_meanwhile(&err) && start.elapsed() < LOOP_PATIENCE => {
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err(err) => return Err(err),
            }
        }
    }
}

fn taken_meanwhile(err: &io::Error) -> bool {
    [libc_errno::EBUSY, libc_errno::ENXIO, libc_errno::EAGAIN].iter().any(|e| err.raw_os_error() == Some(*e))
}

mod libc_errno {
    use rustix::io::Errno;
    pub(super) const EBUSY: i32 = Errno::BUSY.raw_os_error();
    pub(super) const ENXIO: i32 = Errno::NXIO.raw_os_error();
    pub(super) const EAGAIN: i32 = Errno::AGAIN.raw_os_error();
}

fn open_device(path: &Path, number: u32, read_only: bool) -> io::Result<File> {
    let open = || OpenOptions::new().read(true).write(!read_only).open(path);
    match open() {
        // A `/dev` that is no devtmpfs does not get the nodes of new devices.
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            let mode = Mode::from_raw_mode(0o600);
            match rustix::fs::mknodat(CWD, path, FileType::BlockDevice, mode, makedev(LOOP_MAJOR, number)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => open(),
                Err(err) => Err(err.into()),
            }
        }
        result => result,
    }
}

/// Makes an ext4 drop what it has not written yet and refuse everything from now on, so that unmounting it writes
/// nothing. `dir` is any folder of it.
pub(crate) fn abandon_ext4(dir: BorrowedFd<'_>) -> io::Result<()> {
    let mut flags = EXT4_GOING_FLAGS_NOLOGFLUSH;
    // SAFETY: the request reads one `__u32` at the pointer, which is valid for the call; the descriptor is open.
    unsafe { ext4_ioc_shutdown(dir.as_fd().as_raw_fd(), &mut flags) }?;
    Ok(())
}
