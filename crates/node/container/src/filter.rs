//! System call filters: from a policy to a program for the kernel. Pure.
//!
//! The program is a search tree over call numbers for each instruction set that the processor runs. Making it here takes
//! some microseconds, where adding some hundred rules one by one to a general library's filter takes ten milliseconds of
//! every start. See the kernel's `seccomp_filter.rst` and `linux/filter.h`.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allow,
    /// It fails with this error number.
    Errno(u16),
}

/// Looks at one of a call's arguments: whether its bits under `mask` are `value`, or are anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) argument: u8,
    pub(crate) mask: u64,
    pub(crate) value: u64,
    pub(crate) equal: bool,
}

/// A rule for one call; names that an instruction set does not have mean nothing there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    /// `None`: always.
    pub(crate) when: Option<Condition>,
    pub(crate) verdict: Verdict,
}

/// All rules; of those for one call the first that applies counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) rules: Vec<Rule>,
    pub(crate) otherwise: Verdict,
}

/// One instruction, `struct sock_filter`: code, jump when true, jump when false, operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Instruction(pub(crate) u16, pub(crate) u8, pub(crate) u8, pub(crate) u32);

// linux/bpf_common.h and linux/filter.h
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

// linux/seccomp.h: what a program returns, and where it finds number, instruction set and arguments.
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const NUMBER_AT: u32 = 0;
const INSTRUCTION_SET_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

/// An instruction set's name in linux/audit.h, and its call numbers.
struct InstructionSet {
    audit: u32,
    number: fn(&str) -> Option<u32>,
}

/// The numbers in an instruction set of the kernel.
macro_rules! numbers {
    ($set:ident) => {
        fn $set(name: &str) -> Option<u32> {
            u32::try_from(syscalls::$set::Sysno::from_str(name).ok()?.id()).ok()
        }
    };
}

/// Those that the processor runs: also the smaller word size, for programs of others. Calls of any other (on x86-64 the
/// x32 calls, whose numbers are out of any range) find no rule.
#[cfg(target_arch = "x86_64")]
const INSTRUCTION_SETS: [InstructionSet; 2] =
    [InstructionSet { audit: 0xc000_003e, number: x86_64 }, InstructionSet { audit: 0x4000_0003, number: x86 }];
#[cfg(target_arch = "x86_64")]
numbers!(x86_64);
#[cfg(target_arch = "x86_64")]
numbers!(x86);

#[cfg(target_arch = "aarch64")]
const INSTRUCTION_SETS: [InstructionSet; 2] =
    [InstructionSet { audit: 0xc000_00b7, number: aarch64 }, InstructionSet { audit: 0x4000_0028, number: arm }];
#[cfg(target_arch = "aarch64")]
numbers!(aarch64);
#[cfg(target_arch = "aarch64")]
numbers!(arm);

impl Policy {
    /// The policy as a program. A call of an instruction set that the processor should not know ends the process.
    pub(crate) fn program(&self) -> Vec<Instruction> {
        let mut program = vec![Instruction(LOAD, 0, 0, INSTRUCTION_SET_AT)];
        for set in &INSTRUCTION_SETS {
            let calls = self.calls(set.number);
            let section =
                [vec![Instruction(LOAD, 0, 0, NUMBER_AT)], search(&segments(&calls, self.otherwise))].concat();
            program.push(Instruction(JUMP_EQUAL, 1, 0, set.audit));
            program.push(Instruction(JUMP, 0, 0, length(&section)));
            program.extend(section);
        }
        program.push(Instruction(RETURN, 0, 0, RET_KILL_PROCESS));
        program
    }

    /// The rules of each call by its number.
    fn calls(&self, number: fn(&str) -> Option<u32>) -> BTreeMap<u32, Vec<Rule>> {
        let mut calls: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
        for rule in &self.rules {
            if let Some(number) = number(rule.name) {
                calls.entry(number).or_default().push(*rule);
            }
        }
        calls
    }
}

/// What is done about the call numbers from the first on, up to the next segment's.
type Segment = (u32, Vec<Instruction>);

