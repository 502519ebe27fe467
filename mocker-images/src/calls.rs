//! The calls that `mount` makes beside the overlay's own.

use std::fmt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use mocker_common::step::{Cause, Diagnosis, Explained, KernelCall, diagnosis};

/// mkdir, with exactly this mode: the umask does not apply.
pub struct MakeDirectory<'a> {
    pub path: &'a Path,
    pub mode: u32,
}

impl fmt::Display for MakeDirectory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mkdir(\"{}\", {:#o})", self.path.display(), self.mode)
    }
}

impl Explained for MakeDirectory<'_> {
    fn aim(&self) -> String {
        format!("make directory {}", self.path.display())
    }
    fn source(&self) -> &'static str {
        "mkdir(2)"
    }
    fn by_hand(&self) -> String {
        format!("mkdir -m {:o} {}", self.mode, self.path.display())
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EEXIST => diagnosis(
                "a container of this id has been here, and its owner was killed",
                "mocker-images delete ID, mocker-images prune, or another --id",
            ),
            libc::EACCES | libc::EPERM => {
                diagnosis("the store belongs to another user", "sudo, or your own MOCKER_ROOT")
            }
            libc::ENOSPC => diagnosis("the disk is full, or out of inodes", "df -h; df -i; mocker-images prune"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for MakeDirectory<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        std::fs::DirBuilder::new().mode(self.mode).create(self.path)?;
        Ok(std::fs::set_permissions(self.path, std::fs::Permissions::from_mode(self.mode))?)
    }
}

/// umount2 with MNT_DETACH; what is not mounted is as good as unmounted.
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
            libc::EPERM => diagnosis("unmounting needs the rights that mounting needed", "sudo"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for Unmount<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        use rustix::mount::{UnmountFlags, unmount};
        match unmount(self.path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // Not a mount point, or not there at all.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
            // An ordinary user has nothing mounted here that a plain removal would go through.
            Err(rustix::io::Errno::PERM) if !is_mount_point(self.path) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Whether a directory lies on another device than its parent.
fn is_mount_point(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|metadata| metadata.dev()).ok();
    device(path) != path.parent().and_then(device)
}
