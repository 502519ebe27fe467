//! Calls that shape the mount tree: mount(2), open_tree(2), mount_setattr(2), pivot_root(2), umount2(2).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use mocker_common::error::{Error, failed};
use mocker_common::step::{Cause, Diagnosis, KernelCall, diagnosis};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use super::explained;

/// A place in the container's tree: a descriptor that no link can lead astray, and its name for people.
pub struct Target {
    pub descriptor: OwnedFd,
    /// as the container sees it: `/dev/pts`
    pub shown: String,
}

impl Target {
    /// The path by which a mount call reaches exactly this descriptor.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.descriptor.as_raw_fd())
    }

    /// The directory of this name in it, and no link.
    pub fn below(&self, name: &str, shown: String) -> Result<Target, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.descriptor, name, flags, Mode::empty()) {
            Ok(descriptor) => Ok(Target { descriptor, shown }),
            Err(errno) => Err(failed("open", shown)(errno.into())),
        }
    }
}

/// mount(2) of a new file system.
pub struct MountNew<'a> {
    pub source: &'a str,
    pub target: &'a Target,
    pub kind: &'a str,
    pub flags: MsFlags,
    pub data: &'a str,
}

explained!(MountNew<'a>, "mount(2)", |this| {
    call: format!("mount({:?}, {:?}, {:?}, {}, {:?})", this.source, this.target.shown, this.kind, flag_names(this.flags), this.data),
    aim: format!("mount {} on {}", this.kind, this.target.shown),
    by_hand: format!("mount -t {} -o {} {} {}", this.kind, option_names(this.flags, this.data), this.source, this.target.shown),
    diagnose: |errno| match errno {
        libc::EPERM => diagnosis("the caller lacks CAP_SYS_ADMIN here, or a user namespace sees only a part of the host's /proc or /sys",
            "run it as root; in another container: with more privilege"),
        libc::ENODEV => diagnosis("the kernel has no such file system, or its module is not loaded", "cat /proc/filesystems"),
        libc::EBUSY => diagnosis("something is mounted there already, or (cgroup v1) the hierarchy is mounted with other controllers", "findmnt"),
        libc::EINVAL => diagnosis("an option that this file system does not know", "dmesg | tail"),
        libc::ENOSPC => diagnosis("the limit on the number of mounts is reached, not the disk", "sysctl fs.mount-max"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for MountNew<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let data = (!self.data.is_empty()).then_some(self.data);
        Ok(mount(Some(self.source), self.target.path().as_str(), Some(self.kind), self.flags, data)?)
    }
}

/// mount(2) with MS_BIND: shows a file or directory in a second place.
pub struct Bind<'a> {
    /// the path the kernel is given
    pub source: &'a str,
    /// the path a person knows it by
    pub source_shown: &'a str,
    pub target: &'a Target,
    pub recursive: bool,
}

impl Bind<'_> {
    fn flags(&self) -> MsFlags {
        if self.recursive { MsFlags::MS_BIND | MsFlags::MS_REC } else { MsFlags::MS_BIND }
    }
}

explained!(Bind<'a>, "mount(2), Creating a bind mount", |this| {
    call: format!("mount({:?}, {:?}, NULL, {}, NULL)", this.source_shown, this.target.shown, flag_names(this.flags())),
    aim: format!("show {} at {}", this.source_shown, this.target.shown),
    by_hand: format!("mount --{} {} {}", if this.recursive { "rbind" } else { "bind" }, this.source_shown, this.target.shown),
    diagnose: |errno| match errno {
        libc::ENOENT => diagnosis("the source is not there", "ls -ld SOURCE"),
        libc::ENOTDIR => diagnosis("one is a directory and the other is not: a file goes on a file, a directory on a directory", ""),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for Bind<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(mount(Some(self.source), self.target.path().as_str(), None::<&str>, self.flags(), None::<&str>)?)
    }
}

