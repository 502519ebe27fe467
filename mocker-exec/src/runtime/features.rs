//! `features`: what this runtime knows, for engines that ask before they use it.
//!
//! Every list comes from the table that the code itself works with, so that none can promise what is not done. What the
//! host's kernel has is no question here, but for the seccomp flags that it supports.
//! Source: runtime-spec features.md, features-linux.md.

use std::io::Write;

use mocker_common::error::{Error, failed};
use serde_json::{Value, json};

use crate::seccomp::{kernel_takes, profile};
use crate::{capabilities, memory_policy, mounts, namespaces};

/// Hooks in the order of a container's life. The test below holds them to what the plan reads.
const HOOKS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Prints the features document.
pub fn print() -> Result<(), Error> {
    let text = serde_json::to_string_pretty(&features()).unwrap_or_default(); // names and truth values always serialise
    writeln!(std::io::stdout(), "{text}").map_err(failed("write", "standard output"))
}

/// The features document.
pub fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.3.0",
        "hooks": HOOKS,
        "mountOptions": mounts::known_options().collect::<Vec<_>>(),
        "linux": {
            "namespaces": sorted(namespaces::known_kinds()),
            "capabilities": capabilities::NAMES.to_vec(),
            "cgroup": { "v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": true },
            "seccomp": seccomp(),
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": false, "schemata": false, "monitoring": false },
            "memoryPolicy": {
                "modes": names(memory_policy::MODES.iter().map(|(name, _)| *name)),
                "flags": names(memory_policy::FLAGS.iter().map(|(name, _)| *name)),
            },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": true },
        },
        "annotations": { "io.mocker.exec.version": env!("CARGO_PKG_VERSION") },
        "potentiallyUnsafeConfigAnnotations": [],
    })
}

fn seccomp() -> Value {
    json!({
        "enabled": true,
        "actions": names(profile::ACTIONS.iter().map(|(name, ..)| *name)),
        "operators": names(profile::OPERATORS.iter().map(|(name, _)| *name)),
        "archs": profile::ARCHITECTURES.to_vec(),
        "knownFlags": names(profile::FLAGS.iter().map(|(name, _)| *name)),
        "supportedFlags": names(profile::FLAGS.iter().filter(|(_, bit)| kernel_takes(*bit)).map(|(name, _)| *name)),
    })
}

fn names(names: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    names.collect()
}

fn sorted(names: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::plan::Hooks;
    use crate::seccomp;

    fn list<'a>(features: &'a Value, pointer: &str) -> Vec<&'a str> {
        let list = features.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("{pointer}"));
        list.iter().map(|name| name.as_str().unwrap()).collect()
    }

    #[test]
    fn each_hook_is_read_by_the_plan_or_by_the_end() {
        for name in HOOKS.iter().filter(|name| **name != "poststop") {
            let hooks = Hooks::deserialize(json!({ *name: [{ "path": "/x" }] })).unwrap();
            let all =
                [hooks.prestart, hooks.create_runtime, hooks.create_container, hooks.start_container, hooks.poststart];
            assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 1, "{name}");
        }
    }

    #[test]
    fn each_name_of_seccomp_can_be_used() {
        let features = features();
        let profile = |rule: Value, architectures: &[&str], flags: &[&str]| {
            let profile = json!({
                "defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "flags": flags,
                "listenerPath": "/agent", "syscalls": [rule],
            });
            seccomp::from_document(&profile)
        };
        for action in list(&features, "/linux/seccomp/actions") {
            profile(json!({ "names": ["mkdir"], "action": action }), &[], &[]).unwrap();
        }
        for op in list(&features, "/linux/seccomp/operators") {
            let args = json!([{ "index": 0, "value": 1, "valueTwo": 1, "op": op }]);
            profile(json!({ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": args }), &[], &[]).unwrap();
        }
        let (archs, flags) = (list(&features, "/linux/seccomp/archs"), list(&features, "/linux/seccomp/knownFlags"));
        profile(json!({ "names": ["mkdir"], "action": "SCMP_ACT_ERRNO" }), &archs, &flags).unwrap();
        assert_eq!(list(&features, "/linux/seccomp/supportedFlags"), flags, "a kernel since 5.19 has them all");
    }

    #[test]
    fn each_capability_namespace_and_policy_is_known() {
        let features = features();
        let names = list(&features, "/linux/capabilities");
        let (sets, unknown) = capabilities::Sets::from_document(&json!({ "bounding": names })).unwrap();
        assert_eq!((sets.bounding.count_ones() as usize, unknown.len()), (names.len(), 0));
        let kinds = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];
        assert_eq!(list(&features, "/linux/namespaces"), kinds);
        for mode in list(&features, "/linux/memoryPolicy/modes") {
            let flags = list(&features, "/linux/memoryPolicy/flags");
            let policy = json!({ "mode": mode, "nodes": "0", "flags": flags });
            serde_json::from_value::<memory_policy::MemoryPolicy>(policy).unwrap().check().unwrap();
        }
        for option in list(&features, "/mountOptions") {
            assert!(mounts::known_options().any(|known| known == option), "{option}");
        }
    }
}
