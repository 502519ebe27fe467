//! Which devices the group's processes may open.
//!
//! v1 has a controller for it: lines in devices.deny and devices.allow. v2 asks a BPF program instead. Without either, a
//! container's root could make a node for the machine's disk (mknod) and read it.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::cgroup::calls::{LineFile, WriteLine};
use crate::cgroup::device_policy::Policy;
use crate::cgroup::device_program;
use crate::cgroup::place::Group;
use crate::error::{Error, failed};
use crate::step::step;

/// One of `linux.resources.devices` (runtime-spec config-linux.md, Allowed Device list). Applied in order, the last match
/// decides.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Rule {
    pub allow: bool,
    /// c, b, or a (both), which is also the default
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// none or negative: any
    pub major: Option<i64>,
    pub minor: Option<i64>,
    /// of r (open for reading), w (for writing), m (mknod)
    pub access: Option<String>,
}

/// What a runtime allows every container besides its list: to make any node, and to open those that programs expect.
/// What is not here cannot be opened, whatever node is made. The same list as runc's.
pub fn defaults() -> Vec<Rule> {
    let rule = |kind: &str, major: Option<i64>, minor: Option<i64>, access: &str| Rule {
        allow: true,
        kind: Some(kind.into()),
        major,
        minor,
        access: Some(access.into()),
    };
    // null, zero, full, random, urandom, tty, ptmx, pts/*, net/tun
    let open = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, -1), (10, 200)];
    let open = open.map(|(major, minor)| rule("c", Some(major), Some(minor), "rwm"));
    [rule("c", None, None, "m"), rule("b", None, None, "m")].into_iter().chain(open).collect()
}

/// Makes the rules hold for a new group. Returns whether they do: false where there are none, or the machine cannot.
pub fn confine(group: &Group, rules: &[Rule]) -> Result<bool, Error> {
    enforce(group, rules, true)
}

/// The same, for a group that may have rules already.
pub fn enforce(group: &Group, rules: &[Rule], new: bool) -> Result<bool, Error> {
    for rule in rules {
        rule.check()?;
    }
    if rules.is_empty() {
        return Ok(false);
    }
    if let Some(directory) = group.of("devices") {
        return list(&directory, &Policy::of(rules)?).map(|()| true);
    }
    let Some(directory) = group.unified() else { return Ok(false) };
    // A program can do what a list of v1 cannot: take its rules as they are.
    let rules = Policy::of(rules).map(|policy| policy.rules()).unwrap_or_else(|_| closed(rules));
    device_program::attach(&directory, &rules, new)
}

/// Nothing is allowed but what the rules say.
fn closed(rules: &[Rule]) -> Vec<Rule> {
    std::iter::once(Rule::default()).chain(rules.iter().cloned()).collect()
}

/// v1: the lines by which what the group has differs from what it shall have; there is no moment in which all is allowed.
fn list(directory: &Path, target: &Policy) -> Result<(), Error> {
    let path = directory.join("devices.list");
    let present = fs::read_to_string(&path).map_err(failed("read", path.display()))?;
    // All lines for one file come before those for the other.
    for lines in Policy::read(&present).lines_to(target).chunk_by(|one, other| one.0 == other.0) {
        let allow = lines[0].0;
        let file = LineFile::open(directory.join(if allow { "devices.allow" } else { "devices.deny" }))?;
        for (_, line) in lines {
            let write = step(WriteLine { file: &file, line });
            match allow {
                false => write.because("a group starts with its parent's devices, disks included; nothing is allowed from here on but what follows")?,
                true => write.because("programs expect these: reading and writing them reaches no disk and no other process")?,
            }
        }
    }
    Ok(())
}

impl Rule {
    fn check(&self) -> Result<(), Error> {
        let kind = self.kind();
        let access = self.access();
        if !matches!(kind, "a" | "b" | "c") || access.is_empty() || !access.chars().all(|c| "rwm".contains(c)) {
            return Err(Error::new(format!("cannot use the device rule type '{kind}', access '{access}'"))
                .hint("type is a, b or c; access is made of r, w and m"));
        }
        Ok(())
    }

    pub fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or("a")
    }

    /// None: any.
    pub fn major(&self) -> Option<i64> {
        self.major.filter(|number| *number >= 0)
    }

    pub fn minor(&self) -> Option<i64> {
        self.minor.filter(|number| *number >= 0)
    }

    pub fn access(&self) -> &str {
        self.access.as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm")
    }

    /// Whether it is about every device and everything done with it.
    pub fn is_for_all(&self) -> bool {
        let access = self.access();
        let every = self.kind() == "a" && self.major().is_none() && self.minor().is_none();
        every && "rwm".chars().all(|letter| access.contains(letter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_rule_is_refused() {
        assert!(Rule { kind: Some("x".into()), ..Rule::default() }.check().is_err());
        assert!(Rule { access: Some("rx".into()), ..Rule::default() }.check().is_err());
        assert!(Rule::default().check().is_ok() && Rule::default().is_for_all());
    }

    #[test]
    fn a_runtime_allows_what_programs_expect() {
        let lines = Policy::default().lines_to(&Policy::of(&defaults()).unwrap());
        assert_eq!(lines.len(), 11);
        assert!(
            lines.contains(&(true, "c 136:* rwm".into())) && lines.contains(&(true, "b *:* m".into())),
            "{lines:?}"
        );
    }
}
