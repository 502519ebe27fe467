//! The kernel calls of unpacking: how each prints, what its errors mean, and the call itself.
//!
//! A layer makes hundreds of thousands of them, so unlike elsewhere a call is not narrated every time:
//! [`repeated`] tells the first of its kind, makes every one, and explains whichever fails.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::error::Error;
use crate::explain;
use crate::step::{Cause, Diagnosis, Explained, KernelCall, diagnosis, report, step};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::member::Time;
use super::notes::shown;

/// Makes a call that a layer repeats thousands of times. `told` is the caller's own static: who asked for an
/// explanation hears of the first call, and nobody pays for the others.
pub fn repeated<C: KernelCall>(told: &AtomicBool, call: C, why: &'static str) -> Result<C::Output, Error> {
    if explain::on() && !told.swap(true, Relaxed) {
        return step(call).because(why);
    }
    call.call().map_err(|cause| report(&call, why, cause))
}

/// A name in a directory: what every call here works on. The directory was opened beneath the layer's root, and the
/// name is one component that is never followed, so no call can reach a file outside.
#[derive(Clone, Copy)]
pub struct At<'a> {
    pub dir: BorrowedFd<'a>,
    /// The whole path below the layer's root; the call uses its last component.
    pub path: &'a [u8],
}

impl<'a> At<'a> {
    pub fn name(&self) -> &'a [u8] {
        split(self.path).1
    }

    /// A path for calls that take no descriptor. `/proc/self/fd/N` leads to the directory itself, whatever its name.
    fn through_proc(&self) -> Vec<u8> {
        [format!("/proc/self/fd/{}/", self.dir.as_raw_fd()).as_bytes(), self.name()].concat()
    }
}

/// Parent and last component; the parent of a component at the top is empty.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// `LAYER/usr/share, "doc"`: the directory and the name, as the `…at` calls take them.
impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parent, name) = split(self.path);
        let slash = if parent.is_empty() { "" } else { "/" };
        let parent = if parent.is_empty() { String::new() } else { shown(parent) };
        write!(f, "LAYER{slash}{parent}, \"{}\"", shown(name))
    }
}

/// What an errno means for any call that makes or changes a file.
fn of_the_disk(errno: i32) -> Diagnosis {
    match errno {
        libc::ENOSPC | libc::EDQUOT => diagnosis(
            "the disk (or the quota) is full, of bytes or of files",
            "df -h; df -i   (mocker-images prune frees what no image holds)",
        ),
        libc::EROFS => diagnosis("the store's file system is mounted read-only", "findmnt -T /var/lib/mocker"),
        libc::ENAMETOOLONG => {
            diagnosis("a name longer than this file system allows (255 bytes, mostly)", "MOCKER_ROOT on another one")
        }
        libc::EPERM | libc::EACCES => diagnosis(
            "not root, or root of a container that may not do this",
            "run it as root, or give MOCKER_ROOT a directory of your own",
        ),
        _ => Diagnosis::default(),
    }
}

/// Opens the directory that will be the layer.
pub struct OpenRoot<'a>(pub &'a Path);

impl fmt::Display for OpenRoot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "open({:?}, O_RDONLY|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC)", self.0)
    }
}

impl Explained for OpenRoot<'_> {
    fn aim(&self) -> String {
        format!("open {} to unpack a layer there", self.0.display())
    }
    fn source(&self) -> &'static str {
        "open(2), O_DIRECTORY"
    }
    fn by_hand(&self) -> String {
        format!("cd {}", self.0.display())
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        of_the_disk(errno)
    }
}

impl KernelCall for OpenRoot<'_> {
    type Output = OwnedFd;
    fn call(&self) -> Result<OwnedFd, Cause> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(fs::open(self.0, flags, Mode::empty())?)
    }
}

/// Opens a directory beneath the root without following any link.
pub struct OpenBeneath<'a> {
    pub root: BorrowedFd<'a>,
    pub path: &'a [u8],
    /// Follow links, each as if the layer's root were `/`.
    pub follow: bool,
}

impl OpenBeneath<'_> {
    fn resolve(&self) -> ResolveFlags {
        let how = if self.follow { ResolveFlags::IN_ROOT } else { ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS };
        how | ResolveFlags::NO_MAGICLINKS
    }
}