/// open_tree(2) with OPEN_TREE_CLONE: a second mount of a file or directory, which has no place yet.
pub struct CloneTree<'a> {
    /// what is shown, or where a relative path begins
    pub from: BorrowedFd<'a>,
    pub path: &'a Path,
    pub recursive: bool,
}

impl CloneTree<'_> {
    /// What a path of the host shows.
    pub fn of(path: &Path, recursive: bool) -> CloneTree<'_> {
        CloneTree { from: rustix::fs::CWD, path, recursive }
    }
}

explained!(CloneTree<'a>, "open_tree(2)", |this| {
    call: format!("open_tree(AT_FDCWD, {:?}, OPEN_TREE_CLONE{})", this.path, if this.recursive { "|AT_RECURSIVE" } else { "" }),
    aim: format!("show {} in the container", this.path.display()),
    by_hand: format!("mount --{} {} …", if this.recursive { "rbind" } else { "bind" }, this.path.display()),
    diagnose: |errno| match errno {
        libc::ENOENT => diagnosis("the source is not there", "ls -ld SOURCE"),
        libc::EINVAL => diagnosis("the source is unbindable, or other mounts in it are locked: rbind shows them too", "findmnt -o TARGET,PROPAGATION"),
        libc::EPERM => diagnosis("the caller lacks CAP_SYS_ADMIN", "run it as root"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for CloneTree<'_> {
    type Output = OwnedFd;
    fn call(&self) -> Result<OwnedFd, Cause> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        flags.set(OpenTreeFlags::AT_RECURSIVE, self.recursive);
        flags.set(OpenTreeFlags::AT_EMPTY_PATH, self.path.as_os_str().is_empty());
        Ok(rustix::mount::open_tree(self.from, self.path, flags)?)
    }
}

/// move_mount(2): gives a mount without a place the one that a descriptor holds.
pub struct Attach<'a> {
    pub tree: BorrowedFd<'a>,
    /// what a person knows it by
    pub shown: &'a str,
    pub target: &'a Target,
}

explained!(Attach<'a>, "move_mount(2)", |this| {
    call: format!("move_mount({:?}, {:?})", this.shown, this.target.shown),
    aim: format!("show {} at {}", this.shown, this.target.shown),
    by_hand: format!("mount --bind {} {}", this.shown, this.target.shown),
    diagnose: |errno| match errno {
        libc::EINVAL => diagnosis("the place lies outside the container's own mount namespace, or it is an unbindable mount under a shared one", ""),
        libc::ELOOP => diagnosis("it is a mount namespace that holds itself", ""),
        libc::ENOSPC => diagnosis("the limit on the number of mounts is reached, not the disk", "sysctl fs.mount-max"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for Attach<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(rustix::mount::move_mount(self.tree, "", &self.target.descriptor, "", flags)?)
    }
}

/// mount_setattr(2) on an open mount: what every mount below is to have, or to lose.
#[derive(Clone, Copy)]
pub struct SetAttributes<'a> {
    pub mount: BorrowedFd<'a>,
    pub shown: &'a str,
    pub set: u64,
    pub clear: u64,
    /// how mounts and unmounts pass to and from it; empty to leave it
    pub propagation: MsFlags,
    pub recursive: bool,
    /// of MOUNT_ATTR_IDMAP
    pub user_namespace: Option<BorrowedFd<'a>>,
}