/// Number ranges with the same code, beginning at 0.
fn segments(calls: &BTreeMap<u32, Vec<Rule>>, otherwise: Verdict) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut add = |from: u32, code: Vec<Instruction>| {
        if segments.last().is_none_or(|(_, last)| *last != code) {
            segments.push((from, code));
        }
    };
    let mut next = 0;
    for (number, rules) in calls {
        if *number > next {
            add(next, vec![leaf(otherwise)]);
        }
        add(*number, decide(rules, otherwise));
        next = number + 1;
    }
    add(next, vec![leaf(otherwise)]);
    segments
}

/// Finds the segment of the number in the accumulator.
fn search(segments: &[Segment]) -> Vec<Instruction> {
    match segments {
        [] => Vec::new(),
        [(_, code)] => code.clone(),
        _ => {
            let (left, right) = segments.split_at(segments.len() / 2);
            let from = right.first().map_or(0, |(from, _)| *from);
            let (left, right) = (search(left), search(right));
            let mut code = match u8::try_from(left.len()) {
                Ok(distance) => vec![Instruction(JUMP_GREATER_OR_EQUAL, distance, 0, from)],
                Err(_) => {
                    let far = Instruction(JUMP, 0, 0, length(&left));
                    vec![Instruction(JUMP_GREATER_OR_EQUAL, 0, 1, from), far]
                }
            };
            code.extend(left);
            code.extend(right);
            code
        }
    }
}

/// The verdict on one call.
fn decide(rules: &[Rule], otherwise: Verdict) -> Vec<Instruction> {
    let mut code = Vec::new();
    for rule in rules {
        let Some(condition) = rule.when else {
            code.push(leaf(rule.verdict));
            return code;
        };
        code.extend(test(condition, rule.verdict));
    }
    code.push(leaf(otherwise));
    code
}

/// Returns the verdict when the condition holds, else goes on behind.
fn test(condition: Condition, verdict: Verdict) -> Vec<Instruction> {
    let at = ARGUMENTS_AT + 8 * u32::from(condition.argument);
    let (low_at, high_at) = if cfg!(target_endian = "little") { (at, at + 4) } else { (at + 4, at) };
    let low = |wide: u64| (wide & u64::from(u32::MAX)) as u32;
    let high = |wide: u64| (wide >> 32) as u32;
    let halves =
        [(low_at, low(condition.mask), low(condition.value)), (high_at, high(condition.mask), high(condition.value))];
    let halves: Vec<_> = halves.into_iter().filter(|(_, mask, value)| *mask != 0 || *value != 0).collect();
    let mut code = Vec::new();
    for (index, (at, mask, value)) in halves.iter().enumerate() {
        let is_last = index + 1 == halves.len();
        code.push(Instruction(LOAD, 0, 0, *at));
        if *mask != u32::MAX {
            code.push(Instruction(AND, 0, 0, *mask));
        }
        // How far the verdict and what is behind it are, after this instruction.
        let rest: u8 = if is_last { 0 } else { 2 + u8::from(halves.last().is_some_and(|half| half.1 != u32::MAX)) };
        let (to_verdict, to_end) = (rest, rest + 1);
        code.push(match (condition.equal, is_last) {
            (true, true) => Instruction(JUMP_EQUAL, to_verdict, to_end, *value),
            (true, false) => Instruction(JUMP_EQUAL, 0, to_end, *value),
            (false, true) => Instruction(JUMP_EQUAL, to_end, to_verdict, *value),
            (false, false) => Instruction(JUMP_EQUAL, 0, to_verdict, *value),
        });
    }
    // Without a bit to look at the condition holds or not once and for all.
    if condition.equal || !halves.is_empty() {
        code.push(leaf(verdict));
    }
    code
}

fn leaf(verdict: Verdict) -> Instruction {
    let value = match verdict {
        Verdict::Allow => RET_ALLOW,
        Verdict::Errno(number) => RET_ERRNO | u32::from(number),
    };
    Instruction(RETURN, 0, 0, value)
}

fn length(code: &[Instruction]) -> u32 {
    u32::try_from(code.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
