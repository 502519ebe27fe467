//! /dev: the nodes that every program expects, and those that the document adds. Source: runtime-spec config-linux.md,
//! Devices, Default Devices; null(4), random(4), tty(4), pts(4).

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use mocker_common::error::{Error, failed};
use mocker_common::step::step;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, fstatfs, openat, statat};

use crate::calls::files::{MakeFile, MakeLink, MakeNode};
use crate::calls::mounts::{Bind, Target};
use crate::host_devices;
use crate::plan::{Device, Plan};
use crate::rootfs::{Rootfs, split};

/// name, major, minor: all readable and writable by everybody
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Makes the nodes and links. The container's own /dev must be mounted; the umask must be 0.
pub fn make(plan: &Plan, rootfs: &Rootfs) -> Result<(), Error> {
    if plan.mounts.iter().any(is_bound_dev) {
        return Ok(()); // the host's own /dev was bound there: nothing is made in it
    }
    let dev = rootfs.ensure_dir("/dev", 0o755)?;
    let from_host = host_devices::needed(plan);
    // What the document says of a device that there would be anyway holds: it may give it another owner or mode.
    let asked = |path: &str| plan.devices.iter().any(|device| Path::new(&device.path) == Path::new(path));
    for (path, major, minor) in DEFAULT.into_iter().filter(|(path, ..)| !asked(path)) {
        let kind = FileType::CharacterDevice;
        let (_, name) = split(path);
        let node = MakeNode {
            parent: dev.descriptor.as_fd(),
            name,
            shown: path,
            kind,
            major,
            minor,
            mode: 0o666,
            owner: (0, 0),
        };
        let why = "programs fail without it, and the image cannot bring it: its files are unpacked, not trusted";
        match place(node, rootfs, from_host, why) {
            Err(error) if error.errno == libc::EEXIST => {} // the image has another file there: as it wants
            outcome => outcome?,
        }
    }
    for (name, target) in LINKS {
        link(&dev, name, target)?;
    }
    if Path::new("/proc/kcore").exists() {
        link(&dev, "core", "/proc/kcore")?;
    }
    plan.devices.iter().try_for_each(|device| make_asked(device, rootfs, from_host))
}

fn is_bound_dev(mount: &crate::plan::Mount) -> bool {
    let bound = mount.kind == "bind" || mount.options.iter().any(|option| option == "bind" || option == "rbind");
    bound && mount.destination.trim_end_matches('/') == "/dev"
}

fn link(dev: &Target, name: &str, target: &str) -> Result<(), Error> {
    step(MakeLink { parent: dev.descriptor.as_fd(), name, target })
        .because("shells and programs open these names; each leads to the process's own descriptors or terminals")
}

fn make_asked(device: &Device, rootfs: &Rootfs, from_host: bool) -> Result<(), Error> {
    let kind = match device.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => return Err(Error::new(format!("cannot make device {}: unknown type '{other}'", device.path))),
    };
    if Path::new(&device.path) == Path::new("/dev/ptmx") {
        return Ok(()); // it leads to the container's own terminals
    }
    let (parent, name) = split(&device.path);
    let directory = rootfs.ensure_dir(parent, 0o755)?;
    let node = MakeNode {
        parent: directory.descriptor.as_fd(),
        name,
        shown: &device.path,
        kind,
        major: device.major,
        minor: device.minor,
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        owner: (device.uid, device.gid),
    };
    place(node, rootfs, from_host, "the document gives the container this device")
}

/// Makes the node or, where that is not allowed, shows the host's.
fn place(node: MakeNode<'_>, rootfs: &Rootfs, from_host: bool, why: &'static str) -> Result<(), Error> {
    match from_host && node.kind != FileType::Fifo {
        true => host_devices::bind(node.shown, &node, rootfs),
        false => step(node).because(why),
    }
}

/// Shows the container's terminal as /dev/console. The terminal is the descriptor, not its name, which could by now be a
/// link to a kernel file; and the place is no link either (CVE-2025-52565).
pub fn bind_console(rootfs: &Rootfs, slave: BorrowedFd<'_>, shown: &str) -> Result<(), Error> {
    check_is_terminal(slave, shown)?;
    let dev = rootfs.ensure_dir("/dev", 0o755)?;
    step(MakeFile { parent: dev.descriptor.as_fd(), name: "console", shown: "/dev/console" })
        .because("the terminal can only be mounted on a file")?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let console = openat(&dev.descriptor, "console", flags, Mode::empty())
        .map_err(|errno| failed("open", "/dev/console")(errno.into()))?;
    let stat =
        statat(&console, "", AtFlags::EMPTY_PATH).map_err(|errno| failed("look at", "/dev/console")(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return Err(Error::new("cannot make /dev/console: the image has a link there")
            .why("the terminal would be mounted on what the link leads to"));
    }
    let console = Target { descriptor: console, shown: "/dev/console".into() };
    let source = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&slave));
    step(Bind { source: &source, source_shown: shown, target: &console, recursive: false })
        .because("init programs write to the console; it is this container's terminal, not the host's")
}

/// DEVPTS_SUPER_MAGIC.
const DEVPTS: u64 = 0x1cd1;

fn check_is_terminal(slave: BorrowedFd<'_>, shown: &str) -> Result<(), Error> {
    let refused = |errno: rustix::io::Errno| failed("look at", shown)(errno.into());
    let is_device = FileType::from_raw_mode(fstat(slave).map_err(refused)?.st_mode) == FileType::CharacterDevice;
    match is_device && fstatfs(slave).map_err(refused)?.f_type as u64 == DEVPTS {
        true => Ok(()),
        false => Err(Error::new(format!("cannot make /dev/console: {shown} is not a terminal of a devpts"))
            .likely("the image or the document put another file system on /dev/pts")),
    }
}