impl fmt::Display for OpenBeneath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.follow { "RESOLVE_IN_ROOT" } else { "RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS" };
        write!(f, "openat2(LAYER, \"{}\", O_PATH|O_DIRECTORY|O_CLOEXEC, {how}|RESOLVE_NO_MAGICLINKS)", shown(self.path))
    }
}

impl Explained for OpenBeneath<'_> {
    fn aim(&self) -> String {
        format!("open the layer's directory '{}'", shown(self.path))
    }
    fn source(&self) -> &'static str {
        "openat2(2), RESOLVE_BENEATH"
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::ENOSYS => diagnosis("the kernel is older than 5.6, or a seccomp filter hides openat2", "uname -r"),
            libc::ELOOP => diagnosis("symbolic links that lead in a circle", ""),
            libc::EMFILE => diagnosis("too many open files", "ulimit -n 4096"),
            other => of_the_disk(other),
        }
    }
}

impl KernelCall for OpenBeneath<'_> {
    type Output = OwnedFd;
    fn call(&self) -> Result<OwnedFd, Cause> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if self.path.is_empty() {
            return Ok(fs::openat(self.root, c".", flags, Mode::empty())?);
        }
        // A path beyond PATH_MAX is walked in stretches; from the second on, links are not followed, since they
        // would be taken relative to where the stretch begins.
        let (mut dir, mut rest, mut how) = (None, self.path, self.resolve());
        while rest.len() > 4000 {
            let cut = rest[..4000].iter().rposition(|byte| *byte == b'/').ok_or(Errno::NAMETOOLONG)?;
            dir = Some(self.open(dir, &rest[..cut], how)?);
            rest = &rest[cut + 1..];
            how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        }
        Ok(self.open(dir, rest, how)?)
    }
}

impl OpenBeneath<'_> {
    fn open(&self, dir: Option<OwnedFd>, path: &[u8], how: ResolveFlags) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        loop {
            let from = dir.as_ref().map_or(self.root, std::os::fd::AsFd::as_fd);
            match fs::openat2(from, path, flags, Mode::empty(), how) {
                Err(Errno::AGAIN) => continue, // somebody renamed something meanwhile: look again
                other => return other,
            }
        }
    }
}

/// Makes a directory.
pub struct MakeDirectory<'a> {
    pub at: At<'a>,
    pub mode: u32,
}

impl fmt::Display for MakeDirectory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mkdirat({}, {:#o})", self.at, self.mode)
    }
}

impl Explained for MakeDirectory<'_> {
    fn aim(&self) -> String {
        format!("make the layer's directory '{}'", shown(self.at.path))
    }
    fn source(&self) -> &'static str {
        "mkdir(2)"
    }
    fn by_hand(&self) -> String {
        format!("mkdir -m {:o} '{}'", self.mode, shown(self.at.path))
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        of_the_disk(errno)
    }
}

impl KernelCall for MakeDirectory<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(fs::mkdirat(self.at.dir, self.at.name(), Mode::from_raw_mode(self.mode))?)
    }
}

/// Makes a regular file that was not there, and opens it.
pub struct MakeFile<'a> {
    pub at: At<'a>,
    pub mode: u32,
}

impl fmt::Display for MakeFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "openat({}, O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC, {:#o})", self.at, self.mode)
    }
}

impl Explained for MakeFile<'_> {
    fn aim(&self) -> String {
        format!("make the layer's file '{}'", shown(self.at.path))
    }
    fn source(&self) -> &'static str {
        "open(2), O_EXCL"
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        of_the_disk(errno)
    }
}

impl KernelCall for MakeFile<'_> {
    type Output = OwnedFd;
    fn call(&self) -> Result<OwnedFd, Cause> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(fs::openat(self.at.dir, self.at.name(), flags, Mode::from_raw_mode(self.mode))?)
    }
}

/// Writes to a file of the layer, all of it, at its place: what is never written stays a hole.
pub struct Write<'a> {
    pub file: BorrowedFd<'a>,
    pub path: &'a [u8],
    pub bytes: &'a [u8],
    pub offset: u64,
}

impl fmt::Display for Write<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pwrite64(LAYER/{}, …, {}, {})", shown(self.path), self.bytes.len(), self.offset)
    }
}

