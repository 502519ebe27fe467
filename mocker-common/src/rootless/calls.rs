//! The kernel calls of [`super`].

use std::fmt;
use std::fs;

use nix::sched::CloneFlags;

use crate::step::{Cause, Diagnosis, Explained, KernelCall, diagnosis};

/// unshare(2) of user and mount namespace at once.
pub struct NewUserNamespace;

impl fmt::Display for NewUserNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unshare(CLONE_NEWUSER|CLONE_NEWNS)")
    }
}

impl Explained for NewUserNamespace {
    fn aim(&self) -> String {
        "make a user namespace".into()
    }
    fn source(&self) -> &'static str {
        "unshare(2), user_namespaces(7)"
    }
    fn by_hand(&self) -> String {
        "unshare --user --map-root-user --map-auto --mount".into()
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EPERM => diagnosis(
                "this machine lets no ordinary user make one (kernel.unprivileged_userns_clone=0 on Debian, \
                 kernel.apparmor_restrict_unprivileged_userns=1 on Ubuntu), or the caller sits in a chroot or a container",
                "sysctl -a | grep userns   (or run it as root)",
            ),
            libc::ENOSPC | libc::EUSERS => diagnosis(
                "the limit on user namespaces is reached, or is 0: not the disk",
                "sysctl user.max_user_namespaces",
            ),
            libc::EINVAL => diagnosis("the kernel has no user namespaces (CONFIG_USER_NS)", "ls /proc/self/ns/user"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for NewUserNamespace {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?)
    }
}

/// A write to a file of /proc/self that steers the user namespace.
pub struct WriteMap<'a> {
    pub name: &'static str,
    pub text: &'a str,
}

impl fmt::Display for WriteMap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "write(\"/proc/self/{}\", {:?})", self.name, self.text)
    }
}

impl Explained for WriteMap<'_> {
    fn aim(&self) -> String {
        format!("write {:?} to /proc/self/{}", self.text, self.name)
    }
    fn source(&self) -> &'static str {
        "user_namespaces(7)"
    }
    fn by_hand(&self) -> String {
        format!("echo {} >/proc/PID/{}", self.text, self.name)
    }
}

impl KernelCall for WriteMap<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(fs::write(format!("/proc/self/{}", self.name), self.text)?)
    }
}
