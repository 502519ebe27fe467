//! A filter is run here by an interpreter of our own, and compared with a reading of the profile as naive as can be.

use std::collections::BTreeSet;

use mocker_common::defaults::CAPABILITIES;
use mocker_common::seccomp_profile::default_profile;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use super::bpf::{self, Assembler, Instruction, Target};
use super::table::{Architecture, CALLS, X32_BIT, find};
use super::*;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const LOG: u32 = 0x7ffc_0000;
const TRAP: u32 = 0x0003_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;

/// Runs a filter as the kernel does. Returns the answer and the number of instructions it took.
fn run(program: &[Instruction], audit: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
    let half = |offset: u32| match offset {
        bpf::NUMBER => number,
        bpf::ARCHITECTURE => audit,
        16.. => (arguments[(offset as usize - 16) / 8] >> (8 * (offset % 8))) as u32,
        _ => panic!("offset {offset}"),
    };
    let (mut register, mut at, mut steps) = (0u32, 0usize, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        let mut jump = |test: bool| at += usize::from(if test { jt } else { jf });
        steps += 1;
        match code {
            bpf::LOAD => register = half(k),
            bpf::AND => register &= k,
            bpf::JUMP => at += k as usize,
            bpf::IF_EQUAL => jump(register == k),
            bpf::IF_GREATER => jump(register > k),
            bpf::IF_GREATER_OR_EQUAL => jump(register >= k),
            bpf::RETURN => return (k, steps),
            _ => panic!("instruction {code:#x}"),
        }
        at += 1;
    }
}

fn compiled(profile: &Value, native: Architecture) -> Program {
    compile::compile(&Seccomp::deserialize(profile).unwrap(), native).unwrap()
}

fn answer(profile: &Value, number: u32, first: u64) -> u32 {
    run(&compiled(profile, Architecture::X86_64).instructions, X86_64, number, [first, 0, 0, 0, 0, 0]).0
}

/// What the profile says, rule by rule. The numbers its names have are looked up once.
struct Naive<'a> {
    rules: Vec<(BTreeSet<u32>, &'a Value)>,
    default: u32,
}

impl<'a> Naive<'a> {
    fn new(profile: &'a Value, architecture: Architecture) -> Self {
        let number = |name: &Value| find(name.as_str().unwrap()).and_then(|call| architecture.number(call));
        let numbers = |rule: &Value| rule["names"].as_array().unwrap().iter().filter_map(number).collect();
        let rules = profile["syscalls"].as_array().unwrap().iter().map(|rule| (numbers(rule), rule)).collect();
        Naive { rules, default: meaning(&profile["defaultAction"], &profile["defaultErrnoRet"]) }
    }

    fn judge(&self, number: u32, arguments: [u64; 6]) -> u32 {
        let named = self.rules.iter().flat_map(|(numbers, _)| numbers);
        if named.max().is_some_and(|newest| number > *newest) {
            let lets_pass = self.default == ALLOW || self.default == LOG || self.default >> 16 == 0x7ff0;
            return if lets_pass { self.default } else { ENOSYS };
        }
        let mut conditional = None;
        for (_, rule) in self.rules.iter().filter(|(numbers, _)| numbers.contains(&number)) {
            let answer = meaning(&rule["action"], &rule["errnoRet"]);
            let conditions = rule["args"].as_array().map_or(&[][..], Vec::as_slice);
            let places: BTreeSet<u64> = conditions.iter().map(|one| one["index"].as_u64().unwrap()).collect();
            let matches = match places.len() == conditions.len() {
                true => conditions.iter().all(|one| holds(one, arguments)),
                false => conditions.iter().any(|one| holds(one, arguments)),
            };
            match answer == self.default {
                true => continue,
                false if conditions.is_empty() => return answer,
                false => conditional = conditional.or(matches.then_some(answer)),
            }
        }
        conditional.unwrap_or(self.default)
    }
}

fn meaning(action: &Value, errno: &Value) -> u32 {
    let errno = errno.as_u64().unwrap_or(1) as u32;
    match action.as_str().unwrap() {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_LOG" => LOG,
        "SCMP_ACT_TRAP" => TRAP,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | errno,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_NOTIFY" => NOTIFY,
        "SCMP_ACT_KILL_PROCESS" => KILL,
        _ => 0x0005_0000 | errno,
    }
}