impl Explained for Write<'_> {
    fn aim(&self) -> String {
        format!("write the layer's file '{}'", shown(self.path))
    }
    fn source(&self) -> &'static str {
        "pwrite(2)"
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EFBIG => diagnosis("larger than this file system or `ulimit -f` allows", "ulimit -f"),
            other => of_the_disk(other),
        }
    }
}

impl KernelCall for Write<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let (mut bytes, mut offset) = (self.bytes, self.offset);
        while !bytes.is_empty() {
            match rustix::io::pwrite(self.file, bytes, offset) {
                Ok(0) => return Err(Cause::words("the file takes no more bytes")),
                Ok(written) => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// Gives a file its size where it ends in a hole.
pub struct Truncate<'a> {
    pub file: BorrowedFd<'a>,
    pub path: &'a [u8],
    pub size: u64,
}

impl fmt::Display for Truncate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ftruncate(LAYER/{}, {})", shown(self.path), self.size)
    }
}

impl Explained for Truncate<'_> {
    fn aim(&self) -> String {
        format!("give the sparse file '{}' its {} bytes", shown(self.path), self.size)
    }
    fn source(&self) -> &'static str {
        "ftruncate(2)"
    }
    fn by_hand(&self) -> String {
        format!("truncate -s {} '{}'", self.size, shown(self.path))
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EFBIG | libc::EINVAL => diagnosis("larger than a file may be here", "ulimit -f"),
            other => of_the_disk(other),
        }
    }
}

impl KernelCall for Truncate<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(fs::ftruncate(self.file, self.size)?)
    }
}

/// Makes a device, a fifo, or (character device 0:0) a whiteout.
pub struct MakeNode<'a> {
    pub at: At<'a>,
    pub kind: FileType,
    pub mode: u32,
    pub device: (u32, u32),
}

impl fmt::Display for MakeNode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            FileType::CharacterDevice => "S_IFCHR",
            FileType::BlockDevice => "S_IFBLK",
            _ => "S_IFIFO",
        };
        let (major, minor) = self.device;
        write!(f, "mknodat({}, {kind}|{:#o}, makedev({major}, {minor}))", self.at, self.mode)
    }
}

impl Explained for MakeNode<'_> {
    fn aim(&self) -> String {
        let what = match (self.kind, self.device) {
            (FileType::CharacterDevice, (0, 0)) => "whiteout",
            (FileType::Fifo, _) => "fifo",
            _ => "device",
        };
        format!("make the layer's {what} '{}'", shown(self.at.path))
    }
    fn source(&self) -> &'static str {
        "mknod(2); Documentation/filesystems/overlayfs.rst, whiteouts"
    }
    fn by_hand(&self) -> String {
        let letter = match self.kind {
            FileType::CharacterDevice => "c",
            FileType::BlockDevice => "b",
            _ => return format!("mkfifo '{}'", shown(self.at.path)),
        };
        format!("mknod '{}' {letter} {} {}", shown(self.at.path), self.device.0, self.device.1)
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EPERM => diagnosis(
                "no CAP_MKNOD, as in a container (a whiteout, 0:0, needs it before Linux 5.8 only)",
                "run it as root of the machine",
            ),
            other => of_the_disk(other),
        }
    }
}

impl KernelCall for MakeNode<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let device = fs::makedev(self.device.0, self.device.1);
        Ok(fs::mknodat(self.at.dir, self.at.name(), self.kind, Mode::from_raw_mode(self.mode), device)?)
    }
}

/// Makes a symbolic link. Its target is only text, and is not looked at.
pub struct MakeSymlink<'a> {
    pub at: At<'a>,
    pub target: &'a [u8],
}

impl fmt::Display for MakeSymlink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "symlinkat(\"{}\", {})", shown(self.target), self.at)
    }
}

impl Explained for MakeSymlink<'_> {
    fn aim(&self) -> String {
        format!("make the layer's symbolic link '{}'", shown(self.at.path))
    }
    fn source(&self) -> &'static str {
        "symlink(2)"
    }
    fn by_hand(&self) -> String {
        format!("ln -s '{}' '{}'", shown(self.target), shown(self.at.path))
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::ENOENT => diagnosis("its target is empty", ""),
            other => of_the_disk(other),
        }
    }
}

impl KernelCall for MakeSymlink<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(fs::symlinkat(self.target, self.at.dir, self.at.name())?)
    }
}

