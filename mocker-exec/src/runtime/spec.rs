//! `spec`: a config.json to begin with: a shell in `rootfs`, with what runc gives by default.

use std::path::Path;

use mocker_common::error::{Error, failed};
use serde_json::{Value, json};

/// Writes config.json into the bundle. One that is there stays.
pub fn spec(bundle: Option<&Path>, rootless: bool) -> Result<(), Error> {
    let directory = bundle.unwrap_or(Path::new("."));
    let path = directory.join("config.json");
    if path.exists() {
        return Err(Error::new(format!("File {} exists. Remove it first", path.display())));
    }
    let text = format!("{:#}\n", example(rootless));
    std::fs::write(&path, text).map_err(failed("write", path.display()))
}

fn example(rootless: bool) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
    let mut document = json!({
        "ociVersion": "1.3.0",
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "mocker",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                { "type": "cgroup" }
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    });
    if rootless {
        make_rootless(&mut document);
    }
    document
}

/// A caller who is not root: one id, its own, is root inside; no network of its own, no groups, no gid 5 for terminals.
fn make_rootless(document: &mut Value) {
    let linux = &mut document["linux"];
    let mapping = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
    linux["uidMappings"] = mapping(rustix::process::geteuid().as_raw());
    linux["gidMappings"] = mapping(rustix::process::getegid().as_raw());
    linux["namespaces"] = json!([{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "cgroup" }, { "type": "user" }]);
    linux["resources"] = Value::Null;
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    for mount in document["mounts"].as_array_mut().into_iter().flatten() {
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| option != "gid=5");
        }
        if mount["destination"] == "/sys" {
            *mount = json!({
                "destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_can_be_planned_and_the_rootless_one_maps_the_caller() {
        assert_eq!(example(false)["linux"]["namespaces"].as_array().unwrap().len(), 6);
        let rootless = example(true);
        assert_eq!(rootless["linux"]["uidMappings"][0]["size"], 1);
        assert!(rootless["linux"].get("resources").is_none());
        assert!(!rootless.to_string().contains("gid=5"));
    }
}