fn holds(condition: &Value, arguments: [u64; 6]) -> bool {
    let of = |key: &str| condition[key].as_u64().unwrap_or(0);
    let value = arguments[of("index") as usize];
    match condition["op"].as_str().unwrap() {
        "SCMP_CMP_EQ" => value == of("value"),
        "SCMP_CMP_NE" => value != of("value"),
        "SCMP_CMP_LT" => value < of("value"),
        "SCMP_CMP_LE" => value <= of("value"),
        "SCMP_CMP_GT" => value > of("value"),
        "SCMP_CMP_GE" => value >= of("value"),
        _ => value & of("value") == of("valueTwo"),
    }
}

fn one_rule(op: &str, value: u64, two: u64) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{
            "names": ["read"], "action": "SCMP_ACT_ALLOW",
            "args": [{ "index": 0, "op": op, "value": value, "valueTwo": two }],
        }],
    })
}

#[test]
fn each_comparison_is_one_of_64_bits() {
    const BIG: u64 = 0x1_0000_0005;
    let around = |value: u64| [value.wrapping_sub(1), value, value.wrapping_add(1), value ^ 1 << 32, value ^ 1 << 63];
    type Comparison = (&'static str, fn(u64, u64) -> bool);
    let comparisons: [Comparison; 6] = [
        ("SCMP_CMP_EQ", |a, b| a == b),
        ("SCMP_CMP_NE", |a, b| a != b),
        ("SCMP_CMP_LT", |a, b| a < b),
        ("SCMP_CMP_LE", |a, b| a <= b),
        ("SCMP_CMP_GT", |a, b| a > b),
        ("SCMP_CMP_GE", |a, b| a >= b),
    ];
    for (op, holds) in comparisons {
        for value in [0, 5, u64::from(u32::MAX), 1 << 32, BIG, u64::MAX] {
            let profile = one_rule(op, value, 0);
            for argument in around(value) {
                let expected = if holds(argument, value) { ALLOW } else { EPERM };
                assert_eq!(answer(&profile, 0, argument), expected, "{argument:#x} {op} {value:#x}");
            }
        }
    }
    let masked = one_rule("SCMP_CMP_MASKED_EQ", 0xf0_0000_00f0, 0x10_0000_0020);
    for (argument, expected) in
        [(0x10_0000_0020, ALLOW), (0x7717_7777_7727, ALLOW), (0x20, EPERM), (0x10_0000_0030, EPERM)]
    {
        assert_eq!(answer(&masked, 0, argument), expected, "{argument:#x}");
    }
}

#[test]
fn conditions_are_anded_but_two_on_one_argument_are_ored() {
    let rule = |indices: [u32; 2]| {
        let args: Vec<Value> = indices
            .iter()
            .zip([7, 8])
            .map(|(index, value)| json!({ "index": index, "op": "SCMP_CMP_EQ", "value": value }))
            .collect();
        json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{ "names": ["write"], "action": "SCMP_ACT_LOG", "args": args }],
        })
    };
    let both = compiled(&rule([0, 1]), Architecture::X86_64).instructions;
    for (arguments, expected) in [([7, 8], LOG), ([7, 7], EPERM), ([8, 8], EPERM)] {
        assert_eq!(run(&both, X86_64, 1, [arguments[0], arguments[1], 0, 0, 0, 0]).0, expected);
    }
    for (argument, expected) in [(7, LOG), (8, LOG), (9, EPERM)] {
        assert_eq!(answer(&rule([0, 0]), 1, argument), expected);
    }
}

#[test]
fn a_call_newer_than_the_profile_does_not_exist_unless_all_is_allowed() {
    let profile = |default: &str| json!({ "defaultAction": default, "syscalls": [{ "names": ["write"], "action": "SCMP_ACT_LOG" }] });
    for (default, expected) in [
        ("SCMP_ACT_ERRNO", [EPERM, ENOSYS]),
        ("SCMP_ACT_KILL_PROCESS", [KILL, ENOSYS]),
        ("SCMP_ACT_TRAP", [TRAP, ENOSYS]),
        ("SCMP_ACT_ALLOW", [ALLOW, ALLOW]),
        ("SCMP_ACT_TRACE", [0x7ff0_0001, 0x7ff0_0001]),
    ] {
        assert_eq!([answer(&profile(default), 0, 0), answer(&profile(default), 2, 0)], expected, "{default}");
    }
    let nothing_named = json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "syscalls": [] });
    assert_eq!(answer(&nothing_named, 9999, 0), 0x0005_000d);
}