/// Makes a second name of a file of the same layer.
pub struct MakeHardLink<'a> {
    pub target: At<'a>,
    pub at: At<'a>,
}

impl fmt::Display for MakeHardLink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linkat({}, {}, 0)", self.target, self.at)
    }
}

impl Explained for MakeHardLink<'_> {
    fn aim(&self) -> String {
        format!("make the layer's hard link '{}' to '{}'", shown(self.at.path), shown(self.target.path))
    }
    fn source(&self) -> &'static str {
        "link(2)"
    }
    fn by_hand(&self) -> String {
        format!("ln -P '{}' '{}'", shown(self.target.path), shown(self.at.path))
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EPERM => diagnosis("its target is a directory, or the file system knows no hard links", ""),
            libc::EMLINK => diagnosis("the target has as many names as this file system allows", ""),
            other => of_the_disk(other),
        }
    }
}

impl KernelCall for MakeHardLink<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let (from, to) = (self.target, self.at);
        Ok(fs::linkat(from.dir, from.name(), to.dir, to.name(), AtFlags::empty())?)
    }
}

/// What an attribute is set on: an open file, or a name where opening would do harm (a device) or cannot (a link).
#[derive(Clone, Copy)]
pub enum Target<'a> {
    File(BorrowedFd<'a>, &'a [u8]),
    Name(At<'a>),
}

impl Target<'_> {
    pub fn path(&self) -> &[u8] {
        match self {
            Target::File(_, path) => path,
            Target::Name(at) => at.path,
        }
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::File(_, path) => write!(f, "LAYER/{}", shown(path)),
            Target::Name(at) => at.fmt(f),
        }
    }
}

/// Gives a file its owner.
pub struct ChangeOwner<'a> {
    pub target: Target<'a>,
    pub uid: u32,
    pub gid: u32,
}

impl fmt::Display for ChangeOwner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fchownat({}, {}, {}, AT_SYMLINK_NOFOLLOW)", self.target, self.uid, self.gid)
    }
}

impl Explained for ChangeOwner<'_> {
    fn aim(&self) -> String {
        format!("give '{}' to user {} and group {}", shown(self.target.path()), self.uid, self.gid)
    }
    fn source(&self) -> &'static str {
        "chown(2)"
    }
    fn by_hand(&self) -> String {
        format!("chown -h {}:{} '{}'", self.uid, self.gid, shown(self.target.path()))
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EINVAL => diagnosis(
                "this user namespace has no such id: its map ends below it",
                "cat /proc/self/uid_map /proc/self/gid_map   (an ordinary user's: a larger range in /etc/subuid, /etc/subgid)",
            ),
            other => of_the_disk(other),
        }
    }
}

impl KernelCall for ChangeOwner<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let (uid, gid) = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        match self.target {
            Target::File(file, _) => fs::fchown(file, uid, gid)?,
            Target::Name(at) => fs::chownat(at.dir, at.name(), uid, gid, AtFlags::SYMLINK_NOFOLLOW)?,
        }
        Ok(())
    }
}

/// Gives a file its mode.
pub struct ChangeMode<'a> {
    pub target: Target<'a>,
    pub mode: u32,
}

impl fmt::Display for ChangeMode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fchmodat({}, {:#o})", self.target, self.mode)
    }
}

impl Explained for ChangeMode<'_> {
    fn aim(&self) -> String {
        format!("give '{}' the mode {:o}", shown(self.target.path()), self.mode)
    }
    fn source(&self) -> &'static str {
        "chmod(2)"
    }
    fn by_hand(&self) -> String {
        format!("chmod {:o} '{}'", self.mode, shown(self.target.path()))
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        of_the_disk(errno)
    }
}

impl KernelCall for ChangeMode<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let mode = Mode::from_raw_mode(self.mode);
        match self.target {
            Target::File(file, _) => fs::fchmod(file, mode)?,
            // Follows links (there is no other chmod before Linux 6.6), hence only for a node that was just made.
            Target::Name(at) => fs::chmodat(at.dir, at.name(), mode, AtFlags::empty())?,
        }
        Ok(())
    }
}

/// Sets an extended attribute.
pub struct SetXattr<'a> {
    pub target: Target<'a>,
    pub name: &'a [u8],
    pub value: &'a [u8],
}