explained!(SetAttributes<'a>, "mount_setattr(2)", |this| {
    call: format!("mount_setattr({:?}, AT_EMPTY_PATH{}, {{attr_set={:#x}, attr_clr={:#x}, propagation={}}})",
        this.shown, if this.recursive { "|AT_RECURSIVE" } else { "" }, this.set, this.clear, flag_names(this.propagation)),
    aim: format!("change {} at {}", if this.user_namespace.is_some() { "the owners shown" } else { "the attributes of all mounts" }, this.shown),
    diagnose: |errno| match errno {
        libc::ENOSYS => diagnosis("the kernel is older than 5.12 and has no mount_setattr", "uname -r"),
        libc::EINVAL => diagnosis("the file system cannot show other owners (idmap), or the kernel does not know an attribute", "uname -r; findmnt -o FSTYPE"),
        libc::EPERM => diagnosis("a flag that is locked would be taken away, or (idmap) the file system belongs to another user namespace", ""),
        libc::EBUSY => diagnosis("it is to be read-only, and a file in it is open for writing", "fuser -m"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for SetAttributes<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        // struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
        let user_namespace = self.user_namespace.map_or(0, |fd| fd.as_raw_fd() as u64);
        let attributes: [u64; 4] = [self.set, self.clear, self.propagation.bits(), user_namespace];
        let flags = libc::AT_EMPTY_PATH | if self.recursive { libc::AT_RECURSIVE } else { 0 };
        let (mount, size) = (self.mount.as_raw_fd(), size_of_val(&attributes));
        // SAFETY: the path is a C string, the attributes live as long as the call, and their size is given.
        let result =
            unsafe { libc::syscall(libc::SYS_mount_setattr, mount, c"".as_ptr(), flags, attributes.as_ptr(), size) };
        if result < 0 { Err(Cause::last()) } else { Ok(()) }
    }
}

/// mount(2) with MS_REMOUNT|MS_BIND: changes the flags of one mount, not of its file system.
pub struct Remount<'a> {
    pub target: &'a Target,
    pub flags: MsFlags,
}

explained!(Remount<'a>, "mount(2), Remounting an existing mount", |this| {
    call: format!("mount(NULL, {:?}, NULL, {}, NULL)", this.target.shown, flag_names(MsFlags::MS_REMOUNT | MsFlags::MS_BIND | this.flags)),
    aim: format!("change the mount flags of {}", this.target.shown),
    by_hand: format!("mount -o remount,bind,{} {}", option_names(this.flags, ""), this.target.shown),
    diagnose: |errno| match errno {
        libc::EPERM => diagnosis("a flag that is locked (nosuid, nodev, noexec, ro) would be taken away", "findmnt -o TARGET,OPTIONS"),
        libc::EINVAL => diagnosis("it is not a mount point", "findmnt"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for Remount<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | self.flags;
        Ok(mount(None::<&str>, self.target.path().as_str(), None::<&str>, flags, None::<&str>)?)
    }
}

/// mount(2) with MS_REMOUNT: changes a file system's own options.
pub struct RemountNew<'a> {
    pub target: &'a Target,
    pub flags: MsFlags,
    pub data: &'a str,
}

explained!(RemountNew<'a>, "mount(2), Remounting an existing mount", |this| {
    call: format!("mount(NULL, {:?}, NULL, {}, {:?})", this.target.shown, flag_names(MsFlags::MS_REMOUNT | this.flags), this.data),
    aim: format!("remount {}", this.target.shown),
    by_hand: format!("mount -o remount,{} {}", option_names(this.flags.difference(MsFlags::MS_REMOUNT), this.data), this.target.shown),
    diagnose: |errno| match errno {
        libc::EINVAL => diagnosis("it is not a mount point, or an option that this file system does not know", "findmnt; dmesg | tail"),
        libc::EBUSY => diagnosis("it is to be read-only, and a file in it is open for writing", "fuser -m"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for RemountNew<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let data = (!self.data.is_empty()).then_some(self.data);
        Ok(mount(None::<&str>, self.target.path().as_str(), None::<&str>, MsFlags::MS_REMOUNT | self.flags, data)?)
    }
}

/// mount(2) with one of MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE.
pub struct Propagate<'a> {
    pub path: &'a str,
    pub shown: &'a str,
    pub flags: MsFlags,
}