#[test]
fn an_architecture_is_let_in_only_if_listed() {
    let profile = |architectures: &[&str]| {
        json!({
            "defaultAction": "SCMP_ACT_ERRNO", "architectures": architectures,
            "syscalls": [{ "names": ["exit", "writev"], "action": "SCMP_ACT_ALLOW" }],
        })
    };
    let judge = |program: &Program, audit: u32, number: u32| run(&program.instructions, audit, number, [0; 6]).0;
    let native = compiled(&profile(&[]), Architecture::X86_64);
    let aarch64 = 0xc000_00b7;
    let cases = [
        (X86_64, 60, ALLOW),
        (X86_64, 60 | X32_BIT, KILL),
        (X86_64, u32::MAX, ENOSYS),
        (I386, 1, KILL),
        (aarch64, 93, KILL),
    ];
    for (audit, number, expected) in cases {
        assert_eq!(judge(&native, audit, number), expected, "{audit:#x} {number}");
    }
    let all = compiled(&profile(&["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_S390"]), Architecture::X86_64);
    let cases = [(I386, 1, ALLOW), (I386, 60, EPERM), (X86_64, 60 | X32_BIT, ALLOW), (X86_64, 516 | X32_BIT, ALLOW)];
    for (audit, number, expected) in cases {
        assert_eq!(judge(&all, audit, number), expected, "{audit:#x} {number}");
    }
    // Private calls of arm are far above the newest one.
    let arm = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_ARM"],
        "syscalls": [{ "names": ["exit", "set_tls"], "action": "SCMP_ACT_ALLOW" }],
    });
    let arm = compiled(&arm, Architecture::Aarch64);
    for (number, expected) in
        [(0, EPERM), (1, ALLOW), (2, ENOSYS), (0xf0002, ENOSYS), (0xf0005, ALLOW), (0xf0006, ENOSYS)]
    {
        assert_eq!(judge(&arm, 0x4000_0028, number), expected, "{number:#x}");
    }
}

#[test]
fn a_jump_can_be_longer_than_a_byte() {
    for length in [0, 1, 250, 251, 252, 253, 254, 255, 256, 257, 300, 1000] {
        let mut assembler = Assembler::default();
        let far = assembler.load(bpf::NUMBER, Target::Return(7));
        let padding = (0..length).fold(Target::Return(8), |then, _| assembler.mask(u32::MAX, then));
        let other = assembler.branch(bpf::IF_EQUAL, 2, Target::Return(9), far);
        let test = assembler.branch(bpf::IF_EQUAL, 1, far, other);
        let test = assembler.branch(bpf::IF_EQUAL, 0, padding, test);
        let entry = assembler.load(bpf::NUMBER, test);
        let program = assembler.finish(entry);
        let answers: Vec<u32> = (0..4).map(|number| run(&program, 0, number, [0; 6]).0).collect();
        assert_eq!(answers, [8, 7, 9, 7], "{length}");
    }
}