impl fmt::Display for SetXattr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.escape_ascii();
        write!(f, "lsetxattr({}, \"{}\", \"{value}\", {})", self.target, shown(self.name), self.value.len())
    }
}

impl Explained for SetXattr<'_> {
    fn aim(&self) -> String {
        format!("set the attribute {} of '{}'", shown(self.name), shown(self.target.path()))
    }
    fn source(&self) -> &'static str {
        "setxattr(2), xattr(7)"
    }
    fn by_hand(&self) -> String {
        let value = self.value.escape_ascii();
        format!("setfattr -h -n {} -v '{value}' '{}'", shown(self.name), shown(self.target.path()))
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EOPNOTSUPP => diagnosis(
                "the store's file system keeps no attributes of this kind",
                "MOCKER_ROOT on ext4, xfs, btrfs or tmpfs",
            ),
            libc::ENOSPC | libc::E2BIG | libc::ERANGE => diagnosis(
                "the attribute is larger than this file system allows (ext4: one block)",
                "MOCKER_ROOT on xfs",
            ),
            libc::EPERM if self.name.starts_with(b"trusted.") => diagnosis(
                "trusted attributes need CAP_SYS_ADMIN on the machine itself",
                "run it as root of the machine",
            ),
            libc::EINVAL if self.name == b"security.capability" => {
                diagnosis("a capability set of an unknown version, or one made for another user namespace", "")
            }
            other => of_the_disk(other),
        }
    }
}

impl KernelCall for SetXattr<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        match self.target {
            Target::File(file, _) => fs::fsetxattr(file, self.name, self.value, XattrFlags::empty())?,
            Target::Name(at) => fs::lsetxattr(at.through_proc(), self.name, self.value, XattrFlags::empty())?,
        }
        Ok(())
    }
}

/// Sets the time of the last change; the time of the last reading is set to the same.
pub struct SetTimes<'a> {
    pub target: Target<'a>,
    pub mtime: Time,
}

impl fmt::Display for SetTimes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Time { seconds, nanoseconds } = self.mtime;
        write!(f, "utimensat({}, {seconds}.{nanoseconds:09}, AT_SYMLINK_NOFOLLOW)", self.target)
    }
}

impl Explained for SetTimes<'_> {
    fn aim(&self) -> String {
        format!("set the times of '{}'", shown(self.target.path()))
    }
    fn source(&self) -> &'static str {
        "utimensat(2)"
    }
    fn by_hand(&self) -> String {
        format!("touch -h -d @{} '{}'", self.mtime.seconds, shown(self.target.path()))
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        of_the_disk(errno)
    }
}

impl KernelCall for SetTimes<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let time = Timespec { tv_sec: self.mtime.seconds, tv_nsec: i64::from(self.mtime.nanoseconds) };
        let times = Timestamps { last_access: time, last_modification: time };
        match self.target {
            Target::File(file, _) => fs::futimens(file, &times)?,
            Target::Name(at) => fs::utimensat(at.dir, at.name(), &times, AtFlags::SYMLINK_NOFOLLOW)?,
        }
        Ok(())
    }
}

/// Removes what is in the way of a later entry, a directory with all that is in it.
pub struct Remove<'a>(pub At<'a>);

impl fmt::Display for Remove<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unlinkat({})", self.0)
    }
}

impl Explained for Remove<'_> {
    fn aim(&self) -> String {
        format!("remove the layer's '{}', which a later entry replaces", shown(self.0.path))
    }
    fn source(&self) -> &'static str {
        "unlink(2)"
    }
    fn by_hand(&self) -> String {
        format!("rm -rf '{}'", shown(self.0.path))
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        of_the_disk(errno)
    }
}

impl KernelCall for Remove<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(remove(self.0.dir, OsStr::from_bytes(self.0.name()))?)
    }
}

/// Depth is bounded by the limit on paths, and so are the descriptors held.
fn remove(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        done => return done,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inside = fs::openat(dir, name, flags, Mode::empty())?;
    for entry in fs::Dir::read_from(&inside)? {
        let entry = entry?;
        let child = entry.file_name().to_bytes();
        if child != b"." && child != b".." {
            remove(std::os::fd::AsFd::as_fd(&inside), OsStr::from_bytes(child))?;
        }
    }
    fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}
