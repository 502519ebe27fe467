//! Calls that find and make files inside the rootfs, beneath its descriptor.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mocker_common::step::{Cause, Diagnosis, KernelCall, diagnosis};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};

use super::explained;

/// openat2(2) with RESOLVE_IN_ROOT: follows links as the container would, and never leads out of it.
pub struct OpenIn<'a> {
    pub root: BorrowedFd<'a>,
    /// as the container sees it
    pub path: &'a str,
    pub flags: OFlags,
    /// whether any link on the way is refused (ELOOP)
    pub no_links: bool,
}

explained!(OpenIn<'a>, "openat2(2), RESOLVE_IN_ROOT", |this| {
    call: format!("openat2(rootfs, {:?}, RESOLVE_IN_ROOT|{})", this.path, if this.no_links { "RESOLVE_NO_SYMLINKS" } else { "RESOLVE_NO_MAGICLINKS" }),
    aim: format!("find {} in the container", this.path),
    by_hand: format!("ls -ld ROOTFS{}   # but a link in there may lead out", this.path),
    diagnose: |errno| match errno {
        libc::ELOOP => diagnosis("a symbolic link of the image goes round in circles, or through /proc", ""),
        libc::ENOSYS => diagnosis("the kernel is older than 5.6 and has no openat2", "uname -r"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for OpenIn<'_> {
    type Output = OwnedFd;
    fn call(&self) -> Result<OwnedFd, Cause> {
        let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        resolve.set(ResolveFlags::NO_SYMLINKS, self.no_links);
        loop {
            // EAGAIN: something was renamed on the way while the kernel walked; walk again.
            match rustix::fs::openat2(self.root, self.path, self.flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(rustix::io::Errno::AGAIN) => continue,
                other => return Ok(other?),
            }
        }
    }
}

/// mkdirat(2) of one name.
pub struct MakeDir<'a> {
    pub parent: BorrowedFd<'a>,
    pub name: &'a str,
    pub shown: &'a str,
    pub mode: u32,
}

explained!(MakeDir<'a>, "mkdir(2)", |this| {
    call: format!("mkdirat({:?}, {:#o})", this.shown, this.mode),
    aim: format!("make directory {} in the container", this.shown),
    by_hand: format!("mkdir -m {:o} ROOTFS{}", this.mode, this.shown),
    diagnose: |errno| match errno {
        libc::EROFS => diagnosis("the rootfs is read-only, and the directory is not in the image", ""),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for MakeDir<'_> {
    type Output = ();
    /// Succeeds if it is there already.
    fn call(&self) -> Result<(), Cause> {
        match rustix::fs::mkdirat(self.parent, self.name, Mode::from_raw_mode(self.mode)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// openat(2) with O_CREAT|O_EXCL: an empty file to mount something on.
pub struct MakeFile<'a> {
    pub parent: BorrowedFd<'a>,
    pub name: &'a str,
    pub shown: &'a str,
}

explained!(MakeFile<'a>, "open(2)", |this| {
    call: format!("openat({:?}, O_CREAT|O_EXCL|O_NOFOLLOW, 0644)", this.shown),
    aim: format!("make file {} in the container", this.shown),
    by_hand: format!("touch ROOTFS{}", this.shown),
});

impl KernelCall for MakeFile<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(self.parent, self.name, flags, Mode::from_raw_mode(0o644)) {
            Ok(_) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// mknodat(2), then the owner it asks for.
pub struct MakeNode<'a> {
    pub parent: BorrowedFd<'a>,
    pub name: &'a str,
    /// its whole path in the container
    pub shown: &'a str,
    pub kind: FileType,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub owner: (u32, u32),
}

explained!(MakeNode<'a>, "mknod(2)", |this| {
    call: format!("mknodat({:?}, {}|{:#o}, makedev({}, {}))", this.shown, kind_name(this.kind), this.mode, this.major, this.minor),
    aim: format!("make device {}", this.shown),
    by_hand: format!("mknod -m {:o} ROOTFS{} {} {} {}", this.mode, this.shown, kind_letter(this.kind), this.major, this.minor),
    diagnose: |errno| match errno {
        libc::EPERM => diagnosis("the caller lacks CAP_MKNOD, or it is in a user namespace, where device nodes cannot be made", "run it as root"),
        libc::EEXIST => diagnosis("a file of that name is there already, and it is not this device", ""),
        _ => Diagnosis::default(),
    },
});

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::BlockDevice => "S_IFBLK",
        FileType::Fifo => "S_IFIFO",
        _ => "S_IFCHR",
    }
}

fn kind_letter(kind: FileType) -> &'static str {
    match kind {
        FileType::BlockDevice => "b",
        FileType::Fifo => "p",
        _ => "c",
    }
}

impl KernelCall for MakeNode<'_> {
    type Output = ();
    /// Succeeds if this very node is there already; EEXIST if something else is.
    fn call(&self) -> Result<(), Cause> {
        let device = rustix::fs::makedev(self.major, self.minor);
        let no_follow = AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::mknodat(self.parent, self.name, self.kind, Mode::from_raw_mode(self.mode), device) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                let found = rustix::fs::statat(self.parent, self.name, no_follow)?;
                let same = FileType::from_raw_mode(found.st_mode) == self.kind
                    && (self.kind == FileType::Fifo || found.st_rdev == device);
                return if same { Ok(()) } else { Err(Cause::errno(libc::EEXIST)) };
            }
            Err(errno) => return Err(errno.into()),
        }
        let (uid, gid) = self.owner;
        if self.owner != (0, 0) {
            rustix::fs::chownat(self.parent, self.name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), no_follow)?;
        }
        Ok(())
    }
}

/// symlinkat(2).
pub struct MakeLink<'a> {
    pub parent: BorrowedFd<'a>,
    pub name: &'a str,
    pub target: &'a str,
}

explained!(MakeLink<'a>, "symlink(2)", |this| {
    call: format!("symlinkat({:?}, \"/dev/{}\")", this.target, this.name),
    aim: format!("make link /dev/{}", this.name),
    by_hand: format!("ln -s {} ROOTFS/dev/{}", this.target, this.name),
});

impl KernelCall for MakeLink<'_> {
    type Output = ();
    /// Succeeds if something of that name is there already.
    fn call(&self) -> Result<(), Cause> {
        match rustix::fs::symlinkat(self.target, self.parent, self.name) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// One write to a file of the kernel: cgroup.procs, a sysctl, oom_score_adj.
pub struct WriteTo<'a> {
    pub file: BorrowedFd<'a>,
    pub shown: &'a str,
    pub text: &'a str,
}

explained!(WriteTo<'a>, "write(2)", |this| {
    call: format!("write({:?}, {:?})", this.shown, this.text),
    aim: format!("write {:?} to {}", this.text, this.shown),
    by_hand: format!("echo {} > {}", this.text, this.shown),
    diagnose: |errno| match errno {
        libc::EBUSY => diagnosis("(cgroup v2) the group has controllers for its children: no process may be in it", "cat cgroup.subtree_control"),
        libc::ENOSPC => diagnosis("(cpuset, v1) the group has no cpus or memory nodes yet", "cat cpuset.cpus cpuset.mems"),
        libc::EACCES | libc::EPERM => diagnosis("not permitted: not root, or the file is read-only, or a limit was to be raised", ""),
        libc::EINVAL => diagnosis("the kernel does not take this value", ""),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for WriteTo<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        rustix::io::write(self.file.as_fd(), self.text.as_bytes())?;
        Ok(())
    }
}

/// A C string; the plan has refused zero bytes long before.
pub fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}
