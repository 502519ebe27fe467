//! Which devices the group's processes may open.
//!
//! v1 has a controller for it: lines in devices.deny and devices.allow. v2 asks a BPF program instead. Without either, a
//! container's root could make a node for the machine's disk (mknod) and read it.

use std::path::Path;

use crate::error::Error;
use crate::step::step;
use serde::Deserialize;

use crate::cgroup::calls::WriteFile;
use crate::cgroup::device_program;
use crate::cgroup::hierarchy::Group;

/// One of `linux.resources.devices` (runtime-spec config-linux.md, Allowed Device list). Applied in order, the last match
/// decides.
#[derive(Clone, Debug, Default, Deserialize)]
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

/// Makes the rules hold for the group. Returns whether they do: false where there are none, or the machine cannot.
pub fn confine(group: &Group, rules: &[Rule]) -> Result<bool, Error> {
    for rule in rules {
        rule.check()?;
    }
    match (rules.is_empty(), group.of("devices"), group.unified()) {
        (true, _, _) => Ok(false),
        (false, Some(directory), _) => list(&directory, rules).map(|()| true),
        (false, None, Some(directory)) => device_program::attach(&directory, rules),
        (false, None, None) => Ok(false),
    }
}

/// v1: first nothing is allowed, then what the rules name; there is no moment in which all is.
fn list(directory: &Path, rules: &[Rule]) -> Result<(), Error> {
    for rule in rules {
        let (file, line) = rule.line();
        let path = directory.join(file);
        let write = step(WriteFile { path: &path, value: &line });
        match rule.allow {
            false => write.because("a group starts with its parent's devices, disks included; nothing is allowed from here on but what follows")?,
            true => write.because("programs expect these: reading and writing them reaches no disk and no other process")?,
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

    /// The file and the line for it: `devices.allow`, `c 1:3 rwm`. `a` alone stands for everything.
    fn line(&self) -> (&'static str, String) {
        let file = if self.allow { "devices.allow" } else { "devices.deny" };
        let number =
            |number: Option<i64>| number.filter(|number| *number >= 0).map_or("*".into(), |number| number.to_string());
        let (major, minor) = (number(self.major), number(self.minor));
        let line = match self.kind.as_deref().unwrap_or("a") {
            "a" if major == "*" && minor == "*" => "a".into(),
            kind => format!("{kind} {major}:{minor} {}", self.access()),
        };
        (file, line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_the_lines_of_v1() {
        let rule = |json: serde_json::Value| serde_json::from_value::<Rule>(json).unwrap().line();
        assert_eq!(rule(serde_json::json!({"allow": false, "access": "rwm"})), ("devices.deny", "a".into()));
        assert_eq!(
            rule(serde_json::json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"})),
            ("devices.allow", "c 1:3 rw".into())
        );
        assert_eq!(
            rule(serde_json::json!({"allow": true, "type": "b", "major": 8, "minor": -1})),
            ("devices.allow", "b 8:* rwm".into())
        );
        assert!(Rule { kind: Some("x".into()), ..Rule::default() }.check().is_err());
        assert!(Rule { access: Some("rx".into()), ..Rule::default() }.check().is_err());
    }
}
