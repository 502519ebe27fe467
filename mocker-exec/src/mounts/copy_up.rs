//! tmpcopyup: a tmpfs that begins with what the image has in its place.
//!
//! Both trees are walked by descriptors and no link is followed, since the image made one of them.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mocker_common::error::{Error, failed};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, chmodat, chownat, fchown, mkdirat, mknodat,
    openat, readlinkat, statat, symlinkat, utimensat,
};

use crate::calls::mounts::Target;

/// Copies what lies in `below`, the covered directory, into `mounted`, the file system that covers it: contents, owners,
/// modes and times.
pub fn fill(below: &Target, mounted: &Target) -> Result<(), Error> {
    let copied = || {
        let from = reopen(below.descriptor.as_fd())?;
        let to = reopen(mounted.descriptor.as_fd())?;
        let stat = rustix::fs::fstat(&from)?;
        copy_entries(&from, &to)?;
        fchown(&to, Some(rustix::fs::Uid::from_raw(stat.st_uid)), Some(rustix::fs::Gid::from_raw(stat.st_gid)))
            .map_err(io::Error::from)
    };
    copied().map_err(failed("copy the image's files into", &mounted.shown))
}

fn reopen(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(openat(directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn copy_entries(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            copy_entry(from, to, entry.file_name())?;
        }
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> io::Result<()> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let kind = FileType::from_raw_mode(stat.st_mode);
    let open = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match kind {
        FileType::Directory => {
            mkdirat(to, name, Mode::RWXU)?;
            let below = openat(from, name, open | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            let made = openat(to, name, open | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            copy_entries(&below, &made)?;
        }
        FileType::RegularFile => {
            let mut source = File::from(openat(from, name, open | OFlags::RDONLY, Mode::empty())?);
            let flags = open | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let mut copy = File::from(openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
            io::copy(&mut source, &mut copy)?;
        }
        FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?, to, name)?,
        FileType::Socket => return Ok(()), // nobody would listen on the copy
        _ => mknodat(to, name, kind, mode, stat.st_rdev)?,
    }
    dress(to, name, &stat, kind != FileType::Symlink, mode)
}

/// Owner first: giving a file away clears its setuid bit.
fn dress(to: &OwnedFd, name: &CStr, stat: &Stat, has_mode: bool, mode: Mode) -> io::Result<()> {
    let owner = Some(rustix::fs::Uid::from_raw(stat.st_uid));
    let group = Some(rustix::fs::Gid::from_raw(stat.st_gid));
    chownat(to, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
    if has_mode {
        chmodat(to, name, mode, AtFlags::empty())?;
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime as _, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
    };
    Ok(utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
