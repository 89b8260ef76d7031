use super::*;

/// Runs a program as the kernel would: only the instructions that [`assemble`] uses.
fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
    let context = [access << 16 | kind, major, minor];
    let mut registers = [0_u64; 11];
    let mut at = 0;
    loop {
        let code = (program[at] & 0xff) as u8;
        let (destination, source) = ((program[at] >> 8 & 15) as usize, (program[at] >> 12 & 15) as usize);
        let (offset, immediate) = ((program[at] >> 16) as u16 as usize, program[at] >> 32);
        at += 1;
        match code {
            LDX_W => registers[destination] = u64::from(context[offset / 4]),
            MOV_REG => registers[destination] = registers[source],
            MOV => registers[destination] = immediate,
            AND => registers[destination] &= immediate,
            RSH => registers[destination] >>= immediate,
            JNE if registers[destination] != immediate => at += offset,
            JNE_REG if registers[destination] != registers[source] => at += offset,
            JNE | JNE_REG => {}
            EXIT => return registers[0],
            other => panic!("unexpected instruction {other:#x}"),
        }
    }
}

fn rule(kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
    DeviceRule { kind, major, minor, access: access.into() }
}

#[test]
fn only_what_a_rule_grants_is_allowed() {
    let rules = [
        rule('c', Some(1), Some(3), "rwm"),
        rule('c', Some(136), None, "rw"),
        rule('b', None, None, "m"),
        rule('a', Some(10), Some(200), "r"),
    ];
    let program = assemble(&rules);
    for (name, kind, access, major, minor, allowed) in [
        ("null, everything", DEVICE_CHAR, 7, 1, 3, 1),
        ("null as a block device", DEVICE_BLOCK, ACCESS_READ, 1, 3, 0),
        ("kmem", DEVICE_CHAR, ACCESS_READ, 1, 2, 0),
        ("any terminal", DEVICE_CHAR, ACCESS_READ | ACCESS_WRITE, 136, 77, 1),
        ("making a terminal", DEVICE_CHAR, ACCESS_MKNOD, 136, 77, 0),
        ("making a disk", DEVICE_BLOCK, ACCESS_MKNOD, 8, 0, 1),
        ("reading a disk", DEVICE_BLOCK, ACCESS_READ, 8, 0, 0),
        ("making and reading a disk", DEVICE_BLOCK, ACCESS_MKNOD | ACCESS_READ, 8, 0, 0),
        ("either kind", DEVICE_BLOCK, ACCESS_READ, 10, 200, 1),
        ("either kind", DEVICE_CHAR, ACCESS_READ, 10, 200, 1),
    ] {
        assert_eq!(run(&program, kind, access, major, minor), allowed, "{name}");
    }
    assert_eq!(run(&assemble(&[]), DEVICE_CHAR, ACCESS_READ, 1, 3), 0);
}

#[test]
fn the_kernel_accepts_the_program() {
    let rules = [rule('c', Some(1), Some(3), "rwm"), rule('b', None, None, "m"), rule('a', None, Some(1), "r")];
    load(&assemble(&rules)).unwrap();
}
