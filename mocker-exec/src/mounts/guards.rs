//! Kernel files that tell about the host or steer it: hidden, or protected from writing. Source: runtime-spec
//! config-linux.md, Masked Paths, Readonly Paths.

use std::os::fd::AsFd;
use std::path::Path;

use mocker_common::error::{Error, failed};
use mocker_common::step::step;
use nix::mount::MsFlags;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, makedev, openat};

use super::{close_what_was_open, flags_of};
use crate::calls::mounts::{Attach, Bind, CloneTree, MountNew, Remount, Target};
use crate::plan::Plan;
use crate::rootfs::{Rootfs, is_dir};

/// Hides and protects them, after the last write to the container's tree. What is not there is passed over.
pub fn guard_kernel_files(plan: &Plan, rootfs: &Rootfs) -> Result<(), Error> {
    close_what_was_open(plan, rootfs)?;
    for path in &plan.readonly_paths {
        if let Some(found) = rootfs.find(path)? {
            protect(&found)?;
        }
    }
    let mut null = None;
    let mut empty: Option<Target> = None;
    for path in &plan.masked_paths {
        let Some(found) = rootfs.find(path)? else { continue };
        match is_dir(&found)? {
            true => hide_directory(&found, rootfs, &mut empty)?,
            false => {
                let null = match &mut null {
                    Some(null) => null,
                    none => none.insert(null_device(rootfs)?),
                };
                let call = Bind { source: &null.path(), source_shown: "/dev/null", target: &found, recursive: false };
                step(call).because("it tells about the host's memory or keys; reading it now gives nothing")?;
            }
        }
    }
    Ok(())
}

/// Makes a path read-only by a mount of its own, which is at hand by its descriptor all the time.
fn protect(found: &Target) -> Result<(), Error> {
    let tree = step(CloneTree { from: found.descriptor.as_fd(), path: Path::new(""), recursive: true })
        .because("only a mount of its own can be made read-only without its surroundings")?;
    let tree = Target { descriptor: tree, shown: found.shown.clone() };
    step(Attach { tree: tree.descriptor.as_fd(), shown: &found.shown, target: found })
        .because("it takes the place of what it shows, and is not read-only yet")?;
    let flags = flags_of(&tree)? | MsFlags::MS_RDONLY;
    step(Remount { target: &tree, flags })
        .because("writing here steers the whole machine: sysctls, interrupts, sysrq; namespaces do not cover them")
}

/// Covers a directory with an empty one: the first time a file system of its own, from then on the same one again.
fn hide_directory(found: &Target, rootfs: &Rootfs, empty: &mut Option<Target>) -> Result<(), Error> {
    if let Some(empty) = empty {
        let call = Bind { source: &empty.path(), source_shown: "the empty one", target: found, recursive: false };
        return step(call).because("it tells about the host's hardware or keys; an empty directory takes its place");
    }
    let data = "size=0k,nr_inodes=1";
    let call = MountNew { source: "tmpfs", target: found, kind: "tmpfs", flags: MsFlags::MS_RDONLY, data };
    step(call).because("it tells about the host's hardware or keys; an empty directory takes its place")?;
    *empty = Some(rootfs.ensure_existing(&found.shown)?);
    Ok(())
}

/// The null device, held by its descriptor: the container's own or, if that is something else, the host's. A link in its
/// place would show one kernel file, open for writing, where another is to be hidden (CVE-2025-31133).
fn null_device(rootfs: &Rootfs) -> Result<Target, Error> {
    if let Ok(Some(own)) = rootfs.find_without_links("/dev/null")
        && is_null(&own)
    {
        return Ok(own);
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let descriptor =
        openat(CWD, "/dev/null", flags, Mode::empty()).map_err(|errno| failed("look at", "/dev/null")(errno.into()))?;
    let host = Target { descriptor, shown: "/dev/null".into() };
    match is_null(&host) {
        true => Ok(host),
        false => Err(Error::new("cannot hide kernel files: /dev/null is not the null device").hint("ls -l /dev/null")),
    }
}

fn is_null(file: &Target) -> bool {
    fstat(&file.descriptor).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3)
    })
}
