//! A seccomp profile: `linux.seccomp` as the document spells it, and what it means.
//!
//! Source: runtime-spec config-linux.md, Seccomp; seccomp_rule_add(3) for what the comparisons mean.

use mocker_common::error::Error;
use serde::Deserialize;

/// `linux.seccomp`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp<'a> {
    #[serde(borrow)]
    pub default_action: &'a str,
    pub default_errno_ret: Option<u32>,
    pub architectures: Option<Vec<&'a str>>,
    pub flags: Option<Vec<&'a str>>,
    pub syscalls: Option<Vec<Syscalls<'a>>>,
    /// the socket of a process that decides what SCMP_ACT_NOTIFY leaves open
    pub listener_path: Option<&'a str>,
    /// what that process is told beside
    pub listener_metadata: Option<&'a str>,
}

/// One of its `syscalls`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Syscalls<'a> {
    #[serde(borrow)]
    pub names: Vec<&'a str>,
    pub action: &'a str,
    pub errno_ret: Option<u32>,
    pub args: Option<Vec<Argument<'a>>>,
}

/// One of their `args`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Argument<'a> {
    pub index: u32,
    pub value: u64,
    #[serde(default)]
    pub value_two: u64,
    #[serde(borrow)]
    pub op: &'a str,
}

/// What a filter answers (seccomp(2), SECCOMP_RET_*): an action above, its data in the low 16 bits.
pub mod answer {
    pub const KILL_PROCESS: u32 = 0x8000_0000;
    pub const KILL_THREAD: u32 = 0;
    pub const TRAP: u32 = 0x0003_0000;
    pub const ERRNO: u32 = 0x0005_0000;
    pub const NOTIFY: u32 = 0x7fc0_0000;
    pub const TRACE: u32 = 0x7ff0_0000;
    pub const LOG: u32 = 0x7ffc_0000;
    pub const ALLOW: u32 = 0x7fff_0000;
}

/// Every action of the specification: the answer, and whether errnoRet goes with it.
pub const ACTIONS: [(&str, u32, bool); 9] = [
    ("SCMP_ACT_ALLOW", answer::ALLOW, false),
    ("SCMP_ACT_ERRNO", answer::ERRNO, true),
    ("SCMP_ACT_KILL", answer::KILL_THREAD, false),
    ("SCMP_ACT_KILL_PROCESS", answer::KILL_PROCESS, false),
    ("SCMP_ACT_KILL_THREAD", answer::KILL_THREAD, false),
    ("SCMP_ACT_LOG", answer::LOG, false),
    ("SCMP_ACT_NOTIFY", answer::NOTIFY, false),
    ("SCMP_ACT_TRACE", answer::TRACE, true),
    ("SCMP_ACT_TRAP", answer::TRAP, false),
];

/// Makes a comparison of a value and a second one, that only SCMP_CMP_MASKED_EQ has.
type Operator = fn(u64, u64) -> Test;

/// Every comparison.
pub const OPERATORS: [(&str, Operator); 7] = [
    ("SCMP_CMP_EQ", |value, _| Test::Equal(value)),
    ("SCMP_CMP_GE", |value, _| Test::GreaterOrEqual(value)),
    ("SCMP_CMP_GT", |value, _| Test::Greater(value)),
    ("SCMP_CMP_LE", |value, _| Test::LessOrEqual(value)),
    ("SCMP_CMP_LT", |value, _| Test::Less(value)),
    ("SCMP_CMP_MASKED_EQ", Test::Masked),
    ("SCMP_CMP_NE", |value, _| Test::NotEqual(value)),
];

/// Every flag, as seccomp(2) takes it. TSYNC gives the filter to the process's other threads: it has none, and with a
/// listener the kernel refuses it.
pub const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_LOG", libc::SECCOMP_FILTER_FLAG_LOG as u32),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32),
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32),
];

/// Every architecture of the specification. Those that this machine does not run never make a call here.
pub const ARCHITECTURES: [&str; 23] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// A condition on one argument, of all its 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    pub argument: u32,
    pub test: Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    /// the bits of the mask must be those of the value
    Masked(u64, u64),
}

