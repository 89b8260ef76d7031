//! The list of allowed devices on cgroup version 2: a program in the kernel that is asked on each `open` and `mknod`
//! (BPF_PROG_TYPE_CGROUP_DEVICE; cgroup-v2.rst, "Device controller").

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use nix::libc;
use rustix::fs::{Mode, OFlags};

use super::check;
use crate::oci::DeviceRule;

/// `struct bpf_insn` as one number: 8 bits code, 4 destination, 4 source, 16 offset, 32 immediate.
type Instruction = u64;

// linux/bpf_common.h, linux/bpf.h
const LDX_W: u8 = 0x61;
const MOV_REG: u8 = 0xbf;
const MOV: u8 = 0xb7;
const AND: u8 = 0x57;
const RSH: u8 = 0x77;
const JNE: u8 = 0x55;
const JNE_REG: u8 = 0x5d;
const EXIT: u8 = 0x95;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;

// `struct bpf_cgroup_dev_ctx`: access << 16 | type, major, minor, 32 bits each
const DEVICE_BLOCK: u32 = 1;
const DEVICE_CHAR: u32 = 2;
const ACCESS_MKNOD: u32 = 1;
const ACCESS_READ: u32 = 2;
const ACCESS_WRITE: u32 = 4;

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: u32) -> Instruction {
    u64::from(code)
        | u64::from(destination) << 8
        | u64::from(source) << 12
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(immediate) << 32
}

/// The program: registers 2 type, 3 access, 4 major, 5 minor; each rule either returns 1 or falls to the next; the end
/// returns 0.
pub(crate) fn assemble(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LDX_W, 2, 1, 0, 0),
        instruction(MOV_REG, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(RSH, 3, 0, 0, 16),
        instruction(LDX_W, 4, 1, 4, 0),
        instruction(LDX_W, 5, 1, 8, 0),
    ];
    for rule in rules {
        let kind = match rule.kind {
            'b' => Some(DEVICE_BLOCK),
            'c' => Some(DEVICE_CHAR),
            _ => None,
        };
        let rights = [('m', ACCESS_MKNOD), ('r', ACCESS_READ), ('w', ACCESS_WRITE)];
        let access = rights.iter().filter(|(letter, _)| rule.access.contains(*letter)).map(|(_, bit)| bit).sum();
        /// Code, destination, source, immediate; it jumps behind this rule when it fails.
        type Test = (u8, u8, u8, u32);
        let mut tests: Vec<(Instruction, Option<Test>)> = Vec::new();
        let mut compare = |register: u8, value: Option<u32>| {
            if let Some(value) = value {
                tests.push((0, Some((JNE, register, 0, value))));
            }
        };
        compare(2, kind);
        compare(4, rule.major);
        compare(5, rule.minor);
        // All bits that are asked for must be granted: (access & granted) == access.
        tests.push((instruction(MOV_REG, 6, 3, 0, 0), None));
        tests.push((instruction(AND, 6, 0, 0, access), None));
        tests.push((0, Some((JNE_REG, 6, 3, 0))));
        let len = tests.len();
        for (index, (plain, jump)) in tests.into_iter().enumerate() {
            program.push(match jump {
                // behind the remaining tests and the two instructions that return 1
                Some((code, destination, source, immediate)) => {
                    let offset = i16::try_from(len - index + 1).unwrap_or(i16::MAX);
                    instruction(code, destination, source, offset, immediate)
                }
                None => plain,
            });
        }
        program.extend([instruction(MOV, 0, 0, 0, 1), instruction(EXIT, 0, 0, 0, 0)]);
    }
    program.extend([instruction(MOV, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

/// Denies the processes of a version 2 cgroup, and of those below it, all devices but those of `rules`. The program
/// lives as long as the cgroup.
pub(crate) fn attach_device_program(cgroup: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    let directory = rustix::fs::open(cgroup, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let program = load(&assemble(rules))?;
    /// The part of `union bpf_attr` for BPF_PROG_ATTACH.
    #[repr(C)]
    struct Attach {
        target_fd: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
    }
    let attributes = Attach {
        target_fd: directory.as_raw_fd().cast_unsigned(),
        attach_bpf_fd: program.as_raw_fd().cast_unsigned(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: 0,
    };
    // SAFETY: the pointer and the size are those of a live structure in the kernel's layout.
    check(unsafe { bpf(BPF_PROG_ATTACH, (&raw const attributes).cast(), size_of::<Attach>()) }).map(drop)
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    /// The beginning of `union bpf_attr` for BPF_PROG_LOAD; the kernel takes the rest as zero.
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
    }
    let license = c"Apache-2.0";
    let attributes = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(io::Error::other)?,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: the structure has the kernel's layout, and what it points to outlives the call.
    let fd = check(unsafe { bpf(BPF_PROG_LOAD, (&raw const attributes).cast(), size_of::<Load>()) })?;
    // SAFETY: the descriptor was made just now and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// `attributes` must point to `size` bytes that are valid for `command`.
unsafe fn bpf(command: libc::c_long, attributes: *const libc::c_void, size: usize) -> libc::c_int {
    // SAFETY: as promised by the caller.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) };
    libc::c_int::try_from(result).unwrap_or(-1)
}

#[cfg(test)]
mod tests;
