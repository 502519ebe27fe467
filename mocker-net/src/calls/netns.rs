//! Namespaces and the mounts that give them names.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use mocker_common::step::{Cause, Diagnosis, Explained, KernelCall, diagnosis};
use rustix::fs::XattrFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// Puts the thread into a new network namespace: nothing in it but a loopback that is down.
pub struct UnshareNetwork;

impl fmt::Display for UnshareNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unshare(CLONE_NEWNET)")
    }
}

impl Explained for UnshareNetwork {
    fn aim(&self) -> String {
        "make a network namespace".into()
    }
    fn source(&self) -> &'static str {
        "unshare(2), network_namespaces(7)"
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EPERM => diagnosis("namespaces of the network are root's (CAP_SYS_ADMIN)", "run it as root"),
            libc::ENOSPC => diagnosis("the limit on network namespaces is reached", "sysctl user.max_net_namespaces"),
            libc::EINVAL => diagnosis("the kernel was built without CONFIG_NET_NS", "another kernel"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for UnshareNetwork {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        // SAFETY: of the flags, only CLONE_FILES could take away what other code relies on.
        Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?)
    }
}

/// Puts the thread into a network namespace that is there.
pub struct EnterNamespace<'a> {
    pub namespace: BorrowedFd<'a>,
    /// for print: which one
    pub whose: &'a str,
}

impl fmt::Display for EnterNamespace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::os::fd::AsRawFd;
        write!(f, "setns({}, CLONE_NEWNET)", self.namespace.as_raw_fd())
    }
}

impl Explained for EnterNamespace<'_> {
    fn aim(&self) -> String {
        format!("enter the network namespace of {}", self.whose)
    }
    fn source(&self) -> &'static str {
        "setns(2)"
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EPERM => diagnosis("entering a namespace takes CAP_SYS_ADMIN in it", "run it as root"),
            libc::EINVAL => diagnosis("the file is no namespace: nothing is mounted on it here", "ip netns"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for EnterNamespace<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(rustix::thread::move_into_link_name_space(self.namespace, Some(LinkNameSpaceType::Network))?)
    }
}

/// The marks of mocker-net on /run/netns: which parts of it were made by us and go with the last namespace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mark {
    Directory,
    Mount,
}

impl Mark {
    fn name(self) -> &'static str {
        match self {
            Mark::Directory => "trusted.mocker.directory",
            Mark::Mount => "trusted.mocker.mount",
        }
    }

    /// Notes it on a directory. The directory itself remembers, whichever state directory the tool works with.
    pub fn set(self, path: &Path) -> Result<(), Cause> {
        Ok(rustix::fs::setxattr(path, self.name(), b"1", XattrFlags::empty())?)
    }

    pub fn clear(self, path: &Path) {
        rustix::fs::removexattr(path, self.name()).unwrap_or_default(); // gone already is as good
    }
}

/// The marks that a directory bears.
pub fn marks(path: &Path) -> Vec<Mark> {
    let bears = |mark: &Mark| rustix::fs::getxattr(path, mark.name(), &mut [0u8; 1]).is_ok();
    [Mark::Directory, Mark::Mount].into_iter().filter(bears).collect()
}

/// A directory that says from its first moment that mocker-net made it.
pub struct MakeMarkedDirectory<'a> {
    pub path: &'a Path,
}

impl MakeMarkedDirectory<'_> {
    /// Where it is made before it is renamed into place; what a kill leaves here is used or removed by the next.
    pub fn scratch(&self) -> std::path::PathBuf {
        self.path.with_extension("mocker")
    }
}

impl fmt::Display for MakeMarkedDirectory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, scratch) = (self.path.display(), self.scratch());
        let scratch = scratch.display();
        write!(f, "mkdir(\"{scratch}\", 0755), setxattr(…, \"{}\"), rename(…, \"{path}\")", Mark::Directory.name())
    }
}

impl Explained for MakeMarkedDirectory<'_> {
    fn aim(&self) -> String {
        format!("make directory {}", self.path.display())
    }
    fn source(&self) -> &'static str {
        "mkdir(2), xattr(7), ip-netns(8)"
    }
    fn by_hand(&self) -> String {
        format!("mkdir {}", self.path.display())
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EACCES | libc::EPERM => diagnosis("/run is root's", "run it as root"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for MakeMarkedDirectory<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let scratch = self.scratch();
        std::fs::DirBuilder::new().recursive(true).create(&scratch)?;
        // A file system without trusted attributes: the directory stays behind, empty and harmless.
        Mark::Directory.set(&scratch).unwrap_or_default();
        match rustix::fs::renameat_with(
            rustix::fs::CWD,
            &scratch,
            rustix::fs::CWD,
            self.path,
            rustix::fs::RenameFlags::NOREPLACE,
        ) {
            Ok(()) => Ok(()),
            // Somebody else, ip perhaps, was faster.
            Err(rustix::io::Errno::EXIST) => Ok(std::fs::remove_dir(&scratch)?),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Makes mounts below `path` appear in every mount namespace that has it. False if `path` is no mount point.
pub struct MakeShared<'a> {
    pub path: &'a Path,
}

impl fmt::Display for MakeShared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mount(\"\", \"{}\", \"none\", MS_SHARED|MS_REC)", self.path.display())
    }
}

