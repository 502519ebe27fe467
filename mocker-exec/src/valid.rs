//! What the specification calls an error in a configuration, where nothing else would notice.
//!
//! Pure: reads the document alone. Source: runtime-spec config.md (Valid values) and config-linux.md.

use std::collections::BTreeMap;

use mocker_common::document::Document;
use mocker_common::error::Error;
use mocker_common::hooks::Hook;
use serde_json::Value;

use crate::plan::{Namespace, Rlimit};

/// Refuses what a runtime must refuse.
pub fn check(document: &Document) -> Result<(), Error> {
    version(document.get("/ociVersion"))?;
    hooks(&document.view("/hooks")?)?;
    annotations(document.get("/annotations"))?;
    let limits: Vec<Rlimit> = document.view("/process/rlimits")?;
    once("process.rlimits", limits.iter().map(|limit| limit.kind.as_str()))?;
    let namespaces: Vec<Namespace> = document.view("/linux/namespaces")?;
    once("linux.namespaces", namespaces.iter().map(|namespace| namespace.kind.as_str()))?;
    let sysctls: BTreeMap<String, String> = document.view("/linux/sysctl")?;
    sysctls.keys().try_for_each(|name| sysctl(name, &namespaces))?;
    propagation(document.text("/linux/rootfsPropagation").unwrap_or_default())
}

fn propagation(kind: &str) -> Result<(), Error> {
    // With an r before, as mount(8) has it: for all mounts below.
    match kind.strip_prefix('r').unwrap_or(kind) {
        "" | "shared" | "slave" | "private" | "unbindable" => Ok(()),
        _ => Err(Error::new(format!("cannot run the container: {kind} is no linux.rootfsPropagation"))),
    }
}

/// The 1.x series is compatible within itself, and with nothing else.
fn version(version: Option<&Value>) -> Result<(), Error> {
    let Some(version) = version else { return Ok(()) };
    let text = version.as_str().unwrap_or_default();
    let numbers: Vec<&str> = text.split(['-', '+']).next().unwrap_or_default().split('.').collect();
    let is_version = numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok());
    match is_version && numbers[0] == "1" {
        true => Ok(()),
        false => Err(Error::new(format!("cannot run a bundle of ociVersion {version}"))
            .why("its fields may mean something else there; those of 1.0.0 to 1.3.0 are known")),
    }
}

fn hooks(kinds: &BTreeMap<String, Value>) -> Result<(), Error> {
    const KINDS: [&str; 6] =
        ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    for (kind, list) in kinds.iter().filter(|(kind, _)| KINDS.contains(&kind.as_str())) {
        let refused = |cause: String| Error::new(format!("cannot run the container: in hooks.{kind}, {cause}"));
        let hooks: Option<Vec<Hook>> =
            serde_json::from_value(list.clone()).map_err(|cause| refused(cause.to_string()))?;
        for hook in hooks.into_iter().flatten() {
            if !hook.path.starts_with('/') {
                return Err(refused(format!("the path {:?} is not absolute", hook.path)));
            }
            if hook.timeout == Some(0) {
                return Err(refused(format!("{} has a timeout of no time", hook.path)));
            }
        }
    }
    Ok(())
}

fn annotations(annotations: Option<&Value>) -> Result<(), Error> {
    let Some(annotations) = annotations else { return Ok(()) };
    let is_valid =
        annotations.as_object().is_some_and(|map| map.iter().all(|(key, value)| !key.is_empty() && value.is_string()));
    match is_valid {
        true => Ok(()),
        false => Err(Error::new("cannot run the container: annotations are strings by names that are not empty")),
    }
}

/// Of two entries of a kind nobody knows which one was meant.
fn once<'a>(list: &str, kinds: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let mut seen = Vec::new();
    for kind in kinds {
        if seen.contains(&kind) {
            return Err(Error::new(format!("cannot run the container: {list} has {kind} twice")));
        }
        seen.push(kind);
    }
    Ok(())
}

/// Sysctls of a namespace, by the beginning of their names. All others are the whole machine's.
const SYSCTLS: [(&str, &str); 12] = [
    ("net.", "network"),
    ("fs.mqueue.", "ipc"),
    ("kernel.msgmax", "ipc"),
    ("kernel.msgmnb", "ipc"),
    ("kernel.msgmni", "ipc"),
    ("kernel.sem", "ipc"),
    ("kernel.shmall", "ipc"),
    ("kernel.shmmax", "ipc"),
    ("kernel.shmmni", "ipc"),
    ("kernel.shm_rmid_forced", "ipc"),
    ("kernel.domainname", "uts"),
    ("user.", "user"),
];

/// A sysctl may be set if it belongs to a namespace that is not the runtime's own.
fn sysctl(name: &str, namespaces: &[Namespace]) -> Result<(), Error> {
    let dotted = name.replace('/', ".");
    let belongs = |known: &str| if known.ends_with('.') { dotted.starts_with(known) } else { dotted == known };
    let owner = SYSCTLS.iter().find(|(known, _)| belongs(known)).map(|(_, kind)| *kind);
    match owner {
        Some(kind) if namespaces.iter().any(|namespace| namespace.kind == kind) => Ok(()),
        Some(kind) => Err(Error::new(format!("cannot set sysctl {name}: the container has no {kind} namespace"))
            .why("in the host's it would be the whole machine's")),
        None => Err(Error::new(format!("cannot set sysctl {name}: it is not in a separate kernel namespace"))
            .why("it would be the whole machine's, and stay when the container is gone")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_configuration_is_refused_for_what_the_specification_calls_an_error() {
        let ok = |config: Value| check(&Document::parse(config.to_string().as_bytes()).unwrap()).is_ok();
        for version in ["1.0.0", "1.0.2-dev", "1.0.0-rc5", "1.1.0+dev", "1.3.0"] {
            assert!(ok(json!({"ociVersion": version})), "{version}");
        }
        for version in [json!("2.0.0"), json!(""), json!("1.0"), json!("one"), json!(1)] {
            assert!(!ok(json!({"ociVersion": version})), "{version}");
        }
        let hook = |hook: Value| ok(json!({"hooks": {"poststop": [hook]}}));
        assert!(hook(json!({"path": "/bin/true", "timeout": 1})));
        assert!(ok(json!({"hooks": {"poststop": null, "unknown": [{"path": 1}]}})));
        assert!(!hook(json!({"path": "true"})));
        assert!(!hook(json!({"path": "/bin/true", "timeout": 0})));
        assert!(!hook(json!({"path": "/bin/true", "timeout": -1})));
        assert!(!hook(json!({})));
        let sysctl =
            |name: &str, kind: &str| ok(json!({"linux": {"sysctl": {name: "1"}, "namespaces": [{"type": kind}]}}));
        assert!(sysctl("net.ipv4.ip_forward", "network") && sysctl("net/core/somaxconn", "network"));
        assert!(sysctl("kernel.sem", "ipc") && sysctl("fs.mqueue.msg_max", "ipc"));
        assert!(!sysctl("net.ipv4.ip_forward", "ipc") && !sysctl("kernel.seminar", "ipc"));
        assert!(!sysctl("vm.swappiness", "network") && !sysctl("kernel.core_pattern", "uts"));
    }
}
