//! The default document: what is isolated, allowed and masked unless the user says otherwise. It is docker's choice.
//!
//! Each default is one row of a table here; README's "What a container may do" prints the same rows.

use serde_json::{Value, json};

use crate::seccomp_profile;

/// Where programs are looked up unless the image says otherwise.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The capabilities a container's root keeps (capabilities(7)); every other is dropped.
pub const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The namespaces a container gets of its own (namespaces(7)). The network one is empty until mocker-net puts one that
/// it has plumbed in its place.
pub const NAMESPACES: [&str; 6] = ["mount", "uts", "ipc", "pid", "network", "cgroup"];

/// destination, type, source, options
pub const MOUNTS: [(&str, &str, &str, &[&str]); 7] = [
    ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
    ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
];

/// Files of the kernel that tell about the host or steer it: hidden.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Files of the kernel that may be read but not written.
pub const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The devices a container may open: type, major, minor (−1: any), access. Everything else is denied.
pub const DEVICES: [(&str, i64, i64, &str); 11] = [
    ("c", -1, -1, "m"), // making a node is harmless, opening it is what counts
    ("b", -1, -1, "m"),
    ("c", 1, 3, "rwm"),    // null
    ("c", 1, 5, "rwm"),    // zero
    ("c", 1, 7, "rwm"),    // full
    ("c", 1, 8, "rwm"),    // random
    ("c", 1, 9, "rwm"),    // urandom
    ("c", 5, 0, "rwm"),    // tty
    ("c", 5, 1, "rwm"),    // console
    ("c", 5, 2, "rwm"),    // ptmx
    ("c", 136, -1, "rwm"), // pts
];

/// The default OCI runtime configuration: no image, a shell in `rootfs`.
pub fn configuration() -> Value {
    let mounts: Vec<Value> = MOUNTS
        .iter()
        .map(|(destination, kind, source, options)| {
            json!({ "destination": destination, "type": kind, "source": source, "options": options })
        })
        .collect();
    let namespaces: Vec<Value> = NAMESPACES.iter().map(|kind| json!({ "type": kind })).collect();
    json!({
        "ociVersion": "1.3.0",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": [format!("PATH={PATH}")],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": CAPABILITIES,
                "permitted": CAPABILITIES,
            },
            "noNewPrivileges": false,
        },
        "root": { "path": "rootfs", "readonly": false },
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces,
            "resources": { "devices": device_rules() },
            "seccomp": seccomp_profile::default_profile(&CAPABILITIES),
            "maskedPaths": MASKED_PATHS,
            "readonlyPaths": READONLY_PATHS,
        },
        "mocker": { "version": crate::document::VERSION },
    })
}

/// Deny all, then allow the table: in this order, so that there is no moment at which all is allowed.
fn device_rules() -> Vec<Value> {
    let allowed = DEVICES.iter().map(|(kind, major, minor, access)| {
        let mut rule = json!({ "allow": true, "type": kind, "access": access });
        for (key, number) in [("major", *major), ("minor", *minor)] {
            if number >= 0 {
                rule[key] = number.into();
            }
        }
        rule
    });
    std::iter::once(json!({ "allow": false, "access": "rwm" })).chain(allowed).collect()
}
