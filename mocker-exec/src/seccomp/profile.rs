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
    #[serde(default)]
    pub architectures: Vec<&'a str>,
    #[serde(default)]
    pub flags: Vec<&'a str>,
    #[serde(default)]
    pub syscalls: Vec<Syscalls<'a>>,
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
    pub const TRACE: u32 = 0x7ff0_0000;
    pub const LOG: u32 = 0x7ffc_0000;
    pub const ALLOW: u32 = 0x7fff_0000;
}

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

    /// `flags` as seccomp(2) takes them.
    pub fn flag_bits(&self) -> Result<u32, Error> {
        self.flags.iter().try_fold(0, |bits, flag| {
            Ok(bits
                | match *flag {
                    "SECCOMP_FILTER_FLAG_TSYNC" => libc::SECCOMP_FILTER_FLAG_TSYNC,
                    "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
                    "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                    // Concerns a listener only, and we refuse the one action that needs one.
                    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => 0,
                    _ => return Err(unknown("flag", flag, "SECCOMP_FILTER_FLAG_LOG, …_SPEC_ALLOW, …_TSYNC")),
                } as u32)
        })
    }
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
        let test = match self.op {
            "SCMP_CMP_EQ" => Test::Equal(self.value),
            "SCMP_CMP_NE" => Test::NotEqual(self.value),
            "SCMP_CMP_LT" => Test::Less(self.value),
            "SCMP_CMP_LE" => Test::LessOrEqual(self.value),
            "SCMP_CMP_GT" => Test::Greater(self.value),
            "SCMP_CMP_GE" => Test::GreaterOrEqual(self.value),
            "SCMP_CMP_MASKED_EQ" => Test::Masked(self.value, self.value_two),
            _ => return Err(unknown("comparison", self.op, "SCMP_CMP_EQ, …_NE, …_LT, …_LE, …_GT, …_GE, …_MASKED_EQ")),
        };
        Ok(Condition { argument: self.index, test })
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
    let data = errno.unwrap_or(libc::EPERM as u32);
    let answer = match action {
        "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE" if data > 4095 => {
            return Err(unknown("errno", &data.to_string(), "errno -l; none is above 4095"));
        }
        "SCMP_ACT_ERRNO" => return Ok(answer::ERRNO | data),
        "SCMP_ACT_TRACE" => return Ok(answer::TRACE | data),
        "SCMP_ACT_ALLOW" => answer::ALLOW,
        "SCMP_ACT_LOG" => answer::LOG,
        "SCMP_ACT_TRAP" => answer::TRAP,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => answer::KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => answer::KILL_PROCESS,
        "SCMP_ACT_NOTIFY" => {
            return Err(Error::new("cannot use the seccomp profile: mocker-exec has no listener for SCMP_ACT_NOTIFY")
                .why("the call would wait for another process to decide, for ever"));
        }
        _ => return Err(unknown("action", action, "SCMP_ACT_ALLOW, …_ERRNO, …_KILL_PROCESS, …_LOG, …_TRACE, …_TRAP")),
    };
    match errno {
        Some(_) => Err(Error::new(format!("cannot use the seccomp profile: {action} has no errno to return"))
            .hint("leave out errnoRet; only SCMP_ACT_ERRNO and SCMP_ACT_TRACE take it")),
        None => Ok(answer),
    }
}

pub fn unknown(kind: &str, name: &str, known: &str) -> Error {
    Error::new(format!("cannot use the seccomp profile: no {kind} '{name}'"))
        .why("a rule that is not understood may be the one that confines")
        .hint(known)
}
