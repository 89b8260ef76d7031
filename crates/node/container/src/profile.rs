//! Profiles: named sets of devices and rights that a job may ask for (spec flynn-host section 6.7).

use std::io;
use std::path::PathBuf;

use flynn_types::host::Device;

use crate::spec::Mount;
use crate::sys;

/// Major number of ZFS volumes.
const ZVOL_MAJOR: i64 = 230;
const LOOP_MAJOR: i64 = 7;
/// First number of the loop devices made for jobs: far from those that programs on the host find by looking for the
/// first free one.
const FIRST_LOOP: u32 = 4096;
const MAX_LOOP: u32 = FIRST_LOOP + 4096;

/// Why a profile cannot be had on this host.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("unknown job profile: {0}")]
    Unknown(String),
    #[error("error applying {profile} profile: {reason}")]
    Apply {
        profile: &'static str,
        reason: &'static str,
        #[source]
        source: io::Error,
    },
}

/// What profiles add to a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Granted {
    /// Made in the container and allowed.
    pub(crate) devices: Vec<Device>,
    /// Only allowed.
    pub(crate) allowed: Vec<Device>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) capabilities: Vec<&'static str>,
    pub(crate) loop_device: Option<u32>,
}

/// Applies profiles in order.
pub(crate) fn grant(profiles: &[String]) -> Result<Granted, ProfileError> {
    let mut granted = Granted::default();
    for profile in profiles {
        let applied = match profile.as_str() {
            "zfs" => zfs(&mut granted),
            "kvm" => kvm(&mut granted),
            "loop" => loop_device(&mut granted),
            _ => Err(ProfileError::Unknown(profile.clone())),
        };
        if let Err(err) = applied {
            if let Some(number) = granted.loop_device {
                release_loop_device(number);
            }
            return Err(err);
        }
    }
    Ok(granted)
}

fn zfs(granted: &mut Granted) -> Result<(), ProfileError> {
    let failed = |reason| move |source| ProfileError::Apply { profile: "zfs", reason, source };
    let numbers = std::fs::read_to_string("/sys/class/misc/zfs/dev").map_err(failed("the host has no ZFS"))?;
    let (major, minor) = parse_numbers(&numbers)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, numbers.trim().to_owned()))
        .map_err(failed("the numbers of /dev/zfs are unreadable"))?;
    granted.devices.push(device('c', "/dev/zfs", major, minor));
    granted.allowed.push(device('b', "", ZVOL_MAJOR, -1));
    let zvols = PathBuf::from("/dev/zvol");
    if zvols.is_dir() {
        granted.mounts.push(Mount { source: zvols.clone(), target: zvols, writeable: false });
    }
    Ok(())
}

fn kvm(granted: &mut Granted) -> Result<(), ProfileError> {
    granted.devices.push(device('c', "/dev/kvm", 10, 232));
    granted.devices.push(device('c', "/dev/net/tun", 10, 200));
    granted.capabilities.push("CAP_NET_ADMIN");
    Ok(())
}

fn loop_device(granted: &mut Granted) -> Result<(), ProfileError> {
    if granted.loop_device.is_some() {
        return Ok(());
    }
    let failed = |source| ProfileError::Apply { profile: "loop", reason: "no loop device can be made", source };
    let number = sys::add_loop_device(FIRST_LOOP..MAX_LOOP).map_err(failed)?;
    granted.loop_device = Some(number);
    granted.devices.push(device('b', "/dev/loop0", LOOP_MAJOR, i64::from(number)));
    Ok(())
}

/// Detaches and removes a loop device that [`grant`] made.
pub(crate) fn release_loop_device(number: u32) {
    if let Err(err) = sys::remove_loop_device(number) {
        tracing::warn!(number, %err, "the job's loop device cannot be removed");
    }
}

fn device(kind: char, path: &str, major: i64, minor: i64) -> Device {
    Device {
        kind: kind.into(),
        path: path.into(),
        major,
        minor,
        permissions: "rwm".into(),
        file_mode: 0o666,
        uid: 0,
        gid: 0,
        allow: true,
    }
}

fn parse_numbers(text: &str) -> Option<(i64, i64)> {
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_that_do_not_exist_are_named() {
        assert_eq!(grant(&["gpu".into()]).unwrap_err().to_string(), "unknown job profile: gpu");
    }

    #[test]
    fn kvm_brings_its_devices_and_the_right_to_bridge() {
        let granted = grant(&["kvm".into()]).unwrap();
        let paths: Vec<&str> = granted.devices.iter().map(|device| device.path.as_str()).collect();
        assert_eq!((paths, granted.capabilities), (vec!["/dev/kvm", "/dev/net/tun"], vec!["CAP_NET_ADMIN"]));
    }

    #[test]
    fn device_numbers_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_numbers("10:249\n"), Some((10, 249)));
        assert_eq!(parse_numbers("10"), None);
    }
}
