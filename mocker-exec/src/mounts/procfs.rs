//! The kernel's /proc, checked to be that before anything is written to it.
//!
//! A write to a file that was put in its place goes astray: into the host's core_pattern or sysrq-trigger, if an attacker
//! bound those there (CVE-2025-52881). So files are opened beneath a descriptor of procfs's own root, across no mount and
//! no link. Source: openat2(2).

use std::os::fd::{AsFd, OwnedFd};

use mocker_common::error::{Error, failed};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat, openat2, statat};

use crate::calls::mounts::Target;
use crate::rootfs::Rootfs;

/// procfs's root is this inode (PROC_ROOT_INO): a directory of it that is bound somewhere has another.
const ROOT: u64 = 1;

/// The root of a procfs.
pub struct Procfs(OwnedFd);

impl Procfs {
    /// The one that was mounted for the container.
    pub fn of_container(rootfs: &Rootfs) -> Result<Procfs, Error> {
        let found = rootfs.find("/proc")?.ok_or_else(|| Error::new("cannot find /proc in the container"))?;
        Procfs::check(found.descriptor, "the container's /proc")
    }

    /// The one that this process sees.
    pub fn own() -> Result<Procfs, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened =
            openat(CWD, "/proc", flags, Mode::empty()).map_err(|errno| failed("open", "/proc")(errno.into()))?;
        Procfs::check(opened, "/proc")
    }

    fn check(descriptor: OwnedFd, shown: &str) -> Result<Procfs, Error> {
        let target = Target { descriptor, shown: shown.into() };
        let stat = statat(&target.descriptor, "", AtFlags::EMPTY_PATH);
        match is_proc(&target) && stat.is_ok_and(|stat| stat.st_ino == ROOT) {
            true => Ok(Procfs(target.descriptor)),
            false => Err(Error::new(format!("cannot use {shown}: it is not the kernel's"))
                .why("something else is mounted in its place, and would be written to instead")),
        }
    }

    /// Opens `sys/net/ipv4/ip_forward`, `self/attr/exec`: the kernel's own file of that name, or nothing.
    pub fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Error> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        let shown = format!("/proc/{path}");
        openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve).map_err(|errno| match errno {
            rustix::io::Errno::XDEV => Error::new(format!("cannot write {shown}: it is not a file of the kernel"))
                .why("something else is mounted in its place, and would be written instead"),
            errno => failed("open", shown)(errno.into()),
        })
    }
}

/// Whether this lies in a procfs.
pub fn is_proc(target: &Target) -> bool {
    rustix::fs::fstatfs(target.descriptor.as_fd()).is_ok_and(|stat| stat.f_type as u64 == 0x9fa0)
}