explained!(Propagate<'a>, "mount_namespaces(7), Shared subtrees", |this| {
    call: format!("mount(NULL, {:?}, NULL, {}, NULL)", this.shown, flag_names(this.flags)),
    aim: format!("change how mounts at {} propagate", this.shown),
    by_hand: format!("mount --make-{} {}", propagation_name(this.flags), this.shown),
    diagnose: |errno| match errno {
        libc::EINVAL => diagnosis("it is not a mount point", "findmnt -o TARGET,PROPAGATION"),
        libc::EPERM => diagnosis("the caller lacks CAP_SYS_ADMIN", "run it as root"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for Propagate<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(mount(None::<&str>, self.path, None::<&str>, self.flags, None::<&str>)?)
    }
}

/// fchdir(2): steps into a directory that is known by descriptor.
pub struct StepInto<'a> {
    pub directory: BorrowedFd<'a>,
    pub shown: &'a str,
}

explained!(StepInto<'a>, "chdir(2)", |this| {
    call: format!("fchdir({:?})", this.shown),
    aim: format!("step into {}", this.shown),
    by_hand: format!("cd {}", this.shown),
});

impl KernelCall for StepInto<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(rustix::process::fchdir(self.directory.as_fd())?)
    }
}

/// pivot_root(2) in its two-dot form: the new root on top, the old one under it at the same place.
pub struct PivotRoot;

explained!(PivotRoot, "pivot_root(2), NOTES", |_this| {
    call: r#"pivot_root(".", ".")"#,
    aim: "make the rootfs the container's root".to_string(),
    by_hand: "pivot_root . .".to_string(),
    diagnose: |errno| match errno {
        libc::EINVAL => diagnosis("the caller already sits in a chroot, or / is the initramfs, or the mount above the rootfs is shared; pivot_root refuses all three",
            "findmnt /   (nothing: a chroot; rootfs: an initramfs)"),
        libc::EBUSY => diagnosis("the rootfs lies on the current root mount itself", "findmnt"),
        libc::EPERM => diagnosis("the caller lacks CAP_SYS_ADMIN", "run it as root"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for PivotRoot {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(rustix::process::pivot_root(".", ".")?)
    }
}

/// mount(2) with MS_MOVE of the working directory: the new root covers the old one, which stays below it.
pub struct MoveOver;

explained!(MoveOver, "mount(2), Moving an existing mount", |_this| {
    call: r#"mount(".", "/", NULL, MS_MOVE, NULL)"#,
    aim: "move the rootfs over the root".to_string(),
    by_hand: "mount --move . /".to_string(),
    diagnose: |errno| match errno {
        libc::EINVAL => diagnosis("the mount above the rootfs is shared", "findmnt -o TARGET,PROPAGATION"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for MoveOver {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?)
    }
}

/// chroot(2) into the working directory.
pub struct ChangeRoot;

explained!(ChangeRoot, "chroot(2)", |_this| {
    call: r#"chroot(".")"#,
    aim: "make the rootfs the container's root".to_string(),
    by_hand: "chroot .".to_string(),
});

impl KernelCall for ChangeRoot {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(rustix::process::chroot(".")?)
    }
}

/// umount2(2) with MNT_DETACH: takes a whole tree off at once, busy or not.
pub struct Detach<'a>(pub &'a str);

explained!(Detach<'a>, "umount(2)", |this| {
    call: format!("umount2({:?}, MNT_DETACH)", this.0),
    aim: format!("let go of {}", if this.0 == "." { "the old root" } else { this.0 }),
    by_hand: format!("umount -l {}", this.0),
});

impl KernelCall for Detach<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(umount2(self.0, MntFlags::MNT_DETACH)?)
    }
}

/// chdir(2) by name: only where names are the container's own.
pub struct Chdir<'a>(pub &'a str);

explained!(Chdir<'a>, "chdir(2)", |this| {
    call: format!("chdir({:?})", this.0),
    aim: format!("enter the working directory {}", this.0),
    by_hand: format!("cd {}", this.0),
    diagnose: |errno| match errno {
        libc::ENOENT => diagnosis("the directory is not in the container", "-w DIR chooses another"),
        libc::ENOTDIR => diagnosis("a file stands where a directory was expected", ""),
        libc::EACCES => diagnosis("the container's user may not enter it", "-u chooses another user, -w another directory"),
        _ => Diagnosis::default(),
    },
});