impl Seccomp<'_> {
    /// What is answered where no rule matches.
    pub fn default_answer(&self) -> Result<u32, Error> {
        answer(self.default_action, self.default_errno_ret)
    }

    /// What is answered to a call newer than the profile.
    ///
    /// The profile's author cannot have meant it. Refused with the profile's EPERM, the C library would give up; told
    /// that the kernel does not have the call, it falls back to an older one. A profile that lets pass what it does
    /// not name lets this pass too. As runc does.
    pub fn answer_to_newer(&self) -> Result<u32, Error> {
        Ok(match self.default_action {
            "SCMP_ACT_ALLOW" | "SCMP_ACT_LOG" | "SCMP_ACT_TRACE" => self.default_answer()?,
            _ => answer::ERRNO | libc::ENOSYS as u32,
        })
    }

    /// `flags` as seccomp(2) takes them. Without any the filter does not slow the processor down: it is for judging
    /// calls, not against speculation, as in runc.
    pub fn flag_bits(&self, notifies: bool) -> Result<u32, Error> {
        let Some(flags) = &self.flags else { return Ok(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32) };
        let bits = flags.iter().try_fold(0, |bits, flag| {
            let (_, bit) = FLAGS
                .iter()
                .find(|(known, _)| known == flag)
                .ok_or_else(|| unknown("flag", flag, &names(FLAGS.iter().map(|(name, _)| *name))))?;
            Ok(bits | bit)
        })?;
        // How to wait for a listener; where there is none the kernel refuses it.
        let waits = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32;
        Ok(if notifies { bits } else { bits & !waits })
    }

    /// Whom to tell, if any rule leaves the decision to another process.
    pub fn listener(&self) -> Result<Option<Listener>, Error> {
        let refused = |cause: &str| Error::new(format!("cannot use the seccomp profile: {cause}"));
        let path = self.listener_path.filter(|path| !path.is_empty());
        let metadata = self.listener_metadata.filter(|metadata| !metadata.is_empty());
        if path.is_none() && metadata.is_some() {
            return Err(
                refused("listenerMetadata is set and listenerPath is not").hint("jq .linux.seccomp.listenerPath")
            );
        }
        if self.default_action == "SCMP_ACT_NOTIFY" {
            return Err(refused("SCMP_ACT_NOTIFY cannot be used as default action")
                .why("every call would wait for the listener, those too by which the container is handed to it"));
        }
        let mut notify = self.rules().filter(|rule| rule.action == "SCMP_ACT_NOTIFY").peekable();
        if notify.peek().is_none() {
            return Ok(None); // listenerPath is then to be ignored (runtime-spec)
        }
        if notify.any(|rule| rule.names.contains(&"write")) {
            return Err(refused("SCMP_ACT_NOTIFY cannot be used for the write syscall").why(
                "a failure after the filter is loaded is told by write, and would wait for the listener for ever",
            ));
        }
        let path = path.ok_or_else(|| {
            refused("SCMP_ACT_NOTIFY is used, but listenerPath is not set")
                .why("the call would wait for another process to decide, for ever")
        })?;
        if !path.starts_with('/') {
            return Err(refused(&format!("listenerPath '{path}' is not an absolute path")));
        }
        Ok(Some(Listener { path: path.into(), metadata: metadata.unwrap_or_default().into() }))
    }

    pub fn rules(&self) -> impl Iterator<Item = &Syscalls<'_>> {
        self.syscalls.iter().flatten()
    }
}

/// Where the descriptor goes that notifications are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub path: String,
    pub metadata: String,
}

impl Syscalls<'_> {
    pub fn answer(&self) -> Result<u32, Error> {
        answer(self.action, self.errno_ret)
    }

    /// When the rule matches: if all conditions of any one list hold. A single empty list: always.
    ///
    /// The conditions of a rule are ANDed. But where an argument has two of them each is a rule of its own, as in runc:
    /// profiles in use count on "0 or 8".
    pub fn alternatives(&self) -> Result<Vec<Vec<Condition>>, Error> {
        let conditions: Vec<Condition> =
            self.args.iter().flatten().map(Argument::condition).collect::<Result<_, _>>()?;
        let twice = (0..6).any(|index| conditions.iter().filter(|condition| condition.argument == index).count() > 1);
        Ok(if twice { conditions.into_iter().map(|condition| vec![condition]).collect() } else { vec![conditions] })
    }
}

impl Argument<'_> {
    fn condition(&self) -> Result<Condition, Error> {
        if self.index > 5 {
            return Err(unknown("argument", &self.index.to_string(), "0 to 5: a system call has six"));
        }
        let (_, make) = OPERATORS
            .iter()
            .find(|(name, _)| *name == self.op)
            .ok_or_else(|| unknown("comparison", self.op, &names(OPERATORS.iter().map(|(name, _)| *name))))?;
        Ok(Condition { argument: self.index, test: make(self.value, self.value_two) })
    }
}

impl Test {
    pub fn holds(self, value: u64) -> bool {
        match self {
            Test::Equal(other) => value == other,
            Test::NotEqual(other) => value != other,
            Test::Less(other) => value < other,
            Test::LessOrEqual(other) => value <= other,
            Test::Greater(other) => value > other,
            Test::GreaterOrEqual(other) => value >= other,
            Test::Masked(mask, other) => value & mask == other,
        }
    }
}

/// An action and its errno as the kernel's answer.
fn answer(action: &str, errno: Option<u32>) -> Result<u32, Error> {
    let (_, answer, takes_errno) = ACTIONS
        .iter()
        .find(|(name, ..)| *name == action)
        .ok_or_else(|| unknown("action", action, &names(ACTIONS.iter().map(|(name, ..)| *name))))?;
    match (takes_errno, errno) {
        (true, _) => match errno.unwrap_or(libc::EPERM as u32) {
            data @ ..=4095 => Ok(answer | data),
            data => Err(unknown("errno", &data.to_string(), "errno -l; none is above 4095")),
        },
        (false, None) => Ok(*answer),
        (false, Some(_)) => Err(Error::new(format!("cannot use the seccomp profile: {action} has no errno to return"))
            .hint("leave out errnoRet; only SCMP_ACT_ERRNO and SCMP_ACT_TRACE take it")),
    }
}

fn names<'a>(known: impl Iterator<Item = &'a str>) -> String {
    known.collect::<Vec<_>>().join(", ")
}

pub fn unknown(kind: &str, name: &str, known: &str) -> Error {
    Error::new(format!("cannot use the seccomp profile: no {kind} '{name}'"))
        .why("a rule that is not understood may be the one that confines")
        .hint(known)
}