impl Explained for MakeShared<'_> {
    fn aim(&self) -> String {
        format!("share the mounts below {}", self.path.display())
    }
    fn source(&self) -> &'static str {
        "mount_namespaces(7), Shared subtrees"
    }
    fn by_hand(&self) -> String {
        format!("mount --make-rshared {}", self.path.display())
    }
}

impl KernelCall for MakeShared<'_> {
    type Output = bool;
    fn call(&self) -> Result<bool, Cause> {
        let flags = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
        match rustix::mount::mount_change(self.path, flags) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::INVAL) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Makes one place show what another does.
pub struct BindMount<'a> {
    pub from: &'a Path,
    pub onto: &'a Path,
}

impl fmt::Display for BindMount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mount(\"{}\", \"{}\", \"none\", MS_BIND|MS_REC)", self.from.display(), self.onto.display())
    }
}

impl Explained for BindMount<'_> {
    fn aim(&self) -> String {
        format!("mount {} on {}", self.from.display(), self.onto.display())
    }
    fn source(&self) -> &'static str {
        "mount(2), namespaces(7)"
    }
    fn by_hand(&self) -> String {
        let (from, onto) = (self.from.display(), self.onto.display());
        match self.from.starts_with("/proc") {
            true => format!("unshare --net={onto} true"),
            false => format!("mount --rbind {from} {onto}"),
        }
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EPERM => diagnosis("mounting is root's (CAP_SYS_ADMIN)", "run it as root"),
            libc::ENOSPC => diagnosis("the limit on mounts is reached", "sysctl fs.mount-max; findmnt | wc -l"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for BindMount<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        let flags = MountFlags::BIND | MountFlags::REC;
        Ok(rustix::mount::mount(self.from, self.onto, "none", flags, None::<&std::ffi::CStr>)?)
    }
}

/// A new empty file; one that is there already makes it fail.
pub struct MakeFile<'a> {
    pub path: &'a Path,
}

impl fmt::Display for MakeFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "open(\"{}\", O_RDONLY|O_CREAT|O_EXCL, 0444)", self.path.display())
    }
}

impl Explained for MakeFile<'_> {
    fn aim(&self) -> String {
        format!("make {}", self.path.display())
    }
    fn source(&self) -> &'static str {
        "open(2), ip-netns(8)"
    }
    fn by_hand(&self) -> String {
        format!("(umask 333; set -C; : > {})", self.path.display())
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EEXIST => {
                diagnosis("a network namespace of this name exists, and it is not ours", "ip netns; another --id")
            }
            libc::EACCES => diagnosis("/run/netns is root's", "run it as root"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for MakeFile<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        // std asks for write access where it makes a file; a file of mode 0444 may still be made so.
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o444).open(self.path)?;
        Ok(())
    }
}

/// Takes away the topmost mount, also while it is in use. False if there was none.
pub struct Unmount<'a> {
    pub path: &'a Path,
}

impl fmt::Display for Unmount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "umount2(\"{}\", MNT_DETACH|UMOUNT_NOFOLLOW)", self.path.display())
    }
}

impl Explained for Unmount<'_> {
    fn aim(&self) -> String {
        format!("unmount {}", self.path.display())
    }
    fn source(&self) -> &'static str {
        "umount2(2)"
    }
    fn by_hand(&self) -> String {
        format!("umount -l {}", self.path.display())
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EPERM => diagnosis("unmounting is root's (CAP_SYS_ADMIN)", "run it as root"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for Unmount<'_> {
    type Output = bool;
    fn call(&self) -> Result<bool, Cause> {
        match rustix::mount::unmount(self.path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Removes an empty directory; one that is gone, or in use, is left to others.
pub struct RemoveDirectory<'a> {
    pub path: &'a Path,
}

impl fmt::Display for RemoveDirectory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rmdir(\"{}\")", self.path.display())
    }
}

impl Explained for RemoveDirectory<'_> {
    fn aim(&self) -> String {
        format!("remove {}", self.path.display())
    }
    fn source(&self) -> &'static str {
        "rmdir(2)"
    }
    fn by_hand(&self) -> String {
        format!("rmdir {}", self.path.display())
    }
}

impl KernelCall for RemoveDirectory<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        match rustix::fs::rmdir(self.path) {
            Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTEMPTY) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl RemoveDirectory<'_> {
    /// For what is hardly ever there: no step, and no complaint.
    pub fn remove_quietly(&self) {
        rustix::fs::rmdir(self.path).unwrap_or_default();
    }
}