#[test]
fn a_profile_that_cannot_be_kept_is_refused() {
    let with = |key: &str, value: Value| {
        let mut profile = one_rule("SCMP_CMP_EQ", 0, 0);
        *profile.pointer_mut(key).unwrap() = value;
        from_document(&profile)
    };
    assert!(with("/defaultAction", json!("SCMP_ACT_ERRNO")).is_ok());
    for (key, value) in [
        ("/defaultAction", json!("SCMP_ACT_MAYBE")),
        ("/syscalls/0/action", json!("SCMP_ACT_MAYBE")),
        ("/syscalls/0/args/0/index", json!(6)),
        ("/syscalls/0/args/0/op", json!("<")),
        ("/syscalls/0", json!({ "names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1 })),
        ("/syscalls/0", json!({ "names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000 })),
        ("/syscalls/0", json!({ "action": "SCMP_ACT_ALLOW" })),
    ] {
        assert!(with(key, value.clone()).is_err(), "{key} {value}");
    }
    let profile = |key: &str| json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [], key: ["X"] });
    assert!(from_document(&profile("flags")).is_err());
    assert!(from_document(&profile("architectures")).is_err());
    let many: Vec<Value> =
        (0..2000).map(|value| one_rule("SCMP_CMP_MASKED_EQ", value, value)["syscalls"][0].clone()).collect();
    let error = from_document(&json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": many })).unwrap_err();
    assert!(error.what.contains("instructions"), "{error}");
}

#[test]
fn names_of_no_architecture_are_ignored_and_counted() {
    let names = ["read", "from_the_future"];
    let profile =
        json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }] });
    assert_eq!(compiled(&profile, Architecture::X86_64).unknown_names, 1);
    assert_eq!(from_document(&default_profile(&CAPABILITIES)).unwrap().unknown_names, 0);
}

/// Every number, with arguments around every value that stands in the profile.
fn compare(profile: &Value, native: Architecture, arguments: &[[u64; 6]]) -> Result<(), TestCaseError> {
    let program = compiled(profile, native).instructions;
    let listed = |other: &&Architecture| {
        profile["architectures"].as_array().is_some_and(|all| all.contains(&json!(other.name())))
    };
    for architecture in std::iter::once(&native).chain(native.companions().iter().filter(listed)) {
        let bit = if *architecture == Architecture::X32 { X32_BIT } else { 0 };
        let naive = Naive::new(profile, *architecture);
        for number in 0..600 {
            for arguments in arguments {
                let filter = run(&program, architecture.audit(), number | bit, *arguments).0;
                let expected = naive.judge(number, *arguments);
                prop_assert_eq!(filter, expected, "{:?} {} {:x?}", architecture, number, arguments);
            }
        }
    }
    Ok(())
}

#[test]
fn dockers_profile_is_kept_to_the_letter() {
    let arguments: Vec<[u64; 6]> = (0..48)
        .chain([0x20000, 0x20008, 0xffff_ffff, 0x1_0000_0026, 0x1_0000_0001, 0x1000_0000, 0x0200_0000, 0x0080_0000])
        .map(|argument| [argument, 0, 0, 0, 0, 0])
        .collect();
    for capabilities in [&CAPABILITIES[..], &["CAP_SYS_ADMIN", "CAP_SYS_TIME"]] {
        compare(&default_profile(capabilities), Architecture::X86_64, &arguments).unwrap();
    }
    let program = from_document(&default_profile(&CAPABILITIES)).unwrap().instructions;
    assert!(program.len() < 400, "{} instructions", program.len());
}

fn any_action() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({ "action": "SCMP_ACT_ALLOW" })),
        Just(json!({ "action": "SCMP_ACT_LOG" })),
        Just(json!({ "action": "SCMP_ACT_KILL_PROCESS" })),
        Just(json!({ "action": "SCMP_ACT_KILL_THREAD" })),
        Just(json!({ "action": "SCMP_ACT_TRAP" })),
        (1..4u32).prop_map(|errno| json!({ "action": "SCMP_ACT_ERRNO", "errnoRet": errno })),
        (1..4u32).prop_map(|data| json!({ "action": "SCMP_ACT_TRACE", "errnoRet": data })),
        Just(json!({ "action": "SCMP_ACT_KILL" })),
    ]
}

#[test]
fn a_decision_left_open_needs_somebody_who_makes_it() {
    let notify = |names: &[&str], path: &str| {
        json!({
            "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "m",
            "syscalls": [{ "names": names, "action": "SCMP_ACT_NOTIFY" }],
        })
    };
    let good = from_document(&notify(&["mkdir"], "/agent.sock")).unwrap();
    assert_eq!(good.listener, Some(Listener { path: "/agent.sock".into(), metadata: "m".into() }));
    assert_eq!(answer(&notify(&["mkdir"], "/agent.sock"), 83, 0), NOTIFY);

    let without = |key: &str, profile: Value| {
        let mut profile = profile;
        profile.as_object_mut().unwrap().remove(key);
        profile
    };
    let mut default = notify(&["mkdir"], "/agent.sock");
    default["defaultAction"] = "SCMP_ACT_NOTIFY".into();
    for (profile, part) in [
        (notify(&["mkdir", "write"], "/agent.sock"), "SCMP_ACT_NOTIFY cannot be used for the write syscall"),
        (default, "SCMP_ACT_NOTIFY cannot be used as default action"),
        (notify(&["mkdir"], "@abstract"), "not an absolute path"),
        (notify(&["mkdir"], ""), "listenerMetadata is set"),
        (without("listenerMetadata", notify(&["mkdir"], "")), "listenerPath is not set"),
        (without("listenerPath", without("syscalls", notify(&[], ""))), "listenerMetadata is set"),
    ] {
        let error = from_document(&profile).unwrap_err();
        assert!(error.what.contains(part), "{profile}: {error}");
    }
    let unused = json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/agent.sock", "listenerMetadata": "m" });
    assert_eq!(from_document(&unused).unwrap().listener, None, "a listener that nothing is left to is ignored");
}

