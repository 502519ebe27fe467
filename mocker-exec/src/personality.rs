//! What kind of kernel the container's programs are told they run on: a 64-bit one can pass for a 32-bit one.
//!
//! In: `linux.personality`. Before the seccomp filter, which may forbid the call. Source: personality(2); runtime-spec
//! config-linux.md, Personality.

use mocker_common::error::Error;
use mocker_common::step::{Cause, KernelCall, step};
use serde::Deserialize;

use crate::calls::explained;

/// `linux.personality`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Personality {
    pub domain: String,
    pub flags: Option<Vec<String>>,
}

/// linux/personality.h
const DOMAINS: [(&str, u32); 2] = [("LINUX", 0), ("LINUX32", 8)];

impl Personality {
    pub fn check(&self) -> Result<(), Error> {
        let refused = |what: String| Error::new(format!("cannot use linux.personality: {what}"));
        if let Some(flag) = self.flags.iter().flatten().next() {
            return Err(refused(format!("no flag '{flag}'")).hint("the specification defines none so far"));
        }
        match self.number() {
            Some(_) => Ok(()),
            None => Err(refused(format!("no domain '{}'", self.domain)).hint("LINUX, LINUX32")),
        }
    }

    pub fn apply(&self) -> Result<(), Error> {
        step(SetPersonality { domain: &self.domain, number: self.number().unwrap_or(0) })
            .because("asked for: a 32-bit program that asks for the machine is to be told i686, not x86_64")
    }

    fn number(&self) -> Option<u32> {
        DOMAINS.iter().find(|(name, _)| *name == self.domain).map(|(_, number)| *number)
    }
}

/// personality(2).
struct SetPersonality<'a> {
    domain: &'a str,
    number: u32,
}

explained!(SetPersonality<'a>, "personality(2)", |this| {
    call: format!("personality(PER_{})", this.domain),
    aim: format!("take on the personality {}", this.domain),
    by_hand: (if this.number == 8 { "setarch linux32 …" } else { "setarch linux64 …" }).to_string(),
});

impl KernelCall for SetPersonality<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        // SAFETY: takes a number.
        match unsafe { libc::syscall(libc::SYS_personality, self.number) } {
            -1 => Err(Cause::last()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_known_and_no_flag_is() {
        let check = |domain: &str, flags: &[&str]| {
            let flags = Some(flags.iter().map(ToString::to_string).collect());
            Personality { domain: domain.into(), flags }.check()
        };
        assert!(check("LINUX", &[]).is_ok() && check("LINUX32", &[]).is_ok());
        assert!(check("", &[]).is_err() && check("BSD", &[]).is_err() && check("LINUX", &["X"]).is_err());
    }
}