impl KernelCall for Chdir<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(rustix::process::chdir(self.0)?)
    }
}

/// MS_NOSYMFOLLOW (Linux 5.10): links in the mount are not followed. nix does not know it yet.
pub const MS_NOSYMFOLLOW: MsFlags = MsFlags::from_bits_retain(256);

const NAMES: [(MsFlags, &str, &str); 23] = [
    (MsFlags::MS_RDONLY, "MS_RDONLY", "ro"),
    (MsFlags::MS_NOSUID, "MS_NOSUID", "nosuid"),
    (MsFlags::MS_NODEV, "MS_NODEV", "nodev"),
    (MsFlags::MS_NOEXEC, "MS_NOEXEC", "noexec"),
    (MS_NOSYMFOLLOW, "MS_NOSYMFOLLOW", "nosymfollow"),
    (MsFlags::MS_NOATIME, "MS_NOATIME", "noatime"),
    (MsFlags::MS_NODIRATIME, "MS_NODIRATIME", "nodiratime"),
    (MsFlags::MS_RELATIME, "MS_RELATIME", "relatime"),
    (MsFlags::MS_STRICTATIME, "MS_STRICTATIME", "strictatime"),
    (MsFlags::MS_LAZYTIME, "MS_LAZYTIME", "lazytime"),
    (MsFlags::MS_SYNCHRONOUS, "MS_SYNCHRONOUS", "sync"),
    (MsFlags::MS_DIRSYNC, "MS_DIRSYNC", "dirsync"),
    (MsFlags::MS_MANDLOCK, "MS_MANDLOCK", "mand"),
    (MsFlags::MS_I_VERSION, "MS_I_VERSION", "iversion"),
    (MsFlags::MS_SILENT, "MS_SILENT", "silent"),
    (MsFlags::MS_REMOUNT, "MS_REMOUNT", "remount"),
    (MsFlags::MS_BIND, "MS_BIND", "bind"),
    (MsFlags::MS_REC, "MS_REC", ""),
    (MsFlags::MS_PRIVATE, "MS_PRIVATE", "private"),
    (MsFlags::MS_SLAVE, "MS_SLAVE", "slave"),
    (MsFlags::MS_SHARED, "MS_SHARED", "shared"),
    (MsFlags::MS_UNBINDABLE, "MS_UNBINDABLE", "unbindable"),
    (MsFlags::MS_MOVE, "MS_MOVE", "move"),
];

/// `MS_NOSUID|MS_NODEV`, as strace prints them.
fn flag_names(flags: MsFlags) -> String {
    let names: Vec<&str> = NAMES.iter().filter(|(flag, ..)| flags.contains(*flag)).map(|(_, name, _)| *name).collect();
    if names.is_empty() { "0".into() } else { names.join("|") }
}

/// `nosuid,nodev,mode=755`, as mount(8) takes them.
fn option_names(flags: MsFlags, data: &str) -> String {
    let names = NAMES.iter().filter(|(flag, _, option)| flags.contains(*flag) && !option.is_empty());
    let all: Vec<&str> = names.map(|(_, _, option)| *option).chain((!data.is_empty()).then_some(data)).collect();
    if all.is_empty() { "defaults".into() } else { all.join(",") }
}

fn propagation_name(flags: MsFlags) -> String {
    let recursive = if flags.contains(MsFlags::MS_REC) { "r" } else { "" };
    format!("{recursive}{}", option_names(flags.difference(MsFlags::MS_REC), ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_as_strace_and_as_mount_print_them() {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        assert_eq!(flag_names(flags), "MS_NOSUID|MS_NODEV");
        assert_eq!(option_names(flags, "mode=755"), "nosuid,nodev,mode=755");
        assert_eq!(option_names(MsFlags::empty(), ""), "defaults");
        assert_eq!(propagation_name(MsFlags::MS_SLAVE | MsFlags::MS_REC), "rslave");
    }
}