#[test]
fn flags_are_the_kernels_and_each_is_known_to_it() {
    const SPEC_ALLOW: u32 = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32;
    const WAIT: u32 = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32;
    let flags = |flags: Value, action: &str| {
        let rule = json!({ "names": ["mkdir"], "action": action });
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "flags": flags, "syscalls": [rule], "listenerPath": "/agent.sock",
            "architectures": null,
        });
        from_document(&profile).unwrap().flags
    };
    for (names, expected) in [
        (Value::Null, SPEC_ALLOW),
        (json!([]), 0),
        (json!(["SECCOMP_FILTER_FLAG_TSYNC"]), 0),
        (json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]), 6),
        (json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]), 0),
    ] {
        assert_eq!(flags(names.clone(), "SCMP_ACT_ERRNO"), expected, "{names}");
    }
    assert_eq!(flags(json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]), "SCMP_ACT_NOTIFY"), WAIT);
    for (name, bit) in profile::FLAGS {
        assert!(kernel_takes(bit), "{name}");
    }
    assert!(!kernel_takes(1 << 30));
}

fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![0..6u64, Just(u64::from(u32::MAX)), (0..3u64).prop_map(|low| 1 << 32 | low), Just(u64::MAX)]
}

fn any_rule() -> impl Strategy<Value = Value> {
    let op = prop::sample::select(vec!["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"]);
    let argument = (0..2u32, any_number(), any_number(), op).prop_map(|(index, value, two, op)| {
        json!({ "index": index, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}") })
    });
    // Few calls with many rules, and many calls.
    let names = prop_oneof![prop::collection::vec(0..6usize, 1..3), prop::collection::vec(0..CALLS.len(), 1..60),];
    (names, any_action(), prop::collection::vec(argument, 0..4)).prop_map(|(names, mut rule, arguments)| {
        rule["names"] = names.iter().map(|index| CALLS[*index].0).collect();
        rule["args"] = arguments.into();
        rule
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_profile_is_kept_to_the_letter(
        default in any_action(),
        rules in prop::collection::vec(any_rule(), 0..12),
        arguments in prop::collection::vec([any_number(), any_number()], 8),
    ) {
        let mut profile = json!({
            "defaultAction": default["action"], "syscalls": rules,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        });
        if let Some(errno) = default.get("errnoRet") {
            profile["defaultErrnoRet"] = errno.clone();
        }
        let arguments: Vec<[u64; 6]> = arguments.iter().map(|[one, two]| [*one, *two, 0, 0, 0, 0]).collect();
        compare(&profile, Architecture::X86_64, &arguments)?;
    }
}

/// Runs `body` in a child under docker's profile. What it returns is the child's exit status.
fn confined(body: fn() -> i32) -> i32 {
    let program = from_document(&default_profile(&CAPABILITIES)).unwrap();
    // SAFETY: the child makes system calls only, and ends without touching what other threads may hold.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0);
        if pid == 0 {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            libc::_exit(if LoadFilter(&program).call().is_ok() { body() } else { 100 });
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
        if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
    }
}

/// The errno of a call, 0 if it succeeds.
fn errno_of(number: i64, one: u64, two: u64) -> i32 {
    // SAFETY: the calls made here take numbers, or null where they would take a pointer.
    match unsafe { libc::syscall(number, one, two, 0, 0, 0) } {
        -1 => std::io::Error::last_os_error().raw_os_error().unwrap_or(-1),
        _ => 0,
    }
}

#[test]
fn the_kernel_keeps_dockers_profile() {
    type Case = (&'static str, fn() -> i32, i32);
    let cases: [Case; 10] = [
        ("mount", || errno_of(libc::SYS_mount, 0, 0), libc::EPERM),
        ("clone3", || errno_of(libc::SYS_clone3, 0, 0), libc::ENOSYS),
        ("a call of the future", || errno_of(9999, 0, 0), libc::ENOSYS),
        ("personality 2.6", || errno_of(libc::SYS_personality, 0x20000, 0), 0),
        ("personality no random addresses", || errno_of(libc::SYS_personality, 0x0040000, 0), libc::EPERM),
        ("unshare user", || errno_of(libc::SYS_unshare, libc::CLONE_NEWUSER as u64, 0), libc::EPERM),
        ("unix socket", || errno_of(libc::SYS_socket, 1, 1), 0),
        ("vsock socket", || errno_of(libc::SYS_socket, 40, 1), libc::EPERM),
        ("alg socket by a number of 33 bits", || errno_of(libc::SYS_socket, 1 << 32 | 38, 5), libc::EPERM),
        ("io_uring", || errno_of(libc::SYS_io_uring_setup, 1, 0), libc::EPERM),
    ];
    for (name, body, expected) in cases {
        assert_eq!(confined(body), expected, "{name}");
    }
}

#[test]
fn a_program_runs_under_dockers_profile() {
    let run = || {
        let arguments =
            [c"/bin/sh".as_ptr(), c"-c".as_ptr(), c"ls / | cat >/dev/null && exit 7".as_ptr(), std::ptr::null()];
        // SAFETY: the arguments are strings with their zero bytes, and the list ends with null.
        unsafe { libc::execv(arguments[0], arguments.as_ptr()) }
    };
    assert_eq!(confined(run), 7);
}

/// A 32-bit program: its own table judges it, through the same filter.
#[test]
#[cfg(target_arch = "x86_64")]
fn i386_calls_are_judged_by_their_own_numbers() {
    fn int80(number: u32) -> i32 {
        let result: i32;
        // SAFETY: the old way into the kernel, with no pointers among the arguments.
        unsafe {
            std::arch::asm!("push rbx", "xor ebx, ebx", "int 0x80", "pop rbx", inlateout("eax") number => result,
                inout("ecx") 0 => _, inout("edx") 0 => _, lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _);
        }
        -result
    }
    // getpid is 20 there and 39 here, where 39 there is mkdir; 21 is mount there and access here.
    assert_eq!(confined(|| i32::from(int80(20) >= 0)), 0);
    assert_eq!(confined(|| int80(21)), libc::EPERM);
    assert_eq!(confined(|| int80(9999)), libc::ENOSYS);
}

/// What a filter costs: `cargo test -p mocker-exec --release -- --ignored --nocapture seccomp_figures`.
#[test]
#[ignore = "measures"]
fn seccomp_figures() {
    let profile = default_profile(&CAPABILITIES);
    let least = |body: &mut dyn FnMut()| {
        let times = (0..200).map(|_| {
            let begin = std::time::Instant::now();
            body();
            begin.elapsed()
        });
        times.min().unwrap_or_default()
    };
    let text = serde_json::to_string(&profile).unwrap();
    let program = from_document(&profile).unwrap();
    let parse = least(&mut || drop(serde_json::from_str::<Value>(&text)));
    let compile = least(&mut || drop(from_document(&profile)));
    let steps = run(&program.instructions, X86_64, 0, [0; 6]).1;
    println!("{} bytes of JSON, parsed in {parse:?}", text.len());
    println!(
        "{} instructions, read and compiled in {compile:?}, read(2) judged in {steps}",
        program.instructions.len()
    );
    // What a cache would cost at least: the profile as text again, for its hash, and a file that is opened and read.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![0; program.instructions.len() * 8]).unwrap();
    let again = least(&mut || drop(serde_json::to_vec(&profile)));
    let read = least(&mut || drop(std::fs::read(file.path())));
    println!("a cache: {again:?} for the text that is hashed, {read:?} to read the file");
    let status = confined(|| {
        let program = from_document(&default_profile(&CAPABILITIES)).unwrap();
        let begin = std::time::Instant::now();
        let loaded = LoadFilter(&program).call();
        println!("loaded in {:?} ({})", begin.elapsed(), loaded.is_ok());
        0
    });
    assert_eq!(status, 0);
}
