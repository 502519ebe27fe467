//! Settings of the kernel that are files, and files of our own.

use std::fmt;
use std::path::Path;

use mocker_common::step::{Cause, Diagnosis, Explained, KernelCall, diagnosis};

/// Writes a file of /proc/sys.
pub struct WriteSetting<'a> {
    pub path: &'a str,
    pub value: &'a str,
}

impl fmt::Display for WriteSetting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "write(\"{}\", \"{}\")", self.path, self.value)
    }
}

impl Explained for WriteSetting<'_> {
    fn aim(&self) -> String {
        format!("set {} to {}", self.path, self.value)
    }
    fn source(&self) -> &'static str {
        "kernel, Documentation/networking/ip-sysctl.rst"
    }
    fn by_hand(&self) -> String {
        format!("echo {} > {}", self.value, self.path)
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EROFS => diagnosis("/proc/sys is read-only, as in a container", "run it on the host"),
            libc::EPERM | libc::EACCES => {
                diagnosis("settings of the network are root's (CAP_NET_ADMIN)", "run it as root")
            }
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for WriteSetting<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        Ok(std::fs::write(self.path, self.value)?)
    }
}

/// Removes a file; one that is gone already is as good.
pub struct RemoveFile<'a> {
    pub path: &'a Path,
}

impl fmt::Display for RemoveFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unlink(\"{}\")", self.path.display())
    }
}

impl Explained for RemoveFile<'_> {
    fn aim(&self) -> String {
        format!("remove {}", self.path.display())
    }
    fn source(&self) -> &'static str {
        "unlink(2)"
    }
    fn by_hand(&self) -> String {
        format!("rm -f {}", self.path.display())
    }
    fn diagnose(&self, errno: i32) -> Diagnosis {
        match errno {
            libc::EBUSY => diagnosis("it is mounted in another mount namespace (kernels before 3.18)", "try again"),
            _ => Diagnosis::default(),
        }
    }
}

impl KernelCall for RemoveFile<'_> {
    type Output = ();
    fn call(&self) -> Result<(), Cause> {
        match std::fs::remove_file(self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}
