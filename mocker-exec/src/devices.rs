//! /dev: the nodes that every program expects, and those that the document adds. Source: runtime-spec config-linux.md,
//! Default Devices; null(4), random(4), tty(4), pts(4).

use std::os::fd::AsFd;

use mocker_common::error::Error;
use mocker_common::step::step;
use rustix::fs::FileType;

use crate::calls::files::{MakeLink, MakeNode};
use crate::calls::mounts::{Bind, Target};
use crate::host_devices;
use crate::plan::{Device, Plan};
use crate::rootfs::Rootfs;

/// name, major, minor: all readable and writable by everybody
const DEFAULT: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Makes the nodes and links. The container's own /dev must be mounted; the umask must be 0.
pub fn make(plan: &Plan, rootfs: &Rootfs) -> Result<(), Error> {
    if plan.mounts.iter().any(|mount| mount.destination.trim_end_matches('/') == "/dev" && mount.kind != "tmpfs") {
        return Ok(()); // the host's own /dev was bound there: nothing is made in it
    }
    let dev = rootfs.ensure_dir("/dev", 0o755)?;
    for (name, major, minor) in DEFAULT {
        let node = MakeNode {
            parent: dev.descriptor.as_fd(),
            name,
            kind: FileType::CharacterDevice,
            major,
            minor,
            mode: 0o666,
            owner: (0, 0),
        };
        if host_devices::needed(plan) {
            host_devices::bind(&format!("/dev/{name}"), &node, rootfs)?;
            continue;
        }
        step(node)
            .because("programs fail without it, and the image cannot bring it: its files are unpacked, not trusted")?;
    }
    for (name, target) in LINKS {
        step(MakeLink { parent: dev.descriptor.as_fd(), name, target }).because(
            "shells and programs open these names; each leads to the process's own descriptors or terminals",
        )?;
    }
    plan.devices.iter().try_for_each(|device| make_asked(device, plan, rootfs))
}

fn make_asked(device: &Device, plan: &Plan, rootfs: &Rootfs) -> Result<(), Error> {
    let kind = match device.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => return Err(Error::new(format!("cannot make device {}: unknown type '{other}'", device.path))),
    };
    let (parent, name) = device.path.rsplit_once('/').unwrap_or(("", &device.path));
    let directory = rootfs.ensure_dir(if parent.is_empty() { "/" } else { parent }, 0o755)?;
    let node = MakeNode {
        parent: directory.descriptor.as_fd(),
        name,
        kind,
        major: device.major,
        minor: device.minor,
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        owner: (device.uid, device.gid),
    };
    if kind != FileType::Fifo && host_devices::needed(plan) {
        return host_devices::bind(&device.path, &node, rootfs);
    }
    step(node).because("the document gives the container this device")
}

/// Shows the container's terminal as /dev/console.
pub fn bind_console(rootfs: &Rootfs, terminal: &Target) -> Result<(), Error> {
    let console = rootfs.ensure_file("/dev/console")?;
    let bind = Bind { source: &terminal.path(), source_shown: &terminal.shown, target: &console, recursive: false };
    step(bind).because("init programs write to the console; it is this container's terminal, not the host's")
}
