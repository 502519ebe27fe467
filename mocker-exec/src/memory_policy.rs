//! Which NUMA nodes the container's memory comes from: a policy of the process that its children inherit.
//!
//! In: `linux.memoryPolicy`. Needs no privilege; nodes outside the cgroup's cpuset are the kernel's to refuse.
//! Source: set_mempolicy(2); runtime-spec config-linux.md, Memory policy.

use mocker_common::error::Error;
use mocker_common::step::{Cause, Diagnosis, KernelCall, diagnosis, step};
use serde::Deserialize;

use crate::calls::explained;
use crate::ranges::BitSet;

/// `linux.memoryPolicy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct MemoryPolicy {
    pub mode: String,
    pub nodes: String,
    pub flags: Option<Vec<String>>,
}

/// By number (linux/mempolicy.h).
pub const MODES: [(&str, i32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];

pub const FLAGS: [(&str, i32); 3] =
    [("MPOL_F_NUMA_BALANCING", 1 << 13), ("MPOL_F_RELATIVE_NODES", 1 << 14), ("MPOL_F_STATIC_NODES", 1 << 15)];

impl MemoryPolicy {
    fn asks_for_nothing(&self) -> bool {
        self.mode.is_empty() && self.nodes.is_empty() && self.flags.iter().flatten().next().is_none()
    }

    pub fn check(&self) -> Result<(), Error> {
        self.call().map(drop)
    }

    /// Sets the policy of this process; an empty object asks for none.
    pub fn apply(&self) -> Result<(), Error> {
        match self.call()? {
            Some(call) => {
                step(call).because("asked for: memory of a far node is slower, and another's node is not to be filled")
            }
            None => Ok(()),
        }
    }

    fn call(&self) -> Result<Option<SetPolicy<'_>>, Error> {
        if self.asks_for_nothing() {
            return Ok(None);
        }
        let find = |table: &[(&str, i32)], name: &str, kind: &str| {
            let known = table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            known.ok_or_else(|| {
                let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
                Error::new(format!("cannot use linux.memoryPolicy: invalid memory policy {kind} '{name}'"))
                    .hint(names.join(", "))
            })
        };
        let mode = find(&MODES, &self.mode, "mode")?;
        let flags = self.flags.iter().flatten().try_fold(0, |all, flag| Ok(all | find(&FLAGS, flag, "flag")?))?;
        let nodes = BitSet::parse(&self.nodes, "memory policy node")
            .map_err(|error| error.while_doing("cannot use linux.memoryPolicy"))?;
        Ok(Some(SetPolicy { policy: self, mode: mode | flags, nodes }))
    }
}

/// set_mempolicy(2).
struct SetPolicy<'a> {
    policy: &'a MemoryPolicy,
    mode: i32,
    nodes: BitSet,
}

explained!(SetPolicy<'a>, "set_mempolicy(2)", |this| {
    call: format!(
        "set_mempolicy({}, {{{}}})",
        std::iter::once(&this.policy.mode).chain(this.policy.flags.iter().flatten()).cloned().collect::<Vec<_>>().join("|"),
        this.policy.nodes,
    ),
    aim: format!("set the memory policy {}", this.policy.mode),
    by_hand: match this.policy.mode.as_str() {
        "MPOL_BIND" => format!("numactl --membind={} …", this.policy.nodes),
        "MPOL_INTERLEAVE" => format!("numactl --interleave={} …", this.policy.nodes),
        "MPOL_PREFERRED" => format!("numactl --preferred={} …", this.policy.nodes),
        _ => String::new(),
    },
    diagnose: |errno| match errno {
        libc::EINVAL => diagnosis(
            "invalid argument: the mode takes no nodes or needs some, none of them has memory or is in the cpuset, or the flags \
             exclude each other (static and relative)",
            "cat /sys/devices/system/node/has_memory; grep Mems_allowed_list /proc/self/status",
        ),
        libc::ENOSYS => diagnosis("the kernel was built without CONFIG_NUMA", "zgrep NUMA /proc/config.gz"),
        libc::EPERM => diagnosis("a seccomp filter outside forbids set_mempolicy", "grep Seccomp /proc/self/status"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for SetPolicy<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let words = self.nodes.words();
        // The kernel reads one bit less than it is told of (get_nodes in mm/mempolicy.c).
        let bits = if words.is_empty() { 0 } else { words.len() * 64 + 1 };
        let mask = if words.is_empty() { std::ptr::null() } else { words.as_ptr() };
        // SAFETY: mask and length describe the words, which the kernel reads during the call.
        match unsafe { libc::syscall(libc::SYS_set_mempolicy, self.mode, mask, bits) } {
            -1 => Err(Cause::last()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use mocker_common::step::Explained;
    use serde_json::{Value, json};

    use super::*;

    fn policy(json: Value) -> MemoryPolicy {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn modes_stand_at_their_numbers() {
        assert!(MODES.iter().enumerate().all(|(place, (_, number))| place as i32 == *number));
    }

    #[test]
    fn a_policy_is_read_and_prints_as_it_was_asked_for() {
        let asked = policy(json!({ "mode": "MPOL_BIND", "nodes": "0,2-3", "flags": ["MPOL_F_STATIC_NODES"] }));
        let call = asked.call().unwrap().unwrap();
        assert_eq!((call.mode, call.nodes.words()), (2 | 1 << 15, &[0b1101][..]));
        assert_eq!(call.to_string(), "set_mempolicy(MPOL_BIND|MPOL_F_STATIC_NODES, {0,2-3})");
        assert_eq!(call.by_hand(), "numactl --membind=0,2-3 …");
        assert!(policy(json!({})).call().unwrap().is_none());
        assert!(policy(json!({ "mode": "MPOL_DEFAULT", "flags": null })).call().unwrap().is_some());
    }

    #[test]
    fn a_policy_that_is_none_is_refused_as_runc_words_it() {
        for (json, part) in [
            (json!({ "mode": "INTERLEAVE", "nodes": "0" }), "invalid memory policy mode"),
            (json!({ "nodes": "0-7" }), "invalid memory policy mode"),
            (json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["badflag"] }), "invalid memory policy flag"),
            (json!({ "mode": "MPOL_BIND", "nodes": "0-9876543210" }), "invalid memory policy node"),
        ] {
            let error = policy(json.clone()).check().unwrap_err();
            assert!(error.what.contains(part), "{json}: {error}");
        }
    }
}
