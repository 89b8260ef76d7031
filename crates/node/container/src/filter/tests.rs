use proptest::prelude::*;

use super::*;

const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;

/// What the kernel does with a program, as far as ours go. Panics where the kernel would refuse it.
fn run(program: &[Instruction], set: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let Instruction(code, when_true, when_false, operand) = program[at];
        at += 1;
        match code {
            LOAD if operand == NUMBER_AT => accumulator = number,
            LOAD if operand == INSTRUCTION_SET_AT => accumulator = set,
            LOAD => {
                let index = (operand - ARGUMENTS_AT) as usize;
                assert!(index.is_multiple_of(4));
                accumulator = (arguments[index / 8] >> (index % 8 * 8)) as u32;
            }
            AND => accumulator &= operand,
            JUMP => at += operand as usize,
            JUMP_EQUAL => at += usize::from(if accumulator == operand { when_true } else { when_false }),
            JUMP_GREATER_OR_EQUAL => at += usize::from(if accumulator >= operand { when_true } else { when_false }),
            RETURN => return operand,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// What the policy says, told without a program.
fn judge(policy: &Policy, number_of: fn(&str) -> Option<u32>, number: u32, arguments: [u64; 6]) -> u32 {
    let verdict = policy.rules.iter().find(|rule| {
        number_of(rule.name) == Some(number)
            && rule
                .when
                .is_none_or(|when| (arguments[usize::from(when.argument)] & when.mask == when.value) == when.equal)
    });
    leaf(verdict.map_or(policy.otherwise, |rule| rule.verdict)).3
}

const NAMES: [&str; 12] = [
    "read",
    "write",
    "open",
    "clone",
    "socket",
    "personality",
    "mount",
    "openat2",
    "futex_wait",
    "llseek",
    "chown32",
    "stat64",
];

fn condition() -> impl Strategy<Value = Condition> {
    let word = || {
        prop_oneof![
            Just(0),
            Just(1),
            Just(u64::MAX),
            Just(u64::from(u32::MAX)),
            Just(u64::from(u32::MAX) << 32),
            any::<u64>()
        ]
    };
    (0..6u8, word(), word(), any::<bool>()).prop_map(|(argument, mask, value, equal)| {
        // A value outside of its mask is no condition.
        Condition { argument, mask, value: value & mask, equal }
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let verdict = prop_oneof![Just(Verdict::Allow), (1..40u16).prop_map(Verdict::Errno)];
    (prop::sample::select(&NAMES[..]), prop::option::of(condition()), verdict).prop_map(|(name, when, verdict)| Rule {
        name,
        when,
        verdict,
    })
}

#[cfg(target_arch = "x86_64")]
proptest! {
    #[test]
    fn a_program_decides_as_its_policy(rules in prop::collection::vec(rule(), 0..20), seed in any::<[u64; 6]>()) {
        let policy = Policy { rules, otherwise: Verdict::Errno(38) };
        let program = policy.program();
        // Random arguments hardly ever meet a condition: those that just do, too.
        let mut calls = vec![seed, [0; 6], [u64::MAX; 6]];
        calls.extend(policy.rules.iter().filter_map(|rule| rule.when).map(|when| [when.value; 6]));
        for (set, number_of) in [(X86_64, x86_64 as fn(&str) -> _), (X86, x86)] {
            let numbers = NAMES.iter().filter_map(|name| number_of(name)).flat_map(|n| [n.saturating_sub(1), n, n + 1]);
            for number in numbers.chain([0, 1000, 0x4000_0001, u32::MAX]) {
                for arguments in &calls {
                    prop_assert_eq!(
                        run(&program, set, number, *arguments),
                        judge(&policy, number_of, number, *arguments),
                        "set {:#x} call {} {:x?}", set, number, arguments
                    );
                }
            }
        }
        prop_assert_eq!(run(&program, 0xc000_00b7, 0, [0; 6]), RET_KILL_PROCESS);
    }
}
