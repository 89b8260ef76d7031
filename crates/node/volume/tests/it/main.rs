//! Real mounts, loop devices and file systems. Needs root.

mod layers;
mod rootfs;
mod support;
mod transfer;
mod volumes;
mod zfs;
