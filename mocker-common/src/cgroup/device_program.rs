//! v2's answer to "may it open this device?": a small BPF program, asked by the kernel at every open and mknod.
//!
//! The rules become comparisons, the last rule first, since the last match decides. Source:
//! Documentation/admin-guide/cgroup-v2.rst, Device controller; bpf(2); include/uapi/linux/bpf.h.

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::cgroup::calls::OpenGroup;
use crate::cgroup::devices::Rule;
use crate::cgroup::program_calls::{AttachProgram, DetachProgram, LoadProgram, OpenProgram, QueryPrograms};
use crate::error::Error;
use crate::step::step;

/// One instruction: operation, registers (destination low, source high), jump offset, constant.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    constant: i32,
}

// What the kernel passes in R1 (struct bpf_cgroup_dev_ctx): type in the low half and access in the high half of a word,
// then major and minor. What is answered in R0: 1 allowed, 0 refused.
const CONTEXT: u8 = 1;
const ANSWER: u8 = 0;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// Makes the rules hold for a group of v2. False where this process may not load programs: then nobody enforces them.
///
/// `new`: nothing is attached yet. Else what is attached goes when the new program is there: of several all must agree, so
/// that in between less is allowed, never more.
pub fn attach(group: &Path, rules: &[Rule], new: bool) -> Result<bool, Error> {
    let instructions = program(rules);
    let loaded = step(LoadProgram { instructions: &instructions })
        .because("v2 has no list of devices: a program that the kernel runs at every open decides which are allowed");
    let program = match loaded {
        Ok(program) => program,
        // An ordinary user or a kernel without it: mocker-exec reads `devices: false` and confines by other means.
        Err(error) if matches!(error.errno, libc::EPERM | libc::ENOSYS | libc::EINVAL) => return Ok(false),
        Err(error) => return Err(error),
    };
    let group = step(OpenGroup { path: group }).because("a program is attached to a group by descriptor")?;
    let old = if new { Vec::new() } else { attached(&group)? };
    step(AttachProgram { group: &group, program: &program })
        .because("without it the container's root could make a node for the machine's disk, and read it")?;
    for program in &old {
        step(DetachProgram { group: &group, program })
            .because("the group's former program would go on refusing what is allowed now")?;
    }
    Ok(true)
}

/// The programs that stand at this group itself.
fn attached(group: &OwnedFd) -> Result<Vec<OwnedFd>, Error> {
    let ids = step(QueryPrograms { group })
        .because("a group that was there before may have a program, which must go when the new one is there")?;
    ids.into_iter()
        .map(|id| step(OpenProgram { id }).because("a program is detached by descriptor, and only its number is known"))
        .collect()
}

/// The program for a list of rules. What no rule names stays as it is in the group above.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        load(KIND, 0),
        op(0x57, KIND, 0, 0xffff), // KIND &= 0xffff
        load(ACCESS, 0),
        op(0x77, ACCESS, 0, 16), // ACCESS >>= 16
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        let tests = tests(rule);
        let answer = [set(ANSWER, rule.allow.into()), op(0x95, 0, 0, 0)];
        // A test that fails jumps over those behind it and over the answer.
        let length = tests.len() + answer.len();
        program.extend(tests.iter().enumerate().map(|(place, test)| match test.offset {
            0 => *test,
            _ => Instruction { offset: (length - place - 1) as i16, ..*test },
        }));
        program.extend(answer);
        if tests.is_empty() {
            return program; // it matches all: what comes behind is never reached, and the verifier refuses such code
        }
    }
    program.extend([set(ANSWER, 1), op(0x95, 0, 0, 0)]);
    program
}

/// Comparisons that leave the rule if it does not match; their offset, 1, is a mark.
fn tests(rule: &Rule) -> Vec<Instruction> {
    const LEAVE: i16 = 1;
    let unless_equal =
        |register: u8, constant: i64| Instruction { offset: LEAVE, ..op(0x55, register, 0, constant as i32) };
    let mut tests = Vec::new();
    match rule.kind() {
        "b" => tests.push(unless_equal(KIND, BLOCK.into())),
        "c" => tests.push(unless_equal(KIND, CHARACTER.into())),
        _ => {}
    }
    tests.extend(rule.major().map(|major| unless_equal(MAJOR, major)));
    tests.extend(rule.minor().map(|minor| unless_equal(MINOR, minor)));

    let bits = [('r', READ), ('w', WRITE), ('m', MKNOD)];
    let access: i32 = bits.iter().filter(|(letter, _)| rule.access().contains(*letter)).map(|(_, bit)| bit).sum();
    if access != READ | WRITE | MKNOD {
        tests.push(op(0xbf, SCRATCH, ACCESS, 0)); // SCRATCH = ACCESS
        tests.push(op(0x57, SCRATCH, 0, access)); // SCRATCH &= the rule's
        tests.push(match rule.allow {
            // All that is asked for must be allowed; one part that is denied is enough.
            true => Instruction { offset: LEAVE, ..op(0x5d, SCRATCH, ACCESS, 0) }, // leave if SCRATCH != ACCESS
            false => Instruction { offset: LEAVE, ..op(0x15, SCRATCH, 0, 0) },     // leave if SCRATCH == 0
        });
    }
    tests
}

fn op(code: u8, destination: u8, source: u8, constant: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset: 0, constant }
}

/// destination = the 32-bit word at this offset of the context
fn load(destination: u8, offset: i16) -> Instruction {
    Instruction { offset, ..op(0x61, destination, CONTEXT, 0) }
}

fn set(destination: u8, constant: i32) -> Instruction {
    op(0xb7, destination, 0, constant)
}

#[cfg(test)]
mod kernel {
    use std::fs;
    use std::process::Command;

    use super::*;
    use crate::cgroup::hierarchy::Hierarchies;

    fn rules(json: serde_json::Value) -> Vec<Rule> {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_rule_for_all_ends_the_program() {
        let all = rules(serde_json::json!([{"allow": true, "type": "c", "major": 9}, {"allow": false}]));
        assert_eq!(program(&all).len(), 6 + 2);
    }

    #[test]
    fn the_kernel_asks_the_program_at_every_open() {
        let unified =
            Hierarchies::detect().ok().and_then(|machine| machine.unified().map(|unified| unified.mount.clone()));
        let (true, Some(unified)) = (rustix::process::geteuid().is_root(), unified) else {
            return; // tests/ need root and say so; v1 alone has no such programs
        };
        let group = unified.join(format!("mocker-test-{}", std::process::id()));
        fs::create_dir(&group).unwrap();
        let list = rules(serde_json::json!([
            {"allow": false},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "r"},
        ]));
        let all = rules(serde_json::json!([{"allow": false}]));
        assert!(attach(&group, &all, true).unwrap());
        assert!(attach(&group, &list, false).unwrap(), "the first is replaced");
        let script = "echo $$ > $0/cgroup.procs || exit
            (: > /dev/null) 2>&- && echo null
            (head -c 1 < /dev/zero > /dev/null) 2>&- && echo zero
            (: > /dev/zero) 2>&- && echo zero written
            (: < /dev/urandom) 2>&- && echo urandom
            true";
        let out = Command::new("sh").arg("-c").arg(script).arg(&group).output().unwrap();
        fs::remove_dir(&group).unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "null\nzero\n", "{out:?}");
    }
}
